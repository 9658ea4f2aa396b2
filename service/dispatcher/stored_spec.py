"""The spec of a job as the store has it."""

from __future__ import annotations

import logging

from pydantic import ValidationError

from symadj.service.contract.spec import JobSpec
from symadj.service.store.tables import Job

__all__ = ["stored_spec"]

log = logging.getLogger("symadj.dispatcher")


def stored_spec(job: Job) -> JobSpec | None:
    """Return a stored job's spec, None if this version can't read it: that is this job's trouble, not the queue's."""
    try:
        return JobSpec.model_validate(job.spec)
    except ValidationError:
        log.exception("%s: its stored spec can't be read", job.id)
        return None
