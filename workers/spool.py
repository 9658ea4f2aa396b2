"""A file of records on the worker's own disk, between the training loop and the API.

The API may be away for a while; the loop never waits for it. One record is one line of JSON, and the number of its
line, counted from 1, is its sequence number.
"""

from __future__ import annotations

import os
import threading
from pathlib import Path

__all__ = ["Spool"]

# The place in the file of every so many records is kept, so that any record is found without reading all before it.
_STRIDE = 256


class Spool:
    """An append-only file of JSON lines, numbered from 1.

    ``append`` and ``read`` may be called from different threads. An existing file is continued; a last line that
    was cut off when its writer died is dropped.
    """

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path = path
        self._file = path.open("a+b", buffering=0)
        self._reader = path.open("rb")
        self._lock = threading.Lock()
        self._marks = [0]  # where records 1, 1 + _STRIDE, 1 + 2 * _STRIDE ... begin
        self._count = 0
        self._size = 0
        for line in self._reader:
            if not line.endswith(b"\n"):
                os.truncate(path, self._size)
                break
            self._added(len(line))

    @property
    def count(self) -> int:
        """Records in the file, and so the sequence number of the last one."""
        return self._count

    def append(self, line: bytes) -> int:
        """Write one record, JSON without a line feed, and return its sequence number.

        Raises:
            OSError: the disk is full; what was written of the line is taken back.
        """
        assert b"\n" not in line
        data = line + b"\n"
        with self._lock:
            if self._file.write(data) != len(data):
                os.truncate(self.path, self._size)
                raise OSError(f"{self.path}: the disk took only a part of a record; is it full?")
            self._added(len(data))
            return self._count

    def read(self, first: int, limit: int, max_bytes: int) -> list[bytes]:
        """Return records ``first``, ``first + 1`` ...: at most ``limit``, and no more than ``max_bytes`` after the
        first."""
        last = min(self._count, first + limit - 1)
        mark = (first - 1) // _STRIDE
        lines: list[bytes] = []
        size = 0
        self._reader.seek(self._marks[mark])
        for number in range(mark * _STRIDE + 1, last + 1):
            line = self._reader.readline().rstrip(b"\n")
            if number < first:
                continue
            size += len(line)
            if lines and size > max_bytes:
                break
            lines.append(line)
        return lines

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
