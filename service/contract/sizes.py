"""Numbers of bytes, for people."""

from __future__ import annotations

__all__ = ["readable"]


def readable(size: int) -> str:
    """Return a number of bytes for a message."""
    # Four digits, where pydantic's ByteSize gives one: two sizes may differ by little.
    return f"{size / 2**30:.4g} GiB" if size >= 2**30 else f"{size / 2**20:.4g} MiB"
