"""Identifiers that sort by the time of their making.

Like ULIDs, and shorter, so that people can read them out: python-ulid makes those of 26 characters alone.
"""

from __future__ import annotations

import secrets
import time
from datetime import UTC, datetime

__all__ = [
    "made_at",
    "new_audit_id",
    "new_comparison_id",
    "new_delivery_id",
    "new_job_id",
    "new_sweep_id",
    "new_upload_id",
    "new_webhook_id",
]

_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"  # Crockford's base 32: no i, l, o, u


def _base32(number: int, digits: int) -> str:
    out = ""
    for _ in range(digits):
        number, remainder = divmod(number, 32)
        out = _ALPHABET[remainder] + out
    return out


def new_job_id() -> str:
    """Return ``job-`` + 10 digits of milliseconds + 6 random digits; valid as a Ray submission id and file name."""
    return f"job-{_new()}"


def new_comparison_id() -> str:
    """Return ``cmp-`` + the same digits."""
    return f"cmp-{_new()}"


def new_audit_id() -> str:
    """Return ``aud-`` + the same digits."""
    return f"aud-{_new()}"


def new_sweep_id() -> str:
    """Return ``swp-`` + the same digits."""
    return f"swp-{_new()}"


def new_upload_id() -> str:
    """Return ``upl-`` + the same digits; :mod:`.contract.layout` knows them by that."""
    return f"upl-{_new()}"


def new_webhook_id() -> str:
    """Return ``whk-`` + the same digits."""
    return f"whk-{_new()}"


def new_delivery_id() -> str:
    """Return ``dlv-`` + the same digits."""
    return f"dlv-{_new()}"


def made_at(identifier: str) -> datetime:
    """Return when an id was made, by the clock of its machine.

    Raises:
        ValueError: it is none of ours.
    """
    digits = identifier.partition("-")[2][:10]
    milliseconds = sum(_ALPHABET.index(digit) * 32**place for place, digit in enumerate(reversed(digits)))
    return datetime.fromtimestamp(milliseconds / 1000, UTC)


def _new() -> str:
    return f"{_base32(time.time_ns() // 1_000_000, 10)}{_base32(secrets.randbits(30), 6)}"
