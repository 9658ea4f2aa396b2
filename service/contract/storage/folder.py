"""A folder that all nodes share."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import IO, BinaryIO

from symadj.service.contract.storage.storage import HALF_MADE, Making, Storage

__all__ = ["Folder", "found_below"]

# What the name of a folder begins with that is about to be removed.
_SET_ASIDE = ".deleted-"


def found_below(root: Path, path: str, allowed: Sequence[Path]) -> Path | None:
    """Return what ``path`` names below ``root``, links followed, if it lies in one of the folders ``allowed``."""
    try:
        # An absolute path replaces the root, and must lie in one all the same.
        found = (root / path).resolve()
        inside = any(found.is_relative_to(folder) for folder in allowed)
        return found if inside and found.exists() else None
    except (OSError, ValueError, RuntimeError):  # too long a name, no permission, a link to itself
        return None


class Folder(Storage):
    """Files below a folder. A rename makes a file appear whole; it is on the disk before it is reported.

    Args:
        root: the folder, which need not be there yet.
    """

    def __init__(self, root: str | Path) -> None:
        self.root = Path(root).resolve()
        self.location = str(self.root)

    def path(self, path: str) -> Path:
        """Return the place of a file or folder."""
        return self.root / path

    def check(self, *, write: bool = True) -> None:
        """Do nothing: a folder is made when it is needed, and may be mounted later."""

    def reach(self) -> None:
        """A folder is there or not, at once."""

    def read(self, path: str) -> bytes:
        return self.path(path).read_bytes()

    def size(self, path: str) -> int:
        return self.path(path).stat().st_size

    def open(self, path: str) -> BinaryIO:
        return self.path(path).open("rb")

    @contextmanager
    def on_disk(self, path: str) -> Iterator[Path]:
        yield self.path(path)

    def write(self, path: str, content: bytes, *, private: bool = False) -> None:
        with self._replacing(path, private=private) as file:
            file.write(content)

    def writing(self, path: str) -> AbstractContextManager[IO[bytes]]:
        return self._replacing(path, private=False)

    @contextmanager
    def _replacing(self, path: str, *, private: bool) -> Iterator[IO[bytes]]:
        target = self.path(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=target.parent, prefix=".", suffix=".tmp")
        try:
            with open(handle, "w+b") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            # mkstemp's files are the owner's alone; the API may run as another user.
            if not private:
                os.chmod(temporary, 0o644)
            os.replace(temporary, target)
        except BaseException:
            os.unlink(temporary)
            raise

    def mark(self, path: str) -> None:
        target = self.path(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.touch()
        for folder in target.parents:
            _sync(folder)
            if folder == self.root:
                break

    def children(self, path: str) -> list[str]:
        folder = self.path(path)
        return sorted(os.listdir(folder)) if folder.is_dir() else []

    def holding(self, path: str, name: str) -> set[str]:
        return {child for child in self.children(path) if (self.path(path) / child / name).exists()}

    def remove_file(self, path: str) -> None:
        self.path(path).unlink(missing_ok=True)

    def remove(self, path: str, *, first: str | None = None) -> None:
        if first is not None:
            (self.path(path) / first).unlink(missing_ok=True)
        shutil.rmtree(self.path(path), ignore_errors=True)

    @contextmanager
    def make(self, target: str, *, last: str) -> Iterator[Making]:
        parent = self.path(target).parent
        parent.mkdir(parents=True, exist_ok=True)
        making = Path(tempfile.mkdtemp(dir=parent, prefix=HALF_MADE))
        try:
            yield _Renamed(making, self, target, last)
        except BaseException:
            shutil.rmtree(making, ignore_errors=True)
            raise

    def copy(self, source: str, target: str, *, last: str) -> None:
        """Link the files, which are no longer written to."""
        parent = self.path(target).parent
        parent.mkdir(parents=True, exist_ok=True)
        making = Path(tempfile.mkdtemp(dir=parent, prefix=HALF_MADE))
        making.chmod(0o755)
        try:
            for name in sorted(os.listdir(self.path(source)), key=lambda name: name == last):
                _link(self.path(source) / name, making / name)
            if not (making / last).exists():
                raise FileNotFoundError(f"{self.name(source)} has no {last}")
            making.rename(self.path(target))
        except BaseException:
            shutil.rmtree(making, ignore_errors=True)
            raise

    def set_aside(self, folder: str) -> bool:
        if not self.path(folder).exists():
            return False
        self.path(folder).rename(self.path(_SET_ASIDE + folder))
        return True

    def put_back(self, folder: str) -> None:
        aside = self.path(_SET_ASIDE + folder)
        if aside.exists():
            _move_into(aside, self.path(folder))

    def discard(self, folder: str) -> None:
        shutil.rmtree(self.path(_SET_ASIDE + folder), ignore_errors=True)

    def all_set_aside(self) -> list[str]:
        return [name.removeprefix(_SET_ASIDE) for name in self.children("") if name.startswith(_SET_ASIDE)]

    def sizes(self) -> dict[str, int]:
        return {name: _bytes_below(self.path(name)) for name in self.children("") if self.path(name).is_dir()}

    def free_bytes(self) -> int | None:
        nearest = next(path for path in (self.root, *self.root.parents) if path.exists())
        return shutil.disk_usage(nearest).free


class _Renamed(Making):
    """Made beside its place, brought to the disk, and renamed."""

    def __init__(self, path: Path, storage: Folder, target: str, last: str) -> None:
        super().__init__(path, "")
        self._storage, self._target, self._last = storage, target, last

    def bring(self) -> None:
        for name in os.listdir(self.path):
            os.chmod(self.path / name, 0o644)
            _sync(self.path / name)
        os.chmod(self.path, 0o755)
        _sync(self.path)

    def finish(self) -> None:
        target = self._storage.path(self._target)
        if target.exists():
            self._storage.remove(self._target, first=self._last)
        os.rename(self.path, target)
        _sync(target.parent)


def _link(source: Path, target: Path) -> None:
    """Link a file; copy it where the file system has no links."""
    try:
        os.link(source, target)
    except FileNotFoundError:
        raise
    except OSError:
        shutil.copyfile(source, target)


def _sync(path: Path) -> None:
    """Bring a file, or the names in a folder, to the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _bytes_below(folder: Path) -> int:
    """Return the bytes of all files below a folder; those that vanish meanwhile count nothing."""
    total = 0
    for parent, _, names in os.walk(folder):
        for name in names:
            try:
                total += os.lstat(os.path.join(parent, name)).st_size
            except FileNotFoundError:
                continue
    return total


def _move_into(source: Path, target: Path) -> None:
    """Move a folder to where another may be by now: what is in both stays as it is there."""
    if not target.is_dir():
        source.rename(target)
        return
    for entry in source.iterdir():
        if entry.is_dir():
            _move_into(entry, target / entry.name)
        elif not (target / entry.name).exists():
            entry.rename(target / entry.name)
    shutil.rmtree(source, ignore_errors=True)
