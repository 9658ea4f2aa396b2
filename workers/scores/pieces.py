"""Pieces of rows that were scored, kept until all are: an attempt after a death goes on from them."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from symadj.service.contract.layout import piece_folder
from symadj.service.contract.order import RunOrder
from symadj.service.contract.storage import open_storage

__all__ = ["Piece", "PieceFolder", "cut", "digest", "share"]

Rows = NDArray[np.float64]

# Of a piece, at most, unless the flow solves more of them together.
_MOST_ROWS, _MOST_VALUES = 65_536, 1 << 22
# Of each worker, at least, where there are enough rows: a death costs a worker the piece that it was at.
_PIECES_EACH = 4
_DIGEST = hashlib.sha256().digest_size


@dataclass(frozen=True, order=True)
class Piece:
    """Rows from ``begin`` to before ``end``."""

    begin: int
    end: int

    def __len__(self) -> int:
        return self.end - self.begin

    def __str__(self) -> str:
        return f"{self.begin:015d}-{self.end}"


def cut(total: int, width: int, solved: int, workers: int) -> list[Piece]:
    """Return the pieces of ``total`` rows of ``width`` values.

    An adaptive solver chooses its steps for the ``solved`` rows that it is given together, counted from the first row
    of all. Each piece has a whole number of them, so that a score depends neither on the pieces nor on who scores them.

    Args:
        workers: that the spec asks for; an attempt may have fewer.
    """
    size = min(_MOST_ROWS, _MOST_VALUES // width, -(-total // (_PIECES_EACH * workers)))
    size = max(1, -(-size // solved)) * solved
    return [Piece(begin, min(begin + size, total)) for begin in range(0, total, size)]


def share(pieces: Sequence[Piece], rank: int, ranks: int) -> Sequence[Piece]:
    """Return the neighbours that a rank scores; there may be none."""
    return pieces[len(pieces) * rank // ranks : len(pieces) * (rank + 1) // ranks]


def digest(rows: Rows, contexts: Rows | None) -> bytes:
    """Return what the rows of a piece are known by."""
    sum_ = hashlib.sha256(rows.tobytes())
    if contexts is not None:
        sum_.update(contexts.tobytes())
    return sum_.digest()


class PieceFolder:
    """The finished pieces of a job: in each file the digest of the rows, and their scores as float64."""

    def __init__(self, order: RunOrder) -> None:
        self._storage, self._path = open_storage(order.storage), piece_folder(order.job_id)

    def finished(self) -> set[str]:
        """Return the names of the pieces that are there.

        Raises:
            OSError: the storage can't be read, or does not answer.
        """
        return set(self._storage.children(self._path))

    def holds(self, piece: Piece, rows: bytes) -> bool:
        """Return whether the scores of a piece are those of the rows with a digest.

        Raises:
            OSError: the storage can't be read, or does not answer.
        """
        content = self._storage.read(f"{self._path}/{piece}")
        return len(content) == _DIGEST + 8 * len(piece) and content[:_DIGEST] == rows

    def read(self, piece: Piece) -> Rows:
        """Return the scores of a piece.

        Raises:
            OSError: they are not whole, or the storage can't be read, or does not answer.
        """
        content = self._storage.read(f"{self._path}/{piece}")
        if len(content) != _DIGEST + 8 * len(piece):
            raise OSError(f"{self._storage.name(self._path)}/{piece} is not whole: score the rows again")
        return np.frombuffer(content, "<f8", offset=_DIGEST)

    def write(self, piece: Piece, rows: bytes, scores: Rows) -> None:
        """Keep the scores of a piece.

        Raises:
            OSError: the storage is full, can't be written, or does not answer.
        """
        self._storage.write(f"{self._path}/{piece}", rows + scores.astype("<f8").tobytes())

    def remove(self) -> None:
        """Remove all.

        Raises:
            OSError: the storage can't be written, or does not answer.
        """
        self._storage.remove(self._path)
