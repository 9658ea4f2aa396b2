"""Queries on the audit log."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

import sqlalchemy as sa
from sqlalchemy.orm import Session

from symadj.service.store import cursors
from symadj.service.store.tables import AuditEntry

__all__ = ["AuditPage", "delete_before", "page"]


@dataclass(frozen=True)
class AuditPage:
    """A page of entries, newest first; ``next_after`` continues it."""

    entries: Sequence[AuditEntry]
    next_after: str | None


def page(
    session: Session,
    *,
    who: str | None = None,
    route: str | None = None,
    about: str | None = None,
    status: int | None = None,
    since: datetime | None = None,
    until: datetime | None = None,
    limit: int,
    after: str | None = None,
) -> AuditPage:
    """Return entries, newest first: of one name, of one route, about one id, with one status, from a time to another.

    ``about`` is the id in the path, the id of what was made, or the id of the request. ``since`` is included, ``until``
    is not.
    """
    query = sa.select(AuditEntry).order_by(AuditEntry.time.desc(), AuditEntry.id.desc()).limit(limit + 1)
    if who is not None:
        query = query.where(AuditEntry.who == who)
    if route is not None:
        query = query.where(AuditEntry.route == route)
    if about is not None:
        ids = (AuditEntry.target, AuditEntry.made, AuditEntry.request_id)
        query = query.where(sa.or_(*(column == about for column in ids)))
    if status is not None:
        query = query.where(AuditEntry.status == status)
    if since is not None:
        query = query.where(AuditEntry.time >= since)
    if until is not None:
        query = query.where(AuditEntry.time < until)
    if after is not None:
        time, entry_id = cursors.decode(after)
        query = query.where(sa.tuple_(AuditEntry.time, AuditEntry.id) < sa.tuple_(time, entry_id))
    rows = session.scalars(query).all()
    more = len(rows) > limit
    rows = rows[:limit]
    return AuditPage(rows, cursors.encode(rows[-1].time, rows[-1].id) if more else None)


def delete_before(session: Session, time: datetime, *, most: int) -> int:
    """Delete at most so many of the entries before a time; return how many they were."""
    oldest = sa.select(AuditEntry.id).where(AuditEntry.time < time).order_by(AuditEntry.time).limit(most)
    ids = session.scalars(oldest).all()
    session.execute(sa.delete(AuditEntry).where(AuditEntry.id.in_(ids)))
    return len(ids)
