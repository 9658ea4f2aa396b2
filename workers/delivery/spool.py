"""A file of records on the worker's own disk, between the training loop and the API.

The API may be away for a while; the loop never waits for it. One record is one line of JSON, and the number of its
line, counted from 1, is its sequence number.
"""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Iterator
from pathlib import Path

__all__ = ["Spool"]

# The place in the file of every so many records is kept, so that any record is found without reading all before it.
_STRIDE = 256
_MOST_WAITING_BYTES = 64 * 2**20


class Spool:
    """An append-only file of JSON lines, numbered from 1.

    ``append`` and ``read`` may be called from different threads. An existing file is continued; a last line that
    was cut off when its writer died is dropped. What a full disk does not take waits in memory.
    """

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path = path
        self._file = path.open("a+b", buffering=0)
        self._reader = path.open("rb")
        self._lock = threading.Lock()
        self._marks = [0]  # where records 1, 1 + _STRIDE, 1 + 2 * _STRIDE ... begin
        self._count = 0  # records in the file
        self._size = 0
        self._waiting: deque[bytes] = deque()
        self._waiting_bytes = 0
        for line in self._reader:
            if not line.endswith(b"\n"):
                os.truncate(path, self._size)
                break
            self._added(len(line))

    @property
    def count(self) -> int:
        """All records, and so the sequence number of the last one."""
        return self._count + len(self._waiting)

    def append(self, line: bytes) -> int:
        """Write one record, JSON without a line feed, and return its sequence number.

        Raises:
            OSError: the disk takes nothing any more, and so much waits in memory that no more is taken there.
        """
        assert b"\n" not in line
        with self._lock:
            self._waiting.append(line + b"\n")
            self._waiting_bytes += len(line) + 1
            while self._waiting:
                try:
                    self._write(self._waiting[0])
                except OSError:
                    if self._waiting_bytes > _MOST_WAITING_BYTES:
                        raise
                    break
                self._waiting_bytes -= len(self._waiting.popleft())
            return self.count

    def _write(self, data: bytes) -> None:
        written = self._file.write(data)
        if written != len(data):
            os.truncate(self.path, self._size)
            raise OSError(f"{self.path}: the disk took {written} of {len(data)} bytes of a record; is it full?")
        self._added(len(data))

    def read(self, first: int, limit: int, max_bytes: int) -> list[bytes]:
        """Return records ``first``, ``first + 1`` ...: at most ``limit``, and no more than ``max_bytes`` after the
        first."""
        lines: list[bytes] = []
        size = 0
        for line in self._from(first, limit):
            size += len(line)
            if lines and size > max_bytes:
                break
            lines.append(line)
        return lines

    def _from(self, first: int, limit: int) -> Iterator[bytes]:
        with self._lock:
            count, waiting = self._count, list(self._waiting)
        mark = (first - 1) // _STRIDE
        if first <= count:
            self._reader.seek(self._marks[mark])
            for number in range(mark * _STRIDE + 1, min(count, first + limit - 1) + 1):
                line = self._reader.readline()
                if number >= first:
                    yield line.rstrip(b"\n")
        for number in range(max(count + 1, first), min(count + len(waiting), first + limit - 1) + 1):
            yield waiting[number - count - 1].rstrip(b"\n")

    def close(self, delete: bool) -> None:
        """Close the file, and remove it with its empty parent folders when ``delete``."""
        self._file.close()
        self._reader.close()
        if delete:
            self.path.unlink(missing_ok=True)
            for folder in (self.path.parent, self.path.parent.parent):
                try:
                    folder.rmdir()
                except OSError:
                    # Not empty: another source of this attempt, or another attempt of this job, spools there.
                    return

    def _added(self, length: int) -> None:
        self._size += length
        if (self._count + 1) % _STRIDE == 0:
            self._marks.append(self._size)
        self._count += 1
