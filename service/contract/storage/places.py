"""Folders and URLs, distinguished by how they are written."""

from __future__ import annotations

import os
import re
from urllib.parse import unquote, urlsplit

__all__ = ["file_name", "is_url", "split_places"]

_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
# A colon separates, as in PATH, and also stands behind a protocol.
_PLACE = re.compile(rf"((?:{_URL.pattern})?[^{re.escape(os.pathsep)}]*)(?:{re.escape(os.pathsep)}|$)")


def is_url(place: str) -> bool:
    """Return whether ``place`` is a URL rather than the path of a folder."""
    return _URL.match(place) is not None


def file_name(url: str) -> str | None:
    """Return the path that a ``file://`` URL names, None for other URLs."""
    parts = urlsplit(url)
    return unquote(parts.path) if parts.scheme.lower() == "file" else None


def split_places(places: str) -> list[str]:
    """Return the folders and URLs of a list that is separated as ``PATH`` is."""
    return [place for place in _PLACE.findall(places) if place]
