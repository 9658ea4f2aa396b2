"""Where the files of jobs lie: a folder that all nodes share, or a bucket by its URL (``s3://bucket/prefix``).

What fsspec knows beside s3 is taken as well, if it is a store of objects, of which each has all of its bytes or is not
there. The service and the runs both import this. fsspec, and what it needs for a protocol, are loaded for URLs alone.
"""

from __future__ import annotations

from symadj.service.contract.storage.bucket import Bucket
from symadj.service.contract.storage.folder import Folder, found_below
from symadj.service.contract.storage.places import file_name, is_url, split_places
from symadj.service.contract.storage.storage import (
    HALF_MADE,
    Making,
    Storage,
    StorageError,
    StorageUnreachableError,
    StorageUnusableError,
)

__all__ = [
    "HALF_MADE",
    "Bucket",
    "Folder",
    "Making",
    "Storage",
    "StorageError",
    "StorageUnreachableError",
    "StorageUnusableError",
    "found_below",
    "is_url",
    "open_storage",
    "split_places",
]


def open_storage(place: str) -> Folder | Bucket:
    """Return the storage at ``place``, the path of a folder or a URL. Nothing is asked of it yet.

    Raises:
        StorageUnusableError: the URL's protocol is not known, its library is missing, or the URL has a password in it.
    """
    if not is_url(place):
        return Folder(place)
    path = file_name(place)
    return Bucket(place) if path is None else Folder(path)
