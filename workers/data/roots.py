"""Where the files of a spec may lie."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from symadj.service.contract.order import RunOrder
from symadj.service.contract.storage import Bucket, StorageError, StorageUnreachableError, found_below, open_storage
from symadj.service.contract.uploaded import UploadedFile
from symadj.workers.data.copies import fetch
from symadj.workers.data.errors import DataError
from symadj.workers.data.formats.raw import InputFile

__all__ = ["DataRoots", "InBucket", "data_roots"]

ROOTS_SETTING = "SYMADJ_DATA_ROOTS"


@dataclass(frozen=True)
class InBucket:
    """A file or folder in a bucket: its path from the data root that the bucket is."""

    bucket: Bucket
    path: str
    is_folder: bool


def _root(place: str) -> Path | Bucket:
    storage = open_storage(place)
    return storage if isinstance(storage, Bucket) else storage.root


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
    except StorageUnreachableError:
        raise
    except StorageError as error:
        raise DataError(
            f"{path} can't be looked for in the data root {root.location} ({error}): see to its credentials, or take "
            f"it out of {ROOTS_SETTING} where the service is started",
            file=path,
        ) from error
    return InBucket(root, below, is_folder=False)


def _uploaded(upload: UploadedFile) -> Path | InBucket:
    root = _root(upload.storage)
    found = _in_bucket(root, upload.path) if isinstance(root, Bucket) else found_below(root, upload.path, [root])
    if found is None:
        raise DataError(f"{upload.path} was sent and is gone from {upload.storage}: send it again", file=upload.path)
    return found


def _check_content(file: Path, upload: UploadedFile) -> None:
    """Refuse a file that is not what the user has sent."""
    if file.stat().st_size == upload.bytes:
        with file.open("rb") as stream:
            if hashlib.file_digest(stream, "sha256").hexdigest() == upload.sha256:
                return
    raise DataError(
        f"{upload.path} is not what was sent ({upload.bytes:,} bytes, SHA-256 {upload.sha256}): its file in "
        f"{upload.storage} was changed; delete the upload and send it again",
        file=upload.path,
    )


class DataRoots:
    """The folders and places in buckets that the files of specs are taken from, the uploads, and nothing else.

    Args:
        places: folders of this node, and URLs of places in buckets.
        cache: folder for copies of files from buckets; None is one in the system's temporary folder.
        budget: most bytes that the values of a file may take; None: what is free.
        uploads: files that a user has sent, which are no file of a root whatever its name is.
    """

    def __init__(
        self,
        places: Sequence[str] = (),
        cache: Path | None = None,
        budget: int | None = None,
        uploads: Sequence[UploadedFile] = (),
    ) -> None:
        self._places, self._cache, self._budget = tuple(places), cache, budget
        self._uploads = {upload.path: upload for upload in uploads}

    def _roots(self) -> tuple[Path | Bucket, ...]:
        try:
            return tuple(_root(place) for place in self._places)
        except StorageError as error:
            raise DataError(f"{ROOTS_SETTING} names what this node can't use: {error}") from error

    def resolve(self, path: str) -> Path | InBucket:
        """Return the file or folder that a spec names by ``path``: the first that exists below a data root.

        Links are followed first, so that neither ``..`` nor a link leads out of the roots.

        Raises:
            DataError: there is no such file below a root, or a root can't be read.
            StorageUnreachableError: a bucket does not answer.
        """
        if path in self._uploads:
            return _uploaded(self._uploads[path])
        roots = self._roots()
        folders = [root.resolve() for root in roots if isinstance(root, Path)]
        for root in roots:
            if isinstance(root, Bucket):
                found: Path | InBucket | None = _in_bucket(root, path)
            else:
                found = found_below(root.resolve(), path, folders)
            if found is not None:
                return found
        allowed = ", ".join(root.location if isinstance(root, Bucket) else str(root.resolve()) for root in roots)
        raise DataError(
            f"{path} was not found below a data root ({allowed or 'none is set'}): put it there, or add its folder or "
            f"URL to {ROOTS_SETTING} where the service is started",
            file=path,
        )

    def find_file(self, name: str) -> InputFile:
        """Return the file that a spec calls ``name``; of one in a bucket, a copy on this node.

        Raises:
            DataError: it is missing, or is a folder or a pipe, or can't be fetched.
            StorageUnreachableError: a bucket does not answer.
        """
        found = self.resolve(name)
        if found.is_folder if isinstance(found, InBucket) else found.is_dir():
            raise DataError(
                f"{name} is a folder, a file is expected (data.kind parquet_stream reads folders of parquet files)",
                file=name,
            )
        if isinstance(found, InBucket):
            try:
                found = fetch(found.bucket, found.path, name, self._cache)
            except StorageUnreachableError:
                raise
            except OSError as error:
                raise DataError(f"{name} can't be fetched to this node: {error}", file=name) from error
        if not found.is_file():  # opening a pipe would wait for ever
            raise DataError(f"{name} is not a regular file", file=name)
        if name in self._uploads:
            _check_content(found, self._uploads[name])
        return InputFile(found, name, self._budget)

    def names_below(self, path: str, ending: str) -> list[PurePosixPath] | None:
        """Return the files in a folder, and in those below it, whose names end so; None where ``path`` is a file.

        Raises:
            DataError: there is no such folder.
            StorageUnreachableError: a bucket does not answer.
        """
        found = self.resolve(path)
        if isinstance(found, InBucket):
            if not found.is_folder:
                return None
            return sorted(PurePosixPath(name) for name in found.bucket.all_below(found.path) if name.endswith(ending))
        if not found.is_dir():
            return None
        # Some programs write folders whose names end so.
        files = (file for file in found.rglob(f"*{ending}") if not file.is_dir())
        return sorted(PurePosixPath(file.relative_to(found)) for file in files)


def data_roots(order: RunOrder, places: Sequence[str] | None = None) -> DataRoots:
    """Return the places that a run may take its data from (others: ``places``), and the memory of each worker."""
    cache = None if order.data_cache is None else Path(order.data_cache)
    budget = order.spec.resources.memory_budget
    return DataRoots(order.data_roots if places is None else places, cache, budget, order.uploads)
