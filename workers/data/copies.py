"""Copies, on this node, of files that lie in buckets.

fsspec's own caches know a file by its name, and write the copy under its final name while it is still coming in. Here
another object of the same name gets another copy, and a copy appears whole, whichever of a node's ranks fetches it.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from symadj.service.contract.storage import Bucket
from symadj.workers.data.errors import DataError

__all__ = ["fetch"]

_CACHE_SETTING = "SYMADJ_DATA_CACHE"
_TRIES = 3


def fetch(bucket: Bucket, path: str, name: str, cache: Path | None) -> Path:
    """Return a copy of an object, which is fetched unless this node has one of it as it is now.

    Args:
        bucket: that has it.
        path: of the object there.
        name: what the user calls it.
        cache: folder for copies; None is one of this user's in the system's temporary folder.

    Raises:
        DataError: it is replaced again and again, or no folder can take copies.
        OSError: the bucket can't be read or does not answer, or the disk is full.
    """
    folder = _folder(name, cache)
    for _ in range(_TRIES):
        size, version = bucket.stamp(path)
        copy = folder / hashlib.sha256(f"{bucket.name(path)}\0{version}".encode()).hexdigest()
        with _alone(copy):
            # The size is looked at, as a machine that lost its power may have kept the name alone.
            if copy.exists() and copy.stat().st_size == size:
                return copy
            incoming = copy.with_suffix(".incoming")
            try:
                bucket.fetch(path, incoming)
                if bucket.stamp(path) == (size, version):
                    os.replace(incoming, copy)
                    return copy
            finally:
                incoming.unlink(missing_ok=True)
    raise DataError(
        f"{name} ({bucket.name(path)}) is replaced again and again: leave it alone until it was read", file=name
    )


@contextmanager
def _alone(copy: Path) -> Iterator[None]:
    """Hold a lock that no other process of this node holds; its death gives it back."""
    with copy.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _folder(name: str, cache: Path | None) -> Path:
    folder = cache or Path(tempfile.gettempdir(), f"symadj-data-{os.getuid()}")
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        # In the temporary folder somebody else could have made it, and would own what is trained on.
        foreign = cache is None and folder.stat().st_uid != os.getuid()
    except OSError as error:
        raise DataError(
            f"{name} lies in a bucket, and {folder} can't take a copy of it ({error}): set {_CACHE_SETTING}", file=name
        ) from error
    if foreign:
        raise DataError(
            f"{name} lies in a bucket, and {folder}, for copies, is another user's: set {_CACHE_SETTING}", file=name
        )
    return folder
