"""Queries on API keys."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

import sqlalchemy as sa
from sqlalchemy.orm import Session

from symadj.service.errors import NotFoundError
from symadj.service.store.tables import ApiKey

__all__ = ["add", "every", "find", "get", "lock", "note_use", "usable"]

_KEYS_LOCK = 0x73796D6B657973  # any number of our own, for PostgreSQL's advisory lock


def add(session: Session, key: ApiKey) -> None:
    """Store a new key."""
    session.add(key)
    session.flush()


def find(session: Session, key_id: str) -> ApiKey | None:
    """Return a key by its public part, or None."""
    return session.get(ApiKey, key_id)


def get(session: Session, key_id: str) -> ApiKey:
    """Return a key by its public part, its row held until the session commits.

    Raises:
        NotFoundError: there is none.
    """
    key = session.get(ApiKey, key_id, with_for_update=True)
    if key is None:
        raise NotFoundError(f"there is no key {key_id!r}")
    return key


def every(session: Session) -> Sequence[ApiKey]:
    """Return all keys, the newest first, revoked and expired ones too."""
    return session.scalars(sa.select(ApiKey).order_by(ApiKey.created_at.desc(), ApiKey.id)).all()


def usable(session: Session, role: str, now: datetime) -> bool:
    """Return whether a key of this role is neither revoked nor expired."""
    query = sa.select(ApiKey.id).where(
        ApiKey.role == role,
        ApiKey.revoked_at.is_(None),
        sa.or_(ApiKey.expires_at.is_(None), ApiKey.expires_at > now),
    )
    return session.execute(query.limit(1)).first() is not None


def note_use(session: Session, key_id: str, now: datetime) -> None:
    """Store that a key was used now."""
    session.execute(sa.update(ApiKey).where(ApiKey.id == key_id).values(last_used_at=now))


def lock(session: Session) -> None:
    """Keep others from making the first key until the session commits; on SQLite a writing session is alone anyway."""
    if session.get_bind().dialect.name == "postgresql":
        session.execute(sa.select(sa.func.pg_advisory_xact_lock(_KEYS_LOCK)))
