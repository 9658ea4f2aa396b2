"""Compensation of an FCS file by its own spillover matrix (FCS 3.1, 3.2.20 $SPILLOVER)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from symadj.workers.data.formats.fcs_channels import Channel
from symadj.workers.data.formats.fcs_text import NUMBER, Keywords
from symadj.workers.data.formats.raw import InputFile, refuse

__all__ = ["Spillover", "read_spillover", "written_spillover"]

# The standard's keyword first; instruments wrote the same matrix by other names before there was one.
_NAMES = ("$SPILLOVER", "SPILL", "$SPILL", "SPILLOVER")
_BLOCK_ROWS = 1 << 16
_WORST_CONDITION = 1e12


def written_spillover(keywords: Keywords) -> str | None:
    """Return the keyword that holds a spillover matrix; None: there is none."""
    return next((name for name in _NAMES if keywords.text(name) is not None), None)


@dataclass(frozen=True, eq=False)
class Spillover:
    """What each label shows in each channel.

    Attributes:
        places: of the channels among those of the file, from 0.
        matrix: [channels, channels]; row i says how the label of channel i shows in each channel, so that what was
            measured is what was emitted times the matrix.
        note: that it was taken out.
    """

    places: tuple[int, ...]
    matrix: NDArray[np.float64]
    note: str

    def take_out(self, events: NDArray[np.float64], places: Sequence[int]) -> None:
        """Take spillover out of ``events`` [n, places] of the file's channels ``places``, in place."""
        columns = [places.index(place) for place in self.places]
        for first in range(0, len(events), _BLOCK_ROWS):
            block = events[first : first + _BLOCK_ROWS]
            block[:, columns] = np.linalg.solve(self.matrix.T, block[:, columns].T).T


def read_spillover(file: InputFile, keywords: Keywords, channels: Sequence[Channel]) -> Spillover:
    """Return the spillover matrix of a file.

    Raises:
        DataError: the file has no such matrix, or one that can't be taken out.
    """
    name = written_spillover(keywords)
    if name is None:
        raise refuse(file, f"has no spillover matrix ($SPILLOVER){_by_hardware(keywords)}: leave data.compensate out")
    places, matrix = _matrix(file, keywords, name, channels)
    if not np.linalg.cond(matrix) < _WORST_CONDITION:
        raise refuse(file, f"its spillover matrix ({name}) is singular, or too near to it to be taken out")
    note = f"spillover ({name}) was taken out of {', '.join(channels[place].name for place in places)}"
    return Spillover(tuple(places), matrix, note)


def _by_hardware(keywords: Keywords) -> str:
    """Say what older keywords mean: how much the instrument has subtracted already (3.2.20 $COMP, FCS 2.0 $DFCmTOn)."""
    older = keywords.first_of(r"\$COMP|\$DFC\d+TO\d+")
    return "" if older is None else f"; {older} says what the instrument has subtracted already"


def _matrix(
    file: InputFile, keywords: Keywords, name: str, channels: Sequence[Channel]
) -> tuple[list[int], NDArray[np.float64]]:
    """Return the places of the matrix's channels, and the matrix."""
    count, *parts = (part.strip() for part in keywords.required(name).split(","))
    size = int(count) if count.isascii() and count.isdigit() and len(count) < 6 else 0
    named, values = parts[:size], parts[size:]
    if not size or len(values) != size**2:
        raise refuse(
            file,
            f"its spillover matrix ({name}) has {len(values)} values, not {size**2}"
            if size
            else f"its spillover matrix ({name}) begins with {count[:100]!r}, not with the number of its channels",
        )
    wrong = next((value for value in values if NUMBER.fullmatch(value) is None), None)
    if wrong is not None:
        raise refuse(file, f"its spillover matrix ({name}) has the value {wrong[:100]!r}, which is not a number")
    if repeated := next((one for one in named if named.count(one) > 1), None):
        raise refuse(file, f"its spillover matrix ({name}) names {repeated!r} twice")
    return _places(file, name, named, channels), np.array(values, np.float64).reshape(size, size)


def _places(file: InputFile, name: str, named: Sequence[str], channels: Sequence[Channel]) -> list[int]:
    """Return the places of channels that are given by name ($PnN) or, as some instruments do, all by number."""
    known = [channel.name.strip() for channel in channels]
    if not set(named) & set(known) and all(one.isascii() and one.isdigit() for one in named):
        known = [str(channel.number) for channel in channels]
    for one in named:
        if known.count(one) != 1:
            what = "no channel" if one not in known else "the name of several channels"
            raise refuse(file, f"its spillover matrix ({name}) names {one[:100]!r}, which is {what} ($PnN)")
    return [known.index(one) for one in named]
