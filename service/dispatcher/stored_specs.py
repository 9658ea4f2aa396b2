"""The specs of jobs as the store has them."""

from __future__ import annotations

import logging

from pydantic import ValidationError

from symadj.service.contract.spec import AnySpec, spec_of_stored
from symadj.service.store.tables import Job

__all__ = ["StoredSpecs"]

log = logging.getLogger("symadj.dispatcher")

# More than a cluster runs at once.
_MOST = 4096


class StoredSpecs:
    """Reads each job's spec once, as it never changes, and says once of a spec that it can't be read."""

    def __init__(self) -> None:
        self._read: dict[str, AnySpec | None] = {}

    def of(self, job: Job) -> AnySpec | None:
        """Return a job's spec, None if this version can't read it: that is this job's trouble, not the queue's."""
        if job.id not in self._read:
            if len(self._read) >= _MOST:
                self._read.clear()
            try:
                self._read[job.id] = spec_of_stored(job.spec)
            except ValidationError:
                log.exception("%s: its stored spec can't be read", job.id)
                self._read[job.id] = None
        return self._read[job.id]
