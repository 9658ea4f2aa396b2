"""IDX, the format of MNIST and Fashion-MNIST."""

from __future__ import annotations

import math
import struct

import numpy as np

from symadj.service.contract.spec.data import FileData
from symadj.workers.data.formats.raw import (
    InputFile,
    Raw,
    open_unpacked,
    reading,
    reads,
    refuse,
    refuse_larger_than_memory,
)

__all__ = ["read_idx"]

_TYPES = {0x08: ">u1", 0x09: ">i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}
_MOST_AXES = 4


def read_idx(file: InputFile) -> Raw:
    """Read the array of an IDX file, gzipped or not: two zero bytes, type, number of axes, sizes, values."""
    with reading(file, "IDX"), open_unpacked(file) as stream:
        head = stream.read(4)
        if len(head) < 4 or head[:2] != b"\0\0" or head[2] not in _TYPES:
            raise refuse(file, "can't be read as IDX: it does not begin as one")
        kind, axes = np.dtype(_TYPES[head[2]]), head[3]
        if not 2 <= axes <= _MOST_AXES:
            raise refuse(file, f"holds {axes} axes, not rows of values or images (labels are a file of one axis)")
        shape = struct.unpack(f">{axes}I", stream.read(4 * axes))
        size = math.prod(shape) * kind.itemsize
        refuse_larger_than_memory(file, size)
        content = stream.read(size)
        if len(content) < size or stream.read(1):
            raise refuse(file, f"does not hold the {' x '.join(map(str, shape))} values that it announces")
        return Raw(np.frombuffer(content, kind).reshape(shape).astype(kind.newbyteorder("="), copy=False))


@reads("idx")
def _idx(file: InputFile, data: FileData) -> Raw:
    return read_idx(file)
