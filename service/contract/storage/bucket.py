"""A bucket, or a part of one, through fsspec."""

from __future__ import annotations

import errno
import functools
import hashlib
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath
from typing import IO, Any, BinaryIO, cast
from urllib.parse import urlsplit
from uuid import uuid4

from symadj.extras import how_to_install
from symadj.service.contract.storage.storage import (
    Making,
    Storage,
    StorageError,
    StorageUnreachableError,
    StorageUnusableError,
)

__all__ = ["Bucket"]

# The folder of the marks of those that are about to be removed.
_SET_ASIDE = ".deleted"
# Bytes read ahead when a file is read piece by piece.
_PIECE_BYTES = 2 * 2**20


class Bucket(Storage):
    """Objects below a URL. An object appears whole: the last one of a folder is what makes the others count.

    Credentials and endpoint are what the protocol's library finds by itself, for s3 by the AWS variables and files.

    Args:
        url: such as ``s3://bucket/prefix``.

    Raises:
        StorageUnusableError: the protocol is not known, its library is missing, or there is a password in the URL.
    """

    def __init__(self, url: str) -> None:
        self.location = url.rstrip("/")
        _opened(self.location, os.getpid())

    @property
    def files(self) -> Any:
        """The fsspec file system."""
        return _opened(self.location, os.getpid())[0]

    def path(self, path: str) -> str:
        """Return what the file system calls a file or folder."""
        root = _opened(self.location, os.getpid())[1]
        return f"{root}/{path}" if path else root

    def check(self, *, write: bool = True) -> None:
        probe = self.path(f".checked-{uuid4().hex}")
        try:
            with self._asking(""):
                if write:
                    self.files.pipe_file(probe, b"")
                    self.files.rm_file(probe)
                else:
                    self.files.ls(self.path(""), detail=False)
        except FileNotFoundError:
            pass  # nothing is there yet
        except (StorageUnreachableError, StorageUnusableError):
            raise
        except OSError as error:
            hint = " (see AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_ENDPOINT_URL)" if _is_s3(self.location) else ""
            raise StorageUnusableError(f"{error}{hint}") from error

    def reach(self) -> None:
        with suppress(FileNotFoundError):
            self.size(f".reached-{uuid4().hex}")

    def read(self, path: str) -> bytes:
        with self._asking(path):
            return cast(bytes, self.files.cat_file(self.path(path)))

    def size(self, path: str) -> int:
        with self._asking(path):
            return int(self.files.info(self.path(path))["size"])

    def open(self, path: str) -> BinaryIO:
        with self._asking(path):
            opened = self.files.open(self.path(path), "rb", block_size=_PIECE_BYTES, cache_type="readahead")
            return cast(BinaryIO, opened)

    @contextmanager
    def on_disk(self, path: str) -> Iterator[Path]:
        with tempfile.TemporaryDirectory(prefix="symadj-") as folder:
            copy = Path(folder, PurePosixPath(path).name)
            self.fetch(path, copy)
            yield copy

    def fetch(self, path: str, target: Path) -> None:
        """Write the content of an object to a file of this machine."""
        with self._asking(path):
            self.files.get_file(self.path(path), str(target))

    def stamp(self, path: str) -> tuple[int, str]:
        """Return the bytes of an object, and a digest that changes when it is replaced.

        Raises:
            FileNotFoundError: the object does not exist.
            IsADirectoryError: there are objects below it.
            StorageError: the bucket can't be read, or does not answer.
        """
        with self._asking(path):
            about = self.files.info(self.path(path))
        if about["type"] == "directory":
            raise IsADirectoryError(errno.EISDIR, "a folder", self.name(path))
        return int(about["size"]), hashlib.sha256(repr(sorted(about.items())).encode()).hexdigest()

    def write(self, path: str, content: bytes, *, private: bool = False) -> None:
        with self._asking(path):
            self.files.pipe_file(self.path(path), content)

    @contextmanager
    def writing(self, path: str) -> Iterator[IO[bytes]]:
        with tempfile.NamedTemporaryFile(prefix="symadj-") as file:
            yield file
            file.flush()
            with self._asking(path):
                self.files.put_file(file.name, self.path(path))

    def mark(self, path: str) -> None:
        self.write(path, b"")

    def children(self, path: str) -> list[str]:
        try:
            with self._asking(path):
                found = self.files.ls(self.path(path), detail=False)
        except FileNotFoundError:
            return []
        return sorted(PurePosixPath(child).name for child in found)

    def holding(self, path: str, name: str) -> set[str]:
        return {folder for folder, *rest in map(_parts, self.all_below(path)) if rest == [name]}

    def remove_file(self, path: str) -> None:
        with suppress(FileNotFoundError), self._asking(path):
            self.files.rm_file(self.path(path))

    def remove(self, path: str, *, first: str | None = None) -> None:
        if first is not None:
            self.remove_file(f"{path}/{first}")
        with suppress(FileNotFoundError), self._asking(path):
            self.files.rm(self.path(path), recursive=True)

    @contextmanager
    def make(self, target: str, *, last: str) -> Iterator[Making]:
        with tempfile.TemporaryDirectory(prefix="symadj-") as folder:
            making = _Uploaded(Path(folder), self, target, last)
            try:
                yield making
            except BaseException:
                making.take_back()
                raise

    def copy(self, source: str, target: str, *, last: str) -> None:
        """Copy within the bucket; nothing of it comes here but ``last``."""
        content = self.read(f"{source}/{last}")
        for name in self.all_below(source):
            if name != last:
                with self._asking(f"{source}/{name}"):
                    self.files.cp_file(self.path(f"{source}/{name}"), self.path(f"{target}/{name}"))
        # Another one in its place, whose files have other names, may not have been copied.
        if self.read(f"{source}/{last}") != content:
            raise FileNotFoundError(f"{self.name(source)} was replaced while it was copied")
        self.write(f"{target}/{last}", content)

    def set_aside(self, folder: str) -> bool:
        """Note that the folder must be deleted: a bucket renames nothing."""
        self.mark(f"{_SET_ASIDE}/{folder}")
        return True

    def put_back(self, folder: str) -> None:
        self.remove_file(f"{_SET_ASIDE}/{folder}")

    def discard(self, folder: str) -> None:
        self.remove(folder)
        self.remove_file(f"{_SET_ASIDE}/{folder}")

    def all_set_aside(self) -> list[str]:
        return self.children(_SET_ASIDE)

    def sizes(self) -> dict[str, int]:
        sizes: dict[str, int] = {}
        for name, size in self.all_below("").items():
            folder, *rest = _parts(name)
            if rest and folder != _SET_ASIDE:
                sizes[folder] = sizes.get(folder, 0) + size
        return sizes

    def free_bytes(self) -> int | None:
        return None

    def all_below(self, path: str) -> dict[str, int]:
        """Return the names, as they are called from there, and the bytes of all files below a folder."""
        begin = len(self.path(path)) + 1
        with self._asking(path):
            found = self.files.find(self.path(path), detail=True)
        return {name[begin:]: int(about["size"]) for name, about in found.items()}

    @contextmanager
    def _asking(self, path: str) -> Iterator[None]:
        """Turn whatever the libraries raise into an ``OSError`` that says what was asked for."""
        try:
            yield
        except Exception as error:
            raise _explained(error, self.name(path)) from error


class _Uploaded(Making):
    """Made on this machine and uploaded below a name that no other try has; the last file says which that is."""

    def __init__(self, path: Path, bucket: Bucket, target: str, last: str) -> None:
        super().__init__(path, f"{uuid4().hex}/")
        self._bucket, self._target, self._last = bucket, target, last
        self._finishing = False

    def bring(self) -> None:
        for name in sorted(os.listdir(self.path)):
            if name != self._last:
                self._upload(name, f"{self._target}/{self.prefix}{name}")

    def finish(self) -> None:
        self._finishing = True
        self._upload(self._last, f"{self._target}/{self._last}")
        # What is left of an earlier one does no harm, and goes with this one.
        with suppress(OSError):
            for name in self._bucket.children(self._target):
                if name not in {self._last, self.prefix.rstrip("/")}:
                    self._bucket.remove(f"{self._target}/{name}")

    def take_back(self) -> None:
        """Remove what was uploaded, unless the last file may have arrived, even where no answer came."""
        if not self._finishing:
            with suppress(OSError):
                self._bucket.remove(f"{self._target}/{self.prefix.rstrip('/')}")

    def _upload(self, name: str, target: str) -> None:
        with self._bucket._asking(target):
            self._bucket.files.put_file(str(self.path / name), self._bucket.path(target))


@functools.lru_cache(maxsize=16)
def _opened(url: str, _process: int) -> tuple[Any, str]:
    """Return the file system of a URL and what it calls it. A forked process needs one of its own."""
    if "@" in urlsplit(url).netloc:
        # Places are shown: in answers, logs and error messages.
        raise StorageUnusableError(
            f"{urlsplit(url).scheme}://...: a URL with a user or a password in it is not taken: give them by the "
            "variables of the protocol's library (for s3 AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY)"
        )
    import fsspec

    try:
        # Listings change under our hands: others write, too.
        files, root = fsspec.core.url_to_fs(url, use_listings_cache=False)
    except ImportError as error:
        extra = f": {how_to_install('s3')} brings it" if _is_s3(url) else ""
        raise StorageUnusableError(f"{url}: a library is missing here{extra} ({error})") from error
    except ValueError as error:
        raise StorageUnusableError(f"{url}: {error}") from error
    return files, root.rstrip("/")


def _is_s3(url: str) -> bool:
    return urlsplit(url).scheme in {"s3", "s3a"}


def _parts(name: str) -> list[str]:
    return name.split("/")


def _explained(error: Exception, what: str) -> OSError:
    """Return the ``OSError`` that says what an error of fsspec, botocore or aiohttp means for ``what``."""
    # s3fs keeps the answer of the server in the cause of its own error.
    answer = getattr(error, "response", None) or getattr(error.__cause__, "response", None)
    about = answer if isinstance(answer, dict) else {}
    status = about.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
    code = about.get("Error", {}).get("Code", "")
    if code == "NoSuchBucket":
        return StorageUnusableError(f"{what}: there is no such bucket")
    if isinstance(error, FileNotFoundError):
        return FileNotFoundError(errno.ENOENT, str(error), what)
    message = f"{what}: {error or type(error).__name__}"
    if status == 507 or code == "QuotaExceeded":
        return StorageError(errno.ENOSPC, message)
    if status in {429, 500, 502, 503, 504} or _is_no_answer(error):
        return StorageUnreachableError(message)
    if isinstance(error, OSError) and error.errno is not None:
        return StorageError(error.errno, message)
    return StorageError(message)


def _is_no_answer(error: Exception) -> bool:
    if isinstance(error, ConnectionError | TimeoutError):
        return True
    # By their names: the libraries are loaded only where a URL needs them. Botocore's and aiohttp's.
    kinds = {kind.__name__ for kind in type(error).__mro__}
    return bool(kinds & {"HTTPClientError", "ConnectionError", "ClientError", "FSTimeoutError"})
