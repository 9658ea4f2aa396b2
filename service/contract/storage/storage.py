"""What the service and the runs ask of the place where the files of jobs lie."""

from __future__ import annotations

from abc import ABC, abstractmethod
from contextlib import AbstractContextManager
from pathlib import Path
from typing import IO, BinaryIO

__all__ = ["HALF_MADE", "Making", "Storage", "StorageError", "StorageUnreachableError", "StorageUnusableError"]

# Prefix of the name of a folder while it is being made; it is renamed when it is complete.
HALF_MADE = ".making-"


class StorageError(OSError):
    """A bucket can't be read or written, which says nothing about the files in it."""


class StorageUnreachableError(StorageError):
    """A bucket does not answer now, and may again."""


class StorageUnusableError(StorageError):
    """A storage is wrongly set: the message says what is wrong and what to do."""


class Making(ABC):
    """Files that must appear in the storage together, or not at all.

    Attributes:
        path: the folder on this machine that they are written into.
        prefix: what stands before the names of all but the last one in the storage.
    """

    def __init__(self, path: Path, prefix: str) -> None:
        self.path, self.prefix = path, prefix

    @abstractmethod
    def bring(self) -> None:
        """Copy the files to the storage, where they do not count as finished yet: this is the slow part.

        Raises:
            OSError: the storage is full, can't be written, or does not answer.
        """

    @abstractmethod
    def finish(self) -> None:
        """Put them into their place, and take away those that were there before.

        Raises:
            OSError: as in ``bring``.
        """


class Storage(ABC):
    """A tree of files. All paths are relative, their parts separated by ``/``.

    Whatever is asked of it raises ``OSError``: ``FileNotFoundError`` for what is not there, and all else that a bucket
    says is a ``StorageError``; the message names file and place.

    Attributes:
        location: the folder's absolute path, or the URL.
    """

    location: str

    def name(self, path: str) -> str:
        """Return what a file or folder is called outside of this storage."""
        return f"{self.location}/{path}" if path else self.location

    @abstractmethod
    def check(self, *, write: bool = True) -> None:
        """Find out in advance whether it can be used; with ``write`` also whether it can be written.

        Raises:
            StorageUnusableError: there is no such bucket, or no permission.
            StorageUnreachableError: it does not answer.
        """

    @abstractmethod
    def reach(self) -> None:
        """Wait until it answers, before anything is held that others wait for.

        Raises:
            StorageUnreachableError: it does not answer.
        """

    @abstractmethod
    def read(self, path: str) -> bytes:
        """Return what a small file holds."""

    @abstractmethod
    def size(self, path: str) -> int:
        """Return the bytes of a file."""

    @abstractmethod
    def open(self, path: str) -> BinaryIO:
        """Open a file to be read to its end, from its beginning or from where ``seek`` leads."""

    @abstractmethod
    def on_disk(self, path: str) -> AbstractContextManager[Path]:
        """Give a file of this machine with the content of ``path``; it may be there within the block only."""

    @abstractmethod
    def write(self, path: str, content: bytes, *, private: bool = False) -> None:
        """Write a file, in the place of one that is there: it appears whole or not at all.

        Only its owner can read a ``private`` one, where the storage knows such rights.
        """

    @abstractmethod
    def writing(self, path: str) -> AbstractContextManager[IO[bytes]]:
        """Give a file of this machine, to write and read, whose content is at ``path`` when the block ends.

        It takes the place of a file that is there, and appears whole or, where the block raises, not at all.
        """

    @abstractmethod
    def mark(self, path: str) -> None:
        """Make an empty file, and see to it that it and the folders that lead to it outlive a loss of power."""

    @abstractmethod
    def children(self, path: str) -> list[str]:
        """Return the names of the files and folders in a folder; none, where there is no such folder."""

    @abstractmethod
    def holding(self, path: str, name: str) -> set[str]:
        """Return those of the folders in a folder that hold a file ``name``."""

    @abstractmethod
    def remove_file(self, path: str) -> None:
        """Remove a file, if it is there."""

    @abstractmethod
    def remove(self, path: str, *, first: str | None = None) -> None:
        """Remove a folder, if it is there, and before anything else the file ``first`` in it."""

    @abstractmethod
    def make(self, target: str, *, last: str) -> AbstractContextManager[Making]:
        """Give a folder to make the folder ``target`` from, of whose files ``last`` makes the others count.

        The caller writes the files, calls ``bring`` and then ``finish``. What goes wrong within the block leaves
        nothing behind.
        """

    @abstractmethod
    def copy(self, source: str, target: str, *, last: str) -> None:
        """Make the new folder ``target`` with the files of ``source``, which are not read for that.

        Raises:
            FileNotFoundError: ``source`` has no file ``last``, or was removed meanwhile.
        """

    @abstractmethod
    def set_aside(self, folder: str) -> bool:
        """Put a folder at the root where ``discard`` and ``put_back`` find it; return whether there is one."""

    @abstractmethod
    def put_back(self, folder: str) -> None:
        """Undo ``set_aside``, if that is not done already; files that were made there meanwhile stay."""

    @abstractmethod
    def discard(self, folder: str) -> None:
        """Remove a folder that was set aside."""

    @abstractmethod
    def all_set_aside(self) -> list[str]:
        """Return the folders that are set aside."""

    @abstractmethod
    def sizes(self) -> dict[str, int]:
        """Return the bytes of all that is below each folder at the root."""

    @abstractmethod
    def free_bytes(self) -> int | None:
        """Return the free bytes of the disk; None if the storage does not report them."""
