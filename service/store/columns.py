"""Records of a series as columns of numbers, and the bytes in which the store keeps a column.

What is written once is read for as long as its job is kept. So a form is never changed: a new one gets a new letter.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["Records", "as_datetime", "as_microseconds", "pack", "unpack", "unpack_rows"]

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
# Before the numbers themselves: the form, and how many there are.
_HEAD = struct.Struct("<cI")
_LINE = struct.Struct("<qq")
_START = struct.Struct("<q")
_SIZE = struct.Struct("<I")


def as_microseconds(time: datetime) -> int:
    """Return the microseconds since 1970 of an aware time."""
    return (time - _EPOCH) // _MICROSECOND


def as_datetime(microseconds: int) -> datetime:
    """Return the aware time of microseconds since 1970."""
    return _EPOCH + timedelta(0, 0, microseconds)  # by name it takes half as long again


@dataclass(frozen=True)
class Records:
    """Records of one series in the order of their numbers, which rise.

    Attributes:
        seqs, steps, attempts: of each record (n,), int64.
        times: of each record (n,), int64, in microseconds since 1970.
        values: what is recorded (k, n), float64 or int64.
    """

    seqs: NDArray[np.int64]
    steps: NDArray[np.int64]
    times: NDArray[np.int64]
    attempts: NDArray[np.int64]
    values: NDArray[Any]

    def __len__(self) -> int:
        return len(self.seqs)

    def __getitem__(self, some: slice | NDArray[np.bool_]) -> Records:
        """Return the records of a slice or a mask."""
        return replace(self, **{name: column[..., some] for name, column in vars(self).items()})

    def __add__(self, other: Records) -> Records:
        """Return these and what follows them."""
        later = vars(other)
        return Records(**{name: np.concatenate([column, later[name]], -1) for name, column in vars(self).items()})


def pack(column: NDArray[np.float64] | NDArray[np.int64]) -> bytes:
    """Return a column (n,) or (k, n) as bytes.

    Floats take 8 bytes each. Whole numbers that rise by always the same take 21 bytes in all (form ``s``), others
    4 bytes each where they are within 2^31 of the first one, and 8 otherwise.
    """
    if column.ndim == 2:
        rows = [pack(row) for row in column]
        return b"".join(_SIZE.pack(len(row)) + row for row in rows)
    head = len(column)
    if column.dtype == np.float64:
        return _HEAD.pack(b"d", head) + column.astype("<f8", copy=False).tobytes()
    start = int(column[0]) if head else 0
    # Differences may wrap around at 64 bits, and wrap back when they are added up again.
    offsets = column - column[:1]
    stride = int(offsets[1]) if head > 1 else 0
    if np.array_equal(offsets, np.arange(head) * np.int64(stride)):
        return _HEAD.pack(b"s", head) + _LINE.pack(start, stride)
    if offsets.min() >= -(2**31) and offsets.max() < 2**31:
        return _HEAD.pack(b"i", head) + _START.pack(start) + bytes(offsets.astype("<i4").data)
    return _HEAD.pack(b"q", head) + bytes(column.astype("<i8", copy=False).data)


def unpack(data: bytes) -> NDArray[Any]:
    """Return the column (n,) of which :func:`pack` made these bytes.

    Raises:
        ValueError: nothing of ours made them.
    """
    try:
        form, length = _HEAD.unpack_from(data)
    except struct.error:
        raise ValueError(f"a stored column has {len(data)} bytes, too few for any: it is damaged") from None
    rest = _HEAD.size
    if form == b"d":
        return np.frombuffer(data, "<f8", length, rest)
    if form == b"s":
        start, stride = _LINE.unpack_from(data, rest)
        if not stride:
            return np.full(length, start)
        stop = start + length * stride
        if -(2**63) <= stop < 2**63:
            return np.arange(start, stop, stride)  # one array, not three
        return np.arange(length) * np.int64(stride) + np.int64(start)
    if form == b"i":
        (start,) = _START.unpack_from(data, rest)
        return np.frombuffer(data, "<i4", length, rest + _START.size) + np.int64(start)
    if form == b"q":
        return np.frombuffer(data, "<i8", length, rest)
    raise ValueError(f"a stored column has the form {form!r}: it is of a later version, or damaged")


def unpack_rows(data: bytes) -> NDArray[Any]:
    """Return the columns (k, n) of which :func:`pack` made these bytes."""
    rows, at = [], 0
    while at < len(data):
        (size,) = _SIZE.unpack_from(data, at)
        at += _SIZE.size + size
        rows.append(unpack(data[at - size : at]))
    return rows[0][None] if len(rows) == 1 else np.stack(rows)
