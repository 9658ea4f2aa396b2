"""The command line in this process: a process of its own costs a second, most of it for what it imports."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from collections.abc import Mapping
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import pytest

from symadj.api.cli.main import main
from tests.conftest import ApiServer

__all__ = ["SYMADJ", "run_symadj", "symadj"]

# For the tests of what only a process has: signals, an end while it prints, what it imports.
SYMADJ = Path(sys.executable).with_name("symadj")


def symadj(server: ApiServer, *words: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
    """Run ``symadj`` with these words against a server."""
    return run_symadj(*words, environment={"SYMADJ_URL": server.url}, stdin=stdin)


def run_symadj(
    *words: str, environment: Mapping[str, str] | None = None, folder: Path | None = None, stdin: str = ""
) -> subprocess.CompletedProcess[str]:
    """Run ``symadj`` with these words, in a folder, with an environment of these SYMADJ_ variables and no others."""
    out, errors = (io.TextIOWrapper(io.BytesIO(), "utf-8", newline="", write_through=True) for _ in range(2))
    with pytest.MonkeyPatch.context() as world, redirect_stdout(out), redirect_stderr(errors):
        for name in [name for name in os.environ if name.startswith("SYMADJ_")]:
            world.delenv(name)
        for name, value in (environment or {}).items():
            world.setenv(name, value)
        if folder is not None:
            world.chdir(folder)
        world.setattr(sys, "argv", ["symadj", *words])
        world.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin.encode()), "utf-8"))
        try:
            main()
            status = 0
        except SystemExit as end:
            status = end.code if isinstance(end.code, int) else int(end.code is not None)
    return subprocess.CompletedProcess(
        ["symadj", *words], status, *(stream.buffer.getvalue().decode() for stream in (out, errors))
    )
