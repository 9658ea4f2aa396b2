"""How processes of ours are started on Ray's nodes: by which Python, with what in their environment."""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping

from symadj.service.settings import Settings

__all__ = ["environment", "python"]

_BUCKETS_ARE_AT = ("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "AWS_REGION", "AWS_DEFAULT_REGION")


def python(settings: Settings) -> str:
    """Return the shell command of the interpreter, which may be a copy of one that has imported their libraries."""
    command = [settings.worker_python]
    if settings.warm_runs and settings.warm_socket is not None:
        command += ["-m", "symadj.workers.warm.interpreter", str(settings.warm_socket)]
    return shlex.join(command)


def environment(variables: Mapping[str, str]) -> dict[str, str]:
    """Return what a process has in its environment besides ``variables`` and what its node gives to all."""
    return {
        **variables,
        # A folder of the user's named `symadj` must not be taken for ours.
        "PYTHONSAFEPATH": "1",
        # Where buckets are. Who may read them, the nodes know: Ray logs what it puts into a job's environment.
        **{name: os.environ[name] for name in _BUCKETS_ARE_AT if os.environ.get(name)},
    }
