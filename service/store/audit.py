"""Queries on the audit log."""

from __future__ import annotations

from datetime import datetime

import sqlalchemy as sa
from sqlalchemy.orm import Session

from symadj.service.store import cursors
from symadj.service.store.cursors import Page
from symadj.service.store.tables import AuditEntry

__all__ = ["delete_before", "page"]


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
) -> Page[AuditEntry]:
    """Return entries, newest first: of one name, of one route, about one id, with one status, from a time to another.

    ``about`` is the id in the path, the id of what was made, or the id of the request. ``since`` is included, ``until``
    is not.
    """
    query = sa.select(AuditEntry)
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
    return cursors.page(session, query, AuditEntry.time, limit=limit, after=after)


def delete_before(session: Session, time: datetime, *, most: int) -> int:
    """Delete at most so many of the entries before a time; return how many they were."""
    oldest = sa.select(AuditEntry.id).where(AuditEntry.time < time).order_by(AuditEntry.time).limit(most)
    ids = session.scalars(oldest).all()
    session.execute(sa.delete(AuditEntry).where(AuditEntry.id.in_(ids)))
    return len(ids)
