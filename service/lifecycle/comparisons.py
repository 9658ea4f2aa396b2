"""Comparisons of gradients: jobs that share a label."""

from __future__ import annotations

from sqlalchemy.orm import Session

from symadj.service.contract.spec import TRAINING, kind_of
from symadj.service.contract.spec.comparison import COMPARISON, MOST_GRADIENTS, ComparisonRequest
from symadj.service.contract.storage import Storage
from symadj.service.errors import IdempotencyMismatchError, NotFoundError
from symadj.service.identifiers import new_comparison_id
from symadj.service.lifecycle import parents, requests
from symadj.service.lifecycle.idempotency import id_under_key
from symadj.service.store import jobs
from symadj.service.store.tables import Job

__all__ = ["jobs_of", "submit"]


def submit(
    session: Session,
    request: ComparisonRequest,
    *,
    owner: str,
    storage: Storage,
    idempotency_key: str | None = None,
    max_queued: int | None = None,
    max_bytes: int | None = None,
) -> tuple[str, bool]:
    """Put all jobs of a comparison into the queue, or none; return its id, and whether it is new.

    Under an ``idempotency_key`` that this owner used before for the same comparison, it is that one.

    Raises:
        IdempotencyMismatchError, TooManyRequestsError, NoRoomError, InvalidSpecError: as for a job by itself.
    """
    comparison = new_comparison_id()
    if idempotency_key is not None:
        comparison = f"{comparison.partition('-')[0]}-{id_under_key(owner, idempotency_key)}"
    made = []
    for number, gradient in enumerate(request.chosen):
        job, created = requests.submit(
            session,
            request.job(gradient, comparison),
            owner=owner,
            idempotency_key=None if idempotency_key is None else f"{comparison}/{number}",
            max_queued=max_queued,
            max_bytes=max_bytes,
        )
        if created:
            parents.adopt_checkpoint(job, storage)
        made.append(created)
    more = None if idempotency_key is None else jobs.idempotency_key(session, owner, f"{comparison}/{len(made)}")
    if more is not None or len(set(made)) > 1:
        raise IdempotencyMismatchError(
            f"Idempotency-Key {idempotency_key!r} was used for comparison {comparison!r} with other gradients: repeat "
            "the same request, or take a new key"
        )
    return comparison, made[0]


def jobs_of(session: Session, comparison: str, *, owner: str | None) -> list[Job]:
    """Return the jobs of a comparison that are left, in the order in which they were asked for.

    Args:
        comparison: its id.
        owner: only this one's; None: anybody's.

    Raises:
        NotFoundError: there are none.
    """
    page = jobs.page(session, labels=[(COMPARISON, comparison)], owner=owner, limit=MOST_GRADIENTS)
    # Whoever writes the label by hand may give it to any job.
    found = [job for job in reversed(page.items) if kind_of(job.spec) == TRAINING]
    if not found:
        raise NotFoundError(f"there is no comparison {comparison!r}, or its jobs were deleted")
    return found
