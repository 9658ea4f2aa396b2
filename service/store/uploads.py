"""Queries on uploads, and on who names them."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import sqlalchemy as sa
from sqlalchemy.orm import Session

from symadj.service.contract.states import TERMINAL, SweepState
from symadj.service.errors import NotFoundError
from symadj.service.store import cursors
from symadj.service.store.cursors import Page
from symadj.service.store.tables import Job, Sweep, Upload

__all__ = [
    "add",
    "delete",
    "find_all",
    "find_locked",
    "get",
    "lock",
    "named_by",
    "page",
    "same_as",
]


def add(session: Session, upload: Upload) -> None:
    """Store a new upload.

    Raises:
        IntegrityError: another request has stored the same content of this owner.
    """
    session.add(upload)
    session.flush()


def get(session: Session, upload_id: str) -> Upload:
    """Return an upload.

    Raises:
        NotFoundError: there is none of this id.
    """
    upload = session.get(Upload, upload_id)
    if upload is None:
        raise _unknown(upload_id)
    return upload


def find_locked(session: Session, upload_id: str) -> Upload | None:
    """Return an upload as ``lock`` does, or None."""
    return session.get(Upload, upload_id, with_for_update=True, populate_existing=True)


def lock(session: Session, upload_id: str) -> Upload:
    """Return an upload and hold its row until the session commits: nobody names it meanwhile.

    Raises:
        NotFoundError: there is none of this id.
    """
    upload = find_locked(session, upload_id)
    if upload is None:
        raise _unknown(upload_id)
    return upload


def _unknown(upload_id: str) -> NotFoundError:
    return NotFoundError(f"there is no upload {upload_id!r}")


def find_all(session: Session, upload_ids: Collection[str], *, keep: bool = False) -> Sequence[Upload]:
    """Return those of the uploads that are there; with ``keep``, none of them goes before the session commits."""
    if not upload_ids:
        return []
    query = sa.select(Upload).where(Upload.id.in_(upload_ids))
    return session.scalars(query.with_for_update(read=True) if keep else query).all()


def same_as(session: Session, upload: Upload) -> Upload | None:
    """Return the owner's upload of the same content, or None; it does not go before the session commits."""
    query = sa.select(Upload).where(
        Upload.owner == upload.owner, Upload.sha256 == upload.sha256, Upload.format == upload.format
    )
    return session.scalars(query.with_for_update(read=True)).one_or_none()


def page(session: Session, *, owner: str | None = None, limit: int, after: str | None = None) -> Page[Upload]:
    """Return the uploads of an owner (None: of all), newest first."""
    query = sa.select(Upload)
    if owner is not None:
        query = query.where(Upload.owner == owner)
    return cursors.page(session, query, Upload.created_at, limit=limit, after=after)


def named_by(session: Session, upload: Upload) -> Sequence[str]:
    """Return the ids of the owner's jobs and sweeps that have not ended and name an upload, the oldest first."""
    found: list[str] = []
    for table, ended in ((Job, TERMINAL), (Sweep, set(SweepState) - {SweepState.RUNNING})):
        # A path begins with the id, wherever in a spec it stands; that of a sweep may be a value of a parameter.
        names = sa.cast(table.spec, sa.Text).contains(f'"{upload.id}/')
        query = sa.select(table.id).where(table.owner == upload.owner, table.state.not_in(ended), names)
        found += session.scalars(query.order_by(table.created_at, table.id))
    return found


def delete(session: Session, upload: Upload) -> None:
    """Delete an upload."""
    session.delete(upload)
