"""A Python that has imported a run's libraries already: ``python -m symadj.workers.warm.interpreter SOCKET -m ...``.

It asks the template at ``SOCKET`` (``template.py``) for a copy that runs the rest of the command line with this
process's environment, folder and files, passes signals on to it, and ends as it does. Where no template answers, it
becomes a Python that runs the same.
"""

from __future__ import annotations

import array
import contextlib
import json
import os
import resource
import signal
import socket
import sys
from pathlib import Path
from types import FrameType
from typing import NoReturn

__all__ = ["main", "run"]

# For a template that is there to answer; it is busy for moments only.
_ANSWER_S = 10.0
_PASSED_ON = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2)


def main() -> None:
    """Run the command line that follows the socket's place."""
    place, *arguments = sys.argv[1:]
    run(sys.executable, place, arguments)


def run(python: str, place: str, arguments: list[str]) -> NoReturn:
    """Run a command line of Python's by the template at ``place``, or by ``python``, and end as it does."""
    status = _run_copy(place, arguments)
    if status is None:
        os.execvp(python, [python, *arguments])
    if status < 0:
        # As the copy ended: Ray tells a run's driver that was killed from one that failed.
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        if -status != signal.SIGKILL:
            signal.signal(-status, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {-status})
        os.kill(os.getpid(), -status)
    sys.exit(status)


def _run_copy(place: str, arguments: list[str]) -> int | None:
    """Return the status with which a copy has ended, negative for a signal; None where there is none."""
    if not arguments or (arguments[0].startswith("-") and arguments[0] != "-m"):
        return None  # an option for the interpreter itself
    template = socket.socket(socket.AF_UNIX)
    template.settimeout(_ANSWER_S)
    try:
        template.connect(place)
        files = array.array("i", (0, 1, 2))
        template.sendmsg([_request(arguments)], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, files)])
        answers = template.makefile("r")
        first = answers.readline()
    except OSError:
        template.close()
        return None
    if not first.startswith("copy "):
        return None  # it ended before it was one, and has run nothing
    pid = int(first.removeprefix("copy "))

    def pass_on(number: int, _frame: FrameType | None) -> None:
        with contextlib.suppress(ProcessLookupError):  # it has just ended, and how is on its way
            os.kill(pid, number)

    for number in _PASSED_ON:
        signal.signal(number, pass_on)
    template.settimeout(None)
    last = answers.readline()
    # Where the template was killed before the copy ended, how that ended is not known.
    return int(last.removeprefix("status ")) if last else 1


def _request(arguments: list[str]) -> bytes:
    """Return what the copy is to take from this process, a line of JSON."""
    umask = os.umask(0o077)
    os.umask(umask)
    try:
        oom_score_adj = int(Path("/proc/self/oom_score_adj").read_text())
    except OSError:
        oom_score_adj = 0
    request = {
        "arguments": arguments,
        "environment": dict(os.environ),
        "folder": os.getcwd(),
        "umask": umask,
        "blocked": [int(number) for number in signal.pthread_sigmask(signal.SIG_BLOCK, ())],
        "limits": {
            name: resource.getrlimit(getattr(resource, name)) for name in dir(resource) if name.startswith("RLIMIT_")
        },
        "niceness": os.getpriority(os.PRIO_PROCESS, 0),
        "oom_score_adj": oom_score_adj,
    }
    return json.dumps(request).encode() + b"\n"


if __name__ == "__main__":
    main()
