"""Lists in pages, newest first, by opaque keyset cursors over (time, id).

Ours, since all are paged so, in one order: sqlakeyset would take over their queries for these few lines.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Generic, TypeVar

import sqlalchemy as sa
from sqlalchemy.orm import Session

from symadj.service.errors import InvalidParameterError

__all__ = ["CURSOR", "Page", "decode", "encode", "page"]

Row = TypeVar("Row")

# What a cursor looks like, whatever it says.
CURSOR = r"^[A-Za-z0-9_-]+$"


@dataclass(frozen=True)
class Page(Generic[Row]):
    """A page of rows, newest first; ``next_after`` continues it, None: it is the last one."""

    items: Sequence[Row]
    next_after: str | None


def page(session: Session, query: sa.Select[Row], time: Any, *, limit: int, after: str | None) -> Page[Row]:
    """Return the newest rows of a query.

    Args:
        session: of the store.
        query: of one table, without an order.
        time: the column by which that table's rows are new or old; those of one time are in the order of their ids.
        limit: rows, at most.
        after: ``next_after`` of the page before, None: the first page.

    Raises:
        InvalidParameterError: ``after`` is not a cursor.
    """
    place = (time, time.class_.id)
    query = query.order_by(*(column.desc() for column in place)).limit(limit + 1)
    if after is not None:
        query = query.where(sa.tuple_(*place) < sa.tuple_(*decode(after)))
    rows: Sequence[Any] = session.scalars(query).all()
    more, rows = len(rows) > limit, rows[:limit]
    return Page(rows, encode(getattr(rows[-1], time.key), rows[-1].id) if more else None)


def encode(time: datetime, identifier: str) -> str:
    """Return a cursor that points just past the row with this time and id."""
    return base64.urlsafe_b64encode(json.dumps([time.isoformat(), identifier]).encode()).decode().rstrip("=")


def decode(cursor: str) -> tuple[datetime, str]:
    """Return what ``encode`` was given.

    Raises:
        InvalidParameterError: the cursor is not one of ours.
    """
    try:
        raw = base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True)
        time_text, identifier = json.loads(raw)
        time = datetime.fromisoformat(time_text)
        if time.tzinfo is None or re.fullmatch(r"[a-z]{3}-[0-9a-z]{1,60}", identifier) is None:
            raise ValueError(raw)
        time = time.astimezone(UTC)
    except (ValueError, TypeError, OverflowError, RecursionError, binascii.Error) as error:
        raise InvalidParameterError(
            f"after={cursor!r} is not a cursor: pass the `next_after` of the page before, unchanged",
            pointer="after",
        ) from error
    return time, identifier
