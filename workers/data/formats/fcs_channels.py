"""The channels ("parameters") of an FCS file: how their values are stored, and what scale they are on.

Sections are those of FCS 3.0 and 3.1 (3.2.20, the keywords), unless another version is named.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from decimal import ROUND_CEILING, Decimal

import numpy as np
from numpy.typing import NDArray

from symadj.workers.data.errors import DataError
from symadj.workers.data.formats.fcs_text import NUMBER, DataSet, Keywords
from symadj.workers.data.formats.raw import InputFile, refuse

__all__ = ["Channel", "Scale", "read_channels"]

_FLOATS = {"F": 32, "D": 64}  # bits
_MOST_DIGITS = 400  # of a number in ASCII


@dataclass(frozen=True)
class Scale:
    """How a stored value becomes what was measured: a power of ten, or a factor.

    Attributes:
        decades: that the channel's range spans, of a logarithmic amplifier; 0: linear.
        zero: what the stored 0 stands for, of a logarithmic amplifier.
        range: $PnR.
        divisor: the gain.
        factor: the time step in seconds.
        notes: what is applied, and what was written and is not.
    """

    decades: float = 0.0
    zero: float = 1.0
    range: float = 1.0
    divisor: float = 1.0
    factor: float = 1.0
    notes: tuple[str, ...] = ()

    def apply(self, values: NDArray[np.float64]) -> None:
        """Scale ``values`` [n] in place."""
        if self.decades:
            values[:] = 10 ** (self.decades * values / self.range) * self.zero
        if self.divisor != 1:
            values /= self.divisor
        if self.factor != 1:
            values *= self.factor


@dataclass(frozen=True)
class Channel:
    """A column of the events.

    Attributes:
        number: from 1: the n of $PnN.
        name: $PnN.
        marker: $PnS, or "".
        kind: A (ASCII), I (unsigned integer), F or D (floats of 32 or 64 bits).
        width: bytes of a value; None: ASCII of any length between delimiters.
        mask: the bits of an integer that are part of the value; None: all.
        scale: what is to be done with a value.
    """

    number: int
    name: str
    marker: str
    kind: str
    width: int | None
    mask: int | None = None
    scale: Scale = field(default_factory=Scale)


def read_channels(file: InputFile, found: DataSet) -> list[Channel]:
    """Return the $PAR channels of a data set.

    Raises:
        DataError: a keyword of theirs is missing, makes no sense, or asks for what can't be read.
    """
    keywords = found.keywords
    keywords.required("$PAR")
    count = keywords.whole("$PAR") or 0
    common = _kind(file, keywords, "$DATATYPE", "AIFD")
    # However many $PAR announces: the first channel without a width ($PnB) ends it.
    channels = [_Parameter(file, found, number, common).channel() for number in range(1, count + 1)]
    if keywords.text(f"$P{count + 1}N") is not None:
        raise refuse(file, f"names a channel {count + 1} ($P{count + 1}N), and announces {count} ($PAR)")
    return channels


def _kind(file: InputFile, keywords: Keywords, name: str, allowed: str) -> str:
    kind = keywords.required(name).upper()
    if kind not in tuple(allowed):
        raise refuse(file, f"{name} is {kind[:100]!r}: {', '.join(allowed)} can be read")
    return kind


class _Parameter:
    """Reads the keywords $Pn... of one channel."""

    def __init__(self, file: InputFile, found: DataSet, number: int, common: str) -> None:
        self._file, self._found, self._keywords, self._number = file, found, found.keywords, number
        name = self._keywords.text(self._key("N"))
        self._name = f"P{number}" if name is None else name
        self._named = name is not None
        self._kind = self._own_kind(common)

    def channel(self) -> Channel:
        marker = (self._keywords.text(self._key("S")) or "").strip()
        width = self._width()
        mask = self._mask(width) if self._kind == "I" and width is not None else None
        scale = self._scale()
        if not self._named:  # $PnN is optional up to FCS 3.0
            scale = _noting(scale, f"channel {self._number} has no name ({self._key('N')}): it is called {self._name}")
        return Channel(self._number, self._name, marker, self._kind, width, mask, scale)

    def _key(self, ending: str) -> str:
        return f"$P{self._number}{ending}"

    def _refused(self, what: str) -> DataError:
        return refuse(self._file, what, column=self._name)

    def _own_kind(self, common: str) -> str:
        """Return $DATATYPE, or the channel's own type (FCS 3.2, $PnDATATYPE)."""
        name, version = self._key("DATATYPE"), self._found.version
        if self._keywords.text(name) is None:
            return common
        kind = _kind(self._file, self._keywords, name, "IFD")
        if kind != common and version != "FCS3.2":
            raise self._refused(
                f"{name} is {kind} beside $DATATYPE {common}, but {version} has no types by channel: export the file "
                "as FCS3.2, or with one type for all",
            )
        return kind

    def _width(self) -> int | None:
        """Return the bytes of a value (3.2.20 $PnB, $DATATYPE)."""
        name, kind = self._key("B"), self._kind
        written = self._keywords.required(name)
        if kind == "A" and written == "*":
            return None
        bits = self._keywords.whole(name) or 0
        if kind == "A":
            if not 0 < bits <= _MOST_DIGITS:
                raise self._refused(f"{name} is {written[:100]!r}: 1 to {_MOST_DIGITS} characters, or *, can be read")
            return bits
        if kind == "I" and (bits % 8 or not 8 <= bits <= 64):
            raise self._refused(
                f"{name} is {written[:100]!r}: integers of 8, 16, 24 and so on to 64 bits can be read, packed ones "
                "can't: export the file with $PnB 16 or 32"
            )
        if kind in _FLOATS and bits != _FLOATS[kind]:
            raise self._refused(f"{name} is {written[:100]!r}: values of the type {kind} have {_FLOATS[kind]} bits")
        return bits // 8

    def _range(self) -> Decimal:
        self._keywords.required(self._key("R"))
        return self._keywords.number(self._key("R")) or Decimal(0)

    def _mask(self, width: int) -> int | None:
        """Return the bits that a value below $PnR can have: those of the next power of two (3.3; FCS 3.1, $PnR)."""
        bits = (int(self._range().to_integral_value(ROUND_CEILING)) - 1).bit_length()
        # A range of 0 says nothing; flowCore masks nothing then.
        return None if self._range() <= 0 or bits >= 8 * width else (1 << bits) - 1

    def _scale(self) -> Scale:
        """Return what $PnE, $PnG and $TIMESTEP say of the channel."""
        # 3.2.20 $TIMESTEP: the channel named TIME; FCS 3.2: or of the type Time
        endings = ("N", "TYPE") if self._found.version == "FCS3.2" else ("N",)
        time = "TIME" in {(self._keywords.text(self._key(ending)) or "").strip().upper() for ending in endings}
        scale = self._amplified()
        if time and scale.decades:
            raise self._refused(f"{self._key('E')} gives time a logarithmic scale, but time is linear (FCS 3.2, $PnE)")
        scale = self._gained(scale, time)
        return self._stepped(scale) if time else scale

    def _amplified(self) -> Scale:
        """Return the scale of the amplifier: what was measured is f2 * 10^(f1 * value / $PnR) (3.2.20 $PnE).

        Floating-point values are linear, whatever the keyword still says of an amplifier (FCS 3.1, $PnE).
        """
        name, is_float = self._key("E"), self._kind in _FLOATS
        if self._keywords.text(name) is None:
            notes = (f"channel {self._name} has no amplifier type ({name}) and was taken as linear",)
            return Scale(notes=() if is_float else notes)
        written = self._keywords.required(name)[:100]
        parts = [float(part) if NUMBER.fullmatch(part) else -1.0 for part in map(str.strip, written.split(","))]
        if len(parts) == 2 and parts[0] == 0:
            return Scale()
        if is_float:
            what = f"{name} {written} of channel {self._name} was not applied, since floating-point values are linear"
            return Scale(notes=(what,))
        if len(parts) != 2 or not 0 < parts[0] < 100 or not 0 <= parts[1] < math.inf:
            raise self._refused(f"{name} is {written!r}: 0,0 (linear) or decades and an offset, as 4,1, are expected")
        if self._range() <= 0:
            raise self._refused(f"{name} is {written!r} (logarithmic), which takes a range ({self._key('R')}) above 0")
        note = f"{parts[0]:g} decades of channel {self._name} ({name} {written}) were applied"
        # A logarithm starts above 0: FCS 3.1 has readers take 4,0 as 4,1, and flowCore does.
        return Scale(parts[0], parts[1] or 1.0, float(self._range()), notes=(note,))

    def _gained(self, scale: Scale, time: bool) -> Scale:
        """Return ``scale`` with the gain (3.2.20 $PnG), which only linear channels other than time have (FCS 3.2)."""
        gain = self._keywords.number(self._key("G"))
        if gain is None or gain == 1:
            return scale
        if gain < 0:
            raise self._refused(f"{self._key('G')} is {gain}: a gain is above 0")
        what = f"gain {gain} of channel {self._name} ({self._key('G')})"
        if gain and not time and not scale.decades:
            return replace(scale, divisor=float(gain), notes=(*scale.notes, f"{what} was applied"))
        reason = "no amplifier has it" if not gain else "time has none" if time else "the scale is logarithmic"
        return _noting(scale, f"{what} was not applied, since {reason}")

    def _stepped(self, scale: Scale) -> Scale:
        """Return ``scale`` with the time step, which makes seconds of ticks (3.2.20 $TIMESTEP)."""
        step = self._keywords.number("$TIMESTEP")
        if step is None or step == 1:
            return scale
        if step <= 0:
            raise self._refused(f"$TIMESTEP is {step}: the seconds of a tick, above 0, are expected")
        return replace(
            scale, factor=float(step), notes=(*scale.notes, f"$TIMESTEP {step} was applied to channel {self._name}")
        )


def _noting(scale: Scale, note: str) -> Scale:
    return replace(scale, notes=(*scale.notes, note))
