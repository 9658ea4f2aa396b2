"""Opaque keyset cursors over (time, id).

Ours, since few lists are paged so, in one order: sqlakeyset would take over its query for these two functions.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
from datetime import UTC, datetime

from symadj.service.errors import InvalidParameterError

__all__ = ["CURSOR", "decode", "encode"]

# What a cursor looks like, whatever it says.
CURSOR = r"^[A-Za-z0-9_-]+$"


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
