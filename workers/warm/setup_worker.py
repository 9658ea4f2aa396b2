"""What a Ray node starts before each of its processes, in place of Ray's own script of this name.

Ray's sets the environment of a process and becomes its Python. To do so it imports Ray, which takes half a second, and
goes by way of bash. Where that Python is ``interpreter.py``, this asks the template at once. All else is left to Ray's.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import runpy
import shlex
import sys
from typing import Any

from symadj.workers.warm import interpreter

__all__ = ["main"]

_INTERPRETER = ["-m", interpreter.__name__]


def main() -> None:
    """Run the process that the command line names, in the environment that it describes."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--serialized-runtime-env-context", default="{}")
    parser.add_argument("--language")
    options, arguments = parser.parse_known_args()
    context: dict[str, Any] = json.loads(options.serialized_runtime_env_context)
    python, *more = shlex.split(context.pop("py_executable", None) or sys.executable)
    variables = context.pop("env_vars", None) or {}
    # Whatever else Ray would do for this process, it knows how.
    if more[:-1] != _INTERPRETER or options.language != "PYTHON" or any(context.values()):
        runpy.run_module("ray._private.workers.setup_worker", run_name="__main__", alter_sys=True)
        return
    for name, value in variables.items():
        # As Ray's `update_envs`: with the values of others, and nothing in place of those that there are not.
        os.environ[name] = re.sub(r"\$\{[A-Z0-9_]+\}", "", os.path.expandvars(value))
    interpreter.run(python, more[-1], arguments)


if __name__ == "__main__":
    main()
