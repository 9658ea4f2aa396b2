"""DATA of an FCS file: its events, a block of them at a time.

Sections are those of FCS 3.0 and 3.1 (3.3 DATA, 3.2.20 for the keywords), unless another version is named.
"""

from __future__ import annotations

import contextlib
import itertools
import re
from collections.abc import Iterator, Sequence
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from symadj.workers.data.formats.fcs_channels import Channel, Reading
from symadj.workers.data.formats.fcs_text import NUMBER, DataSet
from symadj.workers.data.formats.raw import InputFile, refuse, refuse_larger_than_memory

__all__ = ["read_events"]

_BLOCK_BYTES = 1 << 19  # small enough for a processor's cache
_LARGEST_EXACT = 2**53  # whole number in float64
_IN_NUMBERS = np.isin(np.arange(256), np.frombuffer(b"0123456789+-.eE \0", np.uint8))
_SEPARATORS = bytes.maketrans(b",\t\r\n\0", b"     ")  # of ASCII values

Events = NDArray[np.float64]


def read_events(
    file: InputFile,
    stream: BinaryIO,
    size: int,
    found: DataSet,
    channels: Sequence[Channel],
    wanted: Sequence[Reading],
) -> tuple[Events, list[str]]:
    """Return the scaled events [n, wanted] of a data set in a file of ``size`` bytes, and notes on what was done.

    Raises:
        DataError: the events are not what the keywords announce, are too many for the memory, or can't be read.
    """
    _refuse_histograms(file, found)
    delimited = [channel.width is None for channel in channels]
    if any(delimited) and not all(delimited):
        raise refuse(file, f"$P{1 + delimited.index(True)}B is * (ASCII between delimiters), that of others is not")
    begin, ends = _place(file, found)
    if all(delimited):
        place = begin, _last(file, found, begin, ends, size)
        return _read_delimited(file, stream, place, found, len(channels), wanted), []
    total = _total(file, found, begin, ends, [channel.width or 0 for channel in channels])
    layout = _Layout(file, found, channels, wanted)
    if total and found.start + begin + total * layout.row_bytes > size:
        raise refuse(
            file,
            f"announces {total} events ($TOT) of {layout.row_bytes} bytes from byte {found.start + begin} on, and has "
            f"only {size} bytes: it is cut",
        )
    refuse_larger_than_memory(file, 8 * total * len(wanted))
    events = np.empty((total, len(wanted)))
    masked: set[Channel] = set()
    stream.seek(found.start + begin)
    for first in range(0, total, layout.block_rows):
        block = events[first : first + layout.block_rows]
        masked |= layout.decode(stream.read(len(block) * layout.row_bytes), block, first)
    numbers = {channel.number: channel.name for channel in masked}
    return events, [
        f"bits above the range of channel {numbers[number]} ($P{number}R) were masked" for number in sorted(numbers)
    ]


def _refuse_histograms(file: InputFile, found: DataSet) -> None:
    """Refuse all but lists of events (3.2.20 $MODE; FCS 3.2 has no other mode, and the keyword is optional)."""
    mode = (found.keywords.text("$MODE") or "L").strip()
    if mode.upper() != "L":
        raise refuse(file, f"holds histograms ($MODE is {mode[:100]}), not a list of events ($MODE L)")


def _place(file: InputFile, found: DataSet) -> tuple[int, list[int]]:
    """Return the first byte of DATA, and what HEADER and TEXT have for the last (3.1, 3.2.20 $BEGINDATA, $ENDDATA).

    HEADER has 0 where TEXT alone says it; FCS 2.0 has HEADER alone.
    """
    in_header, last_in_header = found.header_data
    in_text, last_in_text = (found.keywords.whole(name) or 0 for name in ("$BEGINDATA", "$ENDDATA"))
    if in_header and (found.version == "FCS2.0" or not in_text):
        return in_header, [last_in_header]
    if in_header and in_header != in_text:
        raise refuse(
            file, f"$BEGINDATA is {in_text}, HEADER has {in_header} as the first byte of the events: one is wrong"
        )
    return in_text, [last_in_text, last_in_header]


def _total(file: InputFile, found: DataSet, begin: int, ends: Sequence[int], widths: Sequence[int]) -> int:
    """Return the number of events, checked against the bytes that DATA is announced to have.

    The last byte may be given as the one behind it, as many instruments do.
    """
    total, row_bytes = found.keywords.whole("$TOT"), sum(widths)
    sizes = [end - begin + 1 for end in ends if begin and end]
    shown = " or ".join(map(str, dict.fromkeys(sizes))) or "unknown"
    if total is None:  # optional in FCS 2.0
        counts = {size // row_bytes for size in sizes if size >= 0 and size % row_bytes in (0, 1)}
        if len(counts) != 1:
            raise refuse(
                file,
                f"does not say how many events it holds ($TOT), and its {shown} bytes of data (HEADER, $ENDDATA) are "
                f"not a whole number of events of {row_bytes} bytes ($PnB)",
            )
        return counts.pop()
    if total and not begin:
        raise refuse(file, "says neither in HEADER nor by $BEGINDATA where its events begin")
    if sizes and not {total * row_bytes, total * row_bytes + 1}.intersection(sizes):
        raise refuse(
            file,
            f"holds {max(sizes[0], 0) * len(widths) // row_bytes} values, not the {total} events ($TOT) of "
            f"{len(widths)} channels ($PAR) that it announces: data are {shown} bytes ($BEGINDATA, $ENDDATA), an event "
            f"is {row_bytes} ($PnB)",
        )
    return total


def _last(file: InputFile, found: DataSet, begin: int, ends: Sequence[int], size: int) -> int:
    """Return the last byte of delimited ASCII data."""
    end = next((end for end in ends if end), begin - 1)
    if begin and not begin <= end < size - found.start:
        raise refuse(file, f"$ENDDATA is {end}, its events begin at byte {begin}, and the file has {size}: it is cut")
    return end


class _Layout:
    """How an event of fixed width is stored.

    numpy reads integers of 1, 2, 4 and 8 bytes and floats where they are, the least or the most significant byte first.
    Where a wanted channel is stored otherwise, the bytes are moved to such places first.
    """

    def __init__(self, file: InputFile, found: DataSet, channels: Sequence[Channel], wanted: Sequence[Reading]) -> None:
        self._file, self._wanted = file, wanted
        begins = [0, *itertools.accumulate(channel.width or 0 for channel in channels)]
        self.row_bytes = begins[-1]
        offsets = [begins[one.place] for one in wanted]
        in_bytes = all(one.channel.kind == "A" or one.channel.width == 1 for one in wanted)
        order = (1,) if in_bytes else _byte_order(file, found)
        significance = [_significance(file, order, one.channel) for one in wanted]
        formats = [_format(one.channel, places) for one, places in zip(wanted, significance, strict=True)]
        self._moves: tuple[NDArray[np.intp], NDArray[np.intp]] | None = None
        room = self.row_bytes
        if None in formats:
            formats = [_moved_format(one.channel) for one in wanted]
            sources = [begin + place for begin, places in zip(offsets, significance, strict=True) for place in places]
            *offsets, room = itertools.accumulate((np.dtype(one).itemsize for one in formats), initial=0)
            targets = [
                begin + n for begin, places in zip(offsets, significance, strict=True) for n in range(len(places))
            ]
            self._moves = np.array(sources), np.array(targets)
        # The usual file: floats, all of which are read. One copy of the whole block takes half the time.
        whole = formats if len(wanted) == len(channels) and offsets == sorted(offsets) else []
        self._all_alike = whole[0] if len(set(whole)) == 1 and "f" in str(whole[0]) and self._moves is None else None
        self.block_rows = max(1, _BLOCK_BYTES // max(room, 8 * len(wanted)))
        names = [str(column) for column in range(len(wanted))]
        self._dtype = np.dtype({"names": names, "formats": formats, "offsets": offsets, "itemsize": room})

    def decode(self, raw: bytes, events: Events, first: int) -> set[Channel]:
        """Write the scaled events [n, wanted] that ``raw`` holds, whose first is the file's event ``first``.

        Return the channels that had bits above their range.
        """
        masked = set()
        block = np.frombuffer(raw, np.uint8).reshape(len(events), self.row_bytes)
        if self._moves is not None:
            sources, targets = self._moves
            moved = np.zeros((len(block), self._dtype.itemsize), np.uint8)
            moved[:, targets] = block[:, sources]
            block = moved
        if self._all_alike is not None:
            events[:] = block.view(self._all_alike)
        rows = block.view(self._dtype)[:, 0]
        for column, one in enumerate(self._wanted):
            if self._all_alike is None and self._decode_one(one, rows[str(column)], events[:, column], first):
                masked.add(one.channel)
            one.scale.apply(events[:, column])
        return masked

    def _decode_one(self, one: Reading, stored: NDArray[Any], values: Events, first: int) -> bool:
        """Write the ``values`` [n] of a channel, and return whether any had bits above the range."""
        if one.channel.kind == "A":
            values[:] = _numbers(self._file, stored, one.channel, first)
            return False
        masked = one.mask is not None and bool((stored > one.mask).any())
        if masked:
            stored = stored & stored.dtype.type(one.mask)
        _refuse_inexact(self._file, stored, one.channel, first)
        values[:] = stored
        return masked


def _format(channel: Channel, significance: Sequence[int]) -> str | None:
    """Return numpy's name of what is stored with its bytes at ``significance``; None: it has none."""
    width = channel.width or 0
    if channel.kind == "A":
        return f"S{width}"
    ascending = list(significance) == list(range(width))
    if width not in (1, 2, 4, 8) or not (ascending or list(significance) == list(range(width))[::-1]):
        return None
    return f"{'<' if ascending else '>'}{'u' if channel.kind == 'I' else 'f'}{width}"


def _moved_format(channel: Channel) -> str:
    """Return numpy's name of what has its bytes in order from the least significant on, in the next width it knows."""
    width = channel.width or 0
    if channel.kind == "A":
        return f"S{width}"
    return f"<{'u' if channel.kind == 'I' else 'f'}{1 << (width - 1).bit_length()}"


def _byte_order(file: InputFile, found: DataSet) -> tuple[int, ...]:
    """Return the significance of the bytes of a word, 1 for the least, in the order of the file (3.2.20 $BYTEORD)."""
    written = found.keywords.text("$BYTEORD") or ""
    parts = [part.strip() for part in written.split(",")]
    order = tuple(int(part) if re.fullmatch("[1-8]", part) else 0 for part in parts)
    if sorted(order) != list(range(1, len(order) + 1)):
        raise refuse(
            file,
            f"has the byte order ($BYTEORD) {written[:100]!r}: 1,2,3,4 (least significant first), 4,3,2,1 or another "
            "order of the bytes of a value can be read",
        )
    return order


def _significance(file: InputFile, order: tuple[int, ...], channel: Channel) -> list[int]:
    """Return where in a value of ``channel`` its bytes are, from the least significant to the most; ASCII in order."""
    width = channel.width or 0
    if channel.kind == "A" or width == 1 or (len(order) > 1 and list(order) == sorted(order)):
        return list(range(width))
    if len(order) > 1 and list(order) == sorted(order, reverse=True):
        return list(range(width))[::-1]
    if len(order) != width:
        raise refuse(
            file,
            f"the byte order ($BYTEORD) {','.join(map(str, order))} is that of {len(order)} bytes, values of "
            f"$P{channel.number}B have {width}",
            column=channel.name,
        )
    return [order.index(significance) for significance in range(1, width + 1)]


def _refuse_inexact(file: InputFile, stored: NDArray[Any], channel: Channel, first: int) -> None:
    """Refuse integers that float64 does not hold."""
    if stored.dtype.itemsize == 8 and stored.dtype.kind == "u" and (large := stored > _LARGEST_EXACT).any():
        row = int(large.argmax())
        raise refuse(
            file,
            f"is {stored[row]}, and whole numbers above 2^53 are not exact in floating point",
            column=channel.name,
            row=first + row,
        )


def _numbers(file: InputFile, written: NDArray[np.bytes_], channel: Channel, first: int) -> Events:
    """Return the numbers that ``written`` [n] spells (3.2.20 $DATATYPE A)."""
    values = np.full(len(written), np.nan)
    # Python's float() takes more for numbers, 1_0 and nan among it.
    if _IN_NUMBERS[np.ascontiguousarray(written).view(np.uint8)].all():
        with contextlib.suppress(ValueError):
            values = written.astype(np.float64)
    for row in np.flatnonzero(~(np.abs(values) < _LARGEST_EXACT)):
        text = bytes(written[row]).strip().decode("latin-1")
        whole = int(text) if re.fullmatch("[+-]?[0-9]{1,16}", text) else None
        values[row] = float(text) if NUMBER.fullmatch(text) else np.nan
        if not abs(values[row] if whole is None else whole) <= _LARGEST_EXACT:
            raise refuse(
                file,
                f"{text[:100]!r} is not a number of at most 2^53 in ASCII ($DATATYPE A)",
                column=channel.name,
                row=first + int(row),
            )
    return values


def _read_delimited(
    file: InputFile, stream: BinaryIO, place: tuple[int, int], found: DataSet, width: int, wanted: Sequence[Reading]
) -> Events:
    """Read ASCII values between delimiters, several of which are as one (3.2.20 $DATATYPE A, $PnB *).

    An event has ``width`` of them.
    """
    announced = found.keywords.whole("$TOT")
    count = sum(len(tokens) for tokens in _tokens(stream, found.start, place))
    if count % width or announced not in (None, count // width):
        raise refuse(
            file,
            f"holds {count} values in ASCII, not the {'' if announced is None else announced} events ($TOT) of "
            f"{width} channels ($PAR) that it announces",
        )
    refuse_larger_than_memory(file, 8 * count // width * len(wanted))
    events = np.empty((count // width, len(wanted)))
    done = 0
    for tokens in _tokens(stream, found.start, place):
        for column, one in enumerate(wanted):
            skipped = (one.place - done) % width
            written = np.array(tokens[skipped::width], np.bytes_)
            row = (done + skipped) // width
            events[row : row + len(written), column] = _numbers(file, written, one.channel, row)
        done += len(tokens)
    for column, one in enumerate(wanted):
        one.scale.apply(events[:, column])
    return events


def _tokens(stream: BinaryIO, start: int, place: tuple[int, int]) -> Iterator[list[bytes]]:
    """Yield the values between delimiters from the first byte of ``place`` to its last, a block at a time."""
    begin, end = place
    stream.seek(start + begin)
    left, rest = end - begin + 1, b""
    while left > 0:
        block = stream.read(min(left, _BLOCK_BYTES)).translate(_SEPARATORS)
        left -= len(block)
        if left and b" " in block:
            complete, _, tail = block.rpartition(b" ")
            yield (rest + complete).split()
            rest = tail
        elif left:
            rest += block
        else:
            yield (rest + block).split()
        if not block:
            return
