"""Many jobs in the queue, in the store of some version of symadj: `python many_jobs.py URL COUNT`, in its folder."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

AT_ONCE = 500


def main() -> None:
    """Submit them as that version's API does, but many in one transaction."""
    url, count = sys.argv[1], int(sys.argv[2])
    is_named = Path("symadj").exists()  # the first versions' packages had no name before theirs
    prefix = "symadj.service" if is_named else "service"
    submit = importlib.import_module(f"{prefix}.lifecycle.requests" if is_named else f"{prefix}.lifecycle").submit
    spec_of = importlib.import_module(f"{prefix}.contract.spec" if is_named else f"{prefix}.spec").JobSpec
    spec = spec_of.model_validate({"data": {"kind": "toy", "name": "moons"}})
    database = importlib.import_module(f"{prefix}.store").Database(url)
    for start in range(0, count, AT_ONCE):
        with database.session() as session:
            for _ in range(min(AT_ONCE, count - start)):
                submit(session, spec, owner="local")


if __name__ == "__main__":
    main()
