"""The channels ("parameters") of an FCS file: how their values are stored, and what scale they are on.

Sections are those of FCS 3.0 and 3.1 (3.2.20, the keywords), unless another version is named.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from decimal import ROUND_CEILING, Decimal

import numpy as np
from numpy.typing import NDArray

from symadj.workers.data.errors import DataError
from symadj.workers.data.formats.fcs_text import NUMBER, DataSet, Keywords
from symadj.workers.data.formats.raw import InputFile, refuse

__all__ = ["Channel", "Reading", "Scale", "reading_of", "stored_channels"]

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
    """A column of the events, as it is stored.

    Attributes:
        number: from 1: the n of $PnN.
        name: $PnN.
        marker: $PnS, or "".
        kind: A (ASCII), I (unsigned integer), F or D (floats of 32 or 64 bits).
        width: bytes of a value; None: ASCII of any length between delimiters.
    """

    number: int
    name: str
    marker: str
    kind: str
    width: int | None

    @property
    def dtype(self) -> str:
        """The type of the values, named as numpy does where numpy has it."""
        if self.kind == "A" or self.width is None:
            return "ASCII"
        return f"{'uint' if self.kind == 'I' else 'float'}{8 * self.width}"


@dataclass(frozen=True)
class Reading:
    """A channel that is read.

    Attributes:
        place: of the channel in an event, from 0.
        channel: how it is stored.
        mask: the bits of an integer that are part of the value; None: all.
        scale: what is to be done with a value.
    """

    place: int
    channel: Channel
    mask: int | None
    scale: Scale


def stored_channels(file: InputFile, found: DataSet) -> list[Channel]:
    """Return the $PAR channels of a data set.

    Raises:
        DataError: the type or the width of one is missing or can't be read, so that none can be.
    """
    keywords = found.keywords
    keywords.required("$PAR")
    count = keywords.whole("$PAR") or 0
    common = _kind(file, keywords, "$DATATYPE", "AIFD")
    # However many $PAR announces: the first channel without a width ($PnB) ends it.
    channels = [_stored(file, found, number, common) for number in range(1, count + 1)]
    if keywords.text(f"$P{count + 1}N") is not None:
        raise refuse(file, f"names a channel {count + 1} ($P{count + 1}N), and announces {count} ($PAR)")
    return channels


def reading_of(file: InputFile, found: DataSet, channel: Channel) -> Reading:
    """Return how the values of a channel become what was measured.

    Raises:
        DataError: a keyword of the channel makes no sense.
    """
    parameter = _Parameter(file, found, channel)
    return Reading(channel.number - 1, channel, parameter.mask(), parameter.scale())


def _kind(file: InputFile, keywords: Keywords, name: str, allowed: str) -> str:
    kind = keywords.required(name).upper()
    if kind not in tuple(allowed):
        raise refuse(file, f"{name} is {kind[:100]!r}: {', '.join(allowed)} can be read")
    return kind


def _stored(file: InputFile, found: DataSet, number: int, common: str) -> Channel:
    keywords = found.keywords
    name = keywords.text(f"$P{number}N") or f"P{number}"  # $PnN is optional up to FCS 3.0
    marker = (keywords.text(f"$P{number}S") or "").strip()
    kind = _own_kind(file, found, f"$P{number}DATATYPE", common, name)
    return Channel(number, name, marker, kind, _width(file, keywords, f"$P{number}B", kind, name))


def _own_kind(file: InputFile, found: DataSet, keyword: str, common: str, name: str) -> str:
    """Return $DATATYPE, or the channel's own type (FCS 3.2, $PnDATATYPE)."""
    if found.keywords.text(keyword) is None:
        return common
    kind = _kind(file, found.keywords, keyword, "IFD")
    if kind != common and found.version != "FCS3.2":
        raise refuse(
            file,
            f"{keyword} is {kind} beside $DATATYPE {common}, but {found.version} has no types by channel: export the "
            "file as FCS3.2, or with one type for all",
            column=name,
        )
    return kind


def _width(file: InputFile, keywords: Keywords, keyword: str, kind: str, name: str) -> int | None:
    """Return the bytes of a value (3.2.20 $PnB, $DATATYPE)."""
    written = keywords.required(keyword)
    if kind == "A" and written == "*":
        return None
    bits = keywords.whole(keyword) or 0
    if kind == "A":
        good, allowed = 0 < bits <= _MOST_DIGITS, f"1 to {_MOST_DIGITS} characters, or *, can be read"
    elif kind == "I":
        good = bits % 8 == 0 and 8 <= bits <= 64
        allowed = "integers of 8, 16, 24 and so on to 64 bits can be read, packed ones can't: export it with 16 or 32"
    else:
        good, allowed = bits == _FLOATS[kind], f"values of the type {kind} have {_FLOATS[kind]} bits"
    if not good:
        raise refuse(file, f"{keyword} is {written[:100]!r}: {allowed}", column=name)
    return bits if kind == "A" else bits // 8


class _Parameter:
    """Reads the keywords $Pn... of one channel that say what its values mean."""

    def __init__(self, file: InputFile, found: DataSet, channel: Channel) -> None:
        self._file, self._found, self._keywords, self._channel = file, found, found.keywords, channel
        self._name, self._is_float = channel.name, channel.kind in _FLOATS

    def mask(self) -> int | None:
        """Return the bits that a value below $PnR can have: those of the next power of two (3.3; FCS 3.1, $PnR)."""
        if self._channel.kind != "I":
            return None
        bits = (int(self._range().to_integral_value(ROUND_CEILING)) - 1).bit_length()
        # A range of 0 says nothing; flowCore masks nothing then.
        return None if self._range() <= 0 or bits >= 8 * (self._channel.width or 0) else (1 << bits) - 1

    def scale(self) -> Scale:
        """Return what $PnE, $PnG and $TIMESTEP say of the channel."""
        # 3.2.20 $TIMESTEP: the channel named TIME; FCS 3.2: or of the type Time
        endings = ("N", "TYPE") if self._found.version == "FCS3.2" else ("N",)
        time = "TIME" in {(self._keywords.text(self._key(ending)) or "").strip().upper() for ending in endings}
        scale = self._amplified()
        if time and scale.decades:
            raise self._refused(f"{self._key('E')} gives time a logarithmic scale, but time is linear (FCS 3.2, $PnE)")
        scale = self._gained(scale, time)
        scale = self._stepped(scale) if time else scale
        if self._keywords.text(self._key("N")) is None:
            number, name = self._channel.number, self._key("N")
            scale = _noting(scale, f"channel {number} has no name ({name}): it is called {self._name}")
        return scale

    def _key(self, ending: str) -> str:
        return f"$P{self._channel.number}{ending}"

    def _refused(self, what: str) -> DataError:
        return refuse(self._file, what, column=self._name)

    def _range(self) -> Decimal:
        self._keywords.required(self._key("R"))
        return self._keywords.number(self._key("R")) or Decimal(0)

    def _amplified(self) -> Scale:
        """Return the scale of the amplifier: what was measured is f2 * 10^(f1 * value / $PnR) (3.2.20 $PnE).

        Floating-point values are linear, whatever the keyword still says of an amplifier (FCS 3.1, $PnE).
        """
        name = self._key("E")
        if self._keywords.text(name) is None:
            notes = (f"channel {self._name} has no amplifier type ({name}) and was taken as linear",)
            return Scale(notes=() if self._is_float else notes)
        written = self._keywords.required(name)[:100]
        parts = [float(part) if NUMBER.fullmatch(part) else -1.0 for part in map(str.strip, written.split(","))]
        if len(parts) == 2 and parts[0] == 0:
            return Scale()
        if self._is_float:
            self._refuse_ambiguous_gain(written)
            what = f"{name} {written} of channel {self._name} was not applied, since floating-point values are linear"
            return Scale(notes=(what,))
        if len(parts) != 2 or not 0 < parts[0] < 100 or not 0 <= parts[1] < math.inf:
            raise self._refused(f"{name} is {written!r}: 0,0 (linear) or decades and an offset, as 4,1, are expected")
        if self._range() <= 0:
            raise self._refused(f"{name} is {written!r} (logarithmic), which takes a range ({self._key('R')}) above 0")
        note = f"{parts[0]:g} decades of channel {self._name} ({name} {written}) were applied"
        # A logarithm starts above 0: FCS 3.1 has readers take 4,0 as 4,1, and flowCore does.
        return Scale(parts[0], parts[1] or 1.0, float(self._range()), notes=(note,))

    def _refuse_ambiguous_gain(self, written: str) -> None:
        """Refuse floats with decades and a gain: some instruments store logarithms so, which no gain divides."""
        if (gain := self._keywords.number(self._key("G"))) not in (None, 0, 1):
            raise self._refused(
                f"holds floating-point values with decades ({self._key('E')} {written}) and a gain ({self._key('G')} "
                f"{gain}), which no linear channel has both: leave it out of data.columns, or export it without one"
            )

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
