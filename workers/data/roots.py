"""Where the files of a spec may lie."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from symadj.service.contract.storage import Bucket, StorageError, StorageUnreachable, open_storage, split_places
from symadj.workers.data.copies import fetch
from symadj.workers.data.errors import DataError
from symadj.workers.data.formats.raw import InputFile

__all__ = ["InBucket", "data_roots", "find_file", "names_below", "resolve"]

ROOTS_VARIABLE = "SYMADJ_DATA_ROOTS"
DATA_VARIABLE = "SYMADJ_DATA"
# Where Debian's packages of data sets (dataset-fashion-mnist) put them.
_SYSTEM_ROOT = "/usr/share/datasets"


@dataclass(frozen=True)
class InBucket:
    """A file or folder in a bucket: its path from the data root that the bucket is."""

    bucket: Bucket
    path: str
    is_folder: bool


def data_roots() -> tuple[Path | Bucket, ...]:
    """Return the folders and places in buckets that files are taken from, and from nowhere else.

    ``SYMADJ_DATA_ROOTS`` names them, separated as in ``PATH``. Without it they are ``datasets`` in the service's data
    folder and the system's data sets.

    Raises:
        DataError: a URL can't be used here.
    """
    named = os.environ.get(ROOTS_VARIABLE)
    if named is None:
        return (Path(os.environ.get(DATA_VARIABLE, "symadj-data")) / "datasets", Path(_SYSTEM_ROOT))
    try:
        return tuple(_root(place) for place in split_places(named))
    except StorageError as error:
        raise DataError(f"{ROOTS_VARIABLE} names what this node can't use: {error}") from error


def _root(place: str) -> Path | Bucket:
    storage = open_storage(place)
    return storage if isinstance(storage, Bucket) else storage.root


def resolve(path: str) -> Path | InBucket:
    """Return the file or folder that a spec names by ``path``: the first that exists below a data root.

    Links are followed first, so that neither ``..`` nor a link leads out of the roots.

    Raises:
        DataError: there is no such file below a root, or a root can't be read.
        StorageUnreachable: a bucket does not answer.
    """
    roots = data_roots()
    folders = [root.resolve() for root in roots if isinstance(root, Path)]
    for root in roots:
        if isinstance(root, Bucket):
            found: Path | InBucket | None = _in_bucket(root, path)
        else:
            found = _in_folder(root.resolve(), path, folders)
        if found is not None:
            return found
    allowed = ", ".join(root.location if isinstance(root, Bucket) else str(root.resolve()) for root in roots)
    raise DataError(
        f"{path} is not there below a data root ({allowed or 'none is set'}): put it there, or add its folder or URL "
        f"to {ROOTS_VARIABLE} where the service is started",
        file=path,
    )


def _in_folder(root: Path, path: str, allowed: Sequence[Path]) -> Path | None:
    try:
        # An absolute path replaces the root, and must lie in one all the same.
        found = (root / path).resolve()
        inside = any(found.is_relative_to(folder) for folder in allowed)
        return found if inside and found.exists() else None
    except (OSError, ValueError, RuntimeError):  # too long a name, no permission, a link to itself
        return None


def _in_bucket(root: Bucket, path: str) -> InBucket | None:
    parts = PurePosixPath(path)
    if parts.is_absolute() or ".." in parts.parts:
        return None
    below = "" if parts == PurePosixPath() else str(parts)
    try:
        root.stamp(below)
    except FileNotFoundError:
        return None
    except IsADirectoryError:
        return InBucket(root, below, is_folder=True)
    except StorageUnreachable:
        raise
    except StorageError as error:
        raise DataError(
            f"{path} can't be looked for in the data root {root.location} ({error}): see to its credentials, or take "
            f"it out of {ROOTS_VARIABLE} where the service is started",
            file=path,
        ) from error
    return InBucket(root, below, is_folder=False)


def find_file(name: str) -> InputFile:
    """Return the file that a spec calls ``name``; of one in a bucket, a copy on this node.

    Raises:
        DataError: it is missing, or is a folder or a pipe, or can't be fetched.
        StorageUnreachable: a bucket does not answer.
    """
    found = resolve(name)
    if found.is_folder if isinstance(found, InBucket) else found.is_dir():
        raise DataError(
            f"{name} is a folder, a file is expected (data.kind parquet_stream reads folders of parquet files)",
            file=name,
        )
    if isinstance(found, InBucket):
        try:
            return InputFile(fetch(found.bucket, found.path, name), name)
        except StorageUnreachable:
            raise
        except OSError as error:
            raise DataError(f"{name} can't be fetched to this node: {error}", file=name) from error
    if not found.is_file():  # opening a pipe would wait for ever
        raise DataError(f"{name} is no regular file", file=name)
    return InputFile(found, name)


def names_below(path: str, ending: str) -> list[PurePosixPath] | None:
    """Return the files in a folder, and in those below it, whose names end so; None where ``path`` is a file.

    Raises:
        DataError: there is no such folder.
        StorageUnreachable: a bucket does not answer.
    """
    found = resolve(path)
    if isinstance(found, InBucket):
        if not found.is_folder:
            return None
        return sorted(PurePosixPath(name) for name in found.bucket.all_below(found.path) if name.endswith(ending))
    if not found.is_dir():
        return None
    # Some programs write folders whose names end so.
    files = (file for file in found.rglob(f"*{ending}") if not file.is_dir())
    return sorted(PurePosixPath(file.relative_to(found)) for file in files)
