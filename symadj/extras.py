"""How an extra of symadj is installed."""

from __future__ import annotations

__all__ = ["how_to_install"]


def how_to_install(extra: str) -> str:
    """Return what to do for an extra of ``pyproject.toml``, "" for symadj without extras; it is on no package index."""
    what = f"'.[{extra}]'" if extra else "."
    return f"`pip install {what}` in a checkout of symadj"
