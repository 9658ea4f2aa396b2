"""The ``symadj`` command: the command line where the extra ``service`` is installed, else a hint to it."""

from __future__ import annotations

import sys

from symadj.extras import how_to_install

__all__ = ["main"]


def main() -> None:
    """Run the command line, or say which extra is missing.

    Raises:
        ModuleNotFoundError: symadj's own module is missing: a fault of the installation.
    """
    try:
        from symadj.api.cli.main import main as command_line
    except ModuleNotFoundError as error:
        if error.name is None or error.name.split(".")[0] == "symadj":
            raise
        sys.exit(
            f"symadj: the command needs the package {error.name}, which is not installed; the bare `symadj` is the "
            f"library symadj_core alone. For the client and the service: {how_to_install('service')}; on machines that "
            f"train: {how_to_install('service,train')}."
        )
    command_line()
