"""The token of a run of a job, in the store of some version of symadj: `python claimed_job.py URL JOB`.

It is run in that version's own folder: the first versions' packages had no name before theirs.
"""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any


def module(name: str) -> Any:
    """Import a module of that version's service."""
    return importlib.import_module(f"symadj.service.{name}" if Path("symadj").exists() else f"service.{name}")


def main() -> None:
    """Claim the job, and print the token."""
    url, job_id = sys.argv[1:]
    with module("store").Database(url).session() as session:
        job = module("store.jobs").lock(session, job_id)
        print(module("lifecycle.attempts").claim(session, job, actor="bench", lease_seconds=1e9).token)


if __name__ == "__main__":
    main()
