"""HEADER and TEXT of an FCS file: where a data set's parts lie, and its keywords.

Sections are those of FCS 3.0 and 3.1 (3.1 HEADER, 3.2 TEXT), unless another version is named.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from decimal import Decimal
from typing import BinaryIO

from symadj.workers.data.errors import DataError
from symadj.workers.data.formats.raw import InputFile, refuse

__all__ = ["NUMBER", "DataSet", "Keywords", "find_data_set"]

_VERSIONS = ("FCS2.0", "FCS3.0", "FCS3.1", "FCS3.2")
_HEADER_BYTES = 58
_BLANK = b" \t\r\n\0"
# The keywords that decide which numbers are read, and how they are called. All others may say anything.
_DECISIVE = (
    r"\$(?:P\d+(?:[BEGNRS]|DATATYPE|TYPE)|PAR|TOT|MODE|BYTEORD|DATATYPE|NEXTDATA|TIMESTEP|SPILLOVER"
    r"|(?:BEGIN|END)(?:DATA|STEXT))"
)
NUMBER = re.compile(r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]{1,6})?")
_IS_DECISIVE = re.compile(_DECISIVE, re.IGNORECASE)


class Keywords:
    """The keywords of a data set's TEXT segments with their values.

    Names are given as the standard writes them, with ``$`` and in upper case. A keyword without a value is as one that
    is not there: the standard has no empty values (3.2.9), instruments do.
    """

    def __init__(self, file: InputFile, values: dict[str, str]) -> None:
        self._file = file
        self._values = values

    def text(self, name: str) -> str | None:
        """Return the value as it was written; None: there is none."""
        value = self._values.get(name, "")
        return value if value.strip(" \t\r\n\0") else None

    def first_of(self, pattern: str) -> str | None:
        """Return the first keyword with a value whose name is of the ``pattern``; None: there is none."""
        return next((name for name in self._values if re.fullmatch(pattern, name) and self.text(name)), None)

    def required(self, name: str) -> str:
        """Return the value without spaces around it.

        Raises:
            DataError: there is none.
        """
        if (value := self.text(name)) is not None:
            return value.strip()
        bare = name.removeprefix("$")
        hint = f"; its {bare}, without $, is not the standard's keyword" if bare in self._values else ""
        raise refuse(self._file, f"has no value of the keyword {name}, without which events can't be read{hint}")

    def whole(self, name: str) -> int | None:
        """Return the value as a whole number of at least 0; None: there is none.

        Raises:
            DataError: it is something else.
        """
        number = self.number(name)
        if number is None:
            return None
        if number < 0 or number != number.to_integral_value():
            raise refuse(self._file, f"{name} is {self.required(name)[:100]!r}, not a whole number of at least 0")
        return int(number)

    def number(self, name: str) -> Decimal | None:
        """Return the value as a number; None: there is none.

        Raises:
            DataError: it is something else.
        """
        if self.text(name) is None:
            return None
        value = self.required(name)
        # Beyond these powers of ten no instrument counts, and a whole number with as many digits takes the memory.
        if NUMBER.fullmatch(value) is None or abs((number := Decimal(value)).adjusted()) > 400:
            raise refuse(self._file, f"{name} is {value[:100]!r}, not a number (write 1.5 with a point)")
        return number


@dataclass(frozen=True)
class DataSet:
    """One of the data sets of a file.

    Attributes:
        start: the byte of the file that its HEADER begins at, from which its other places are counted.
        version: as "FCS3.1".
        header_data: the first and the last byte of DATA as HEADER has them; 0: it does not say.
        keywords: of its TEXT segments.
    """

    start: int
    version: str
    header_data: tuple[int, int]
    keywords: Keywords


def find_data_set(file: InputFile, stream: BinaryIO, size: int, number: int | None) -> DataSet:
    """Return the data set ``number`` (from 1) of a file of ``size`` bytes; None: its only one.

    Raises:
        DataError: there is no such data set, several where one is expected, or one that can't be understood.
    """
    sets = _data_sets(file, stream, size)
    if number is None:
        first = next(sets)
        if count := _count(file, sets):
            raise refuse(
                file,
                f"holds several data sets ({1 + count}, $NEXTDATA): name the one to read by data.data_set, from 1 to "
                f"{1 + count}",
            )
        return first
    count = 0
    for count, found in enumerate(sets, 1):
        if count == number:
            return found
    raise refuse(file, f"has {count} data set{'s' if count > 1 else ''}, data.data_set is {number}")


def _count(file: InputFile, more: Iterator[DataSet]) -> int:
    """Return how many data sets follow the first."""
    try:
        return sum(1 for _ in more)
    except DataError as error:
        reason = str(error).removeprefix(f"{file.name}: ")
        raise refuse(
            file,
            f"holds several data sets or is damaged, since another begins where none can be read ({reason}): set "
            "data.data_set to 1 to read the first alone",
        ) from error


def _data_sets(file: InputFile, stream: BinaryIO, size: int) -> Iterator[DataSet]:
    """Yield the data sets of the file (3.2.20, $NEXTDATA: counted from the HEADER of the one before)."""
    start = 0
    while True:
        found = _read_data_set(file, stream, start, size)
        yield found
        distance = found.keywords.whole("$NEXTDATA") or 0
        if not distance:
            return
        start += distance
        if distance < _HEADER_BYTES or start + _HEADER_BYTES > size:
            raise refuse(
                file, f"$NEXTDATA names byte {start} as the beginning of the next data set, the file has {size} bytes"
            )


def _read_data_set(file: InputFile, stream: BinaryIO, start: int, size: int) -> DataSet:
    """Read HEADER (3.1) and TEXT (3.2) of the data set that begins at byte ``start``."""
    stream.seek(start)
    header = stream.read(_HEADER_BYTES)
    version = header[:6].decode("latin-1")
    if version not in _VERSIONS or len(header) < _HEADER_BYTES:
        where = f"at byte {start} " if start else ""
        raise refuse(file, f"begins {where}with {version!r}, not as an FCS file does: {', '.join(_VERSIONS)} are read")
    begin, end, *data = (_header_offset(file, header[place : place + 8]) for place in range(10, 42, 8))
    raw = _segment(file, stream, start, (begin, end), size, "TEXT (HEADER)")
    delimiter = raw[:1]
    values = _merged(file, {}, _pairs(file, raw[1:], delimiter))
    keywords = Keywords(file, values)
    begin, end = keywords.whole("$BEGINSTEXT") or 0, keywords.whole("$ENDSTEXT") or 0
    if begin and end >= begin:
        raw = _segment(file, stream, start, (begin, end), size, "the supplemental TEXT ($BEGINSTEXT, $ENDSTEXT)")
        keywords = Keywords(file, _merged(file, values, _pairs(file, raw, delimiter)))
    return DataSet(start, version, (data[0], data[1]), keywords)


def _header_offset(file: InputFile, field: bytes) -> int:
    """Return an offset of HEADER; 0 where it is blank or negative, as some write for "none"."""
    written = field.decode("latin-1").strip(" \0")
    if re.fullmatch(r"-?[0-9]*", written) is None or written == "-":
        raise refuse(file, f"HEADER has {written!r} where a byte of the file is expected")
    return max(int(written or 0), 0)


def _segment(file: InputFile, stream: BinaryIO, start: int, place: tuple[int, int], size: int, what: str) -> bytes:
    """Return the bytes of a segment of text, and the one behind it where that is its delimiter or blank.

    Instruments that leave the last byte out of a segment mean its last delimiter.
    """
    begin, end = place
    if not _HEADER_BYTES <= begin <= end or start + end >= size:
        raise refuse(
            file, f"{what} is announced from byte {start + begin} to {start + end}, the file has {size}: it may be cut"
        )
    stream.seek(start + begin)
    raw = stream.read(end - begin + 2)
    return raw if raw[-1:] in (raw[:1], *(bytes([blank]) for blank in _BLANK)) else raw[: end - begin + 1]


def _pairs(file: InputFile, text: bytes, delimiter: bytes) -> Iterator[tuple[str, str]]:
    """Yield keywords in upper case with their values, in order (3.2.5 to 3.2.10).

    The delimiter within a value is written twice. Right behind a keyword, two delimiters enclose an empty value, which
    the standard does not have; by its letter they would be one delimiter within a keyword, which no keyword of the
    standard has (unless the delimiter is a letter or a digit: then that letter is meant).
    """
    mark = re.escape(delimiter)
    inside = rb"(?:[^%b]++|%b%b)*+" % (mark, mark, mark)
    pair = re.compile(
        rb"(%b)%b(%b)(%b|\Z)" % (inside if delimiter.isalnum() else rb"[^%b]*+" % mark, mark, inside, mark)
    )
    text = text.lstrip(delimiter)
    place = 0
    while found := pair.match(text, place):
        place = found.end()
        keyword = found[1].replace(delimiter * 2, delimiter).strip(_BLANK).decode("latin-1").upper()
        raw = found[2] if found[3] else found[2].rstrip(delimiter)
        value = _decoded(raw.replace(delimiter * 2, delimiter))
        _refuse_misplaced(file, keyword, value, delimiter)
        if not found[3] and raw == raw.rstrip(_BLANK) and raw == found[2] and _IS_DECISIVE.fullmatch(keyword):
            raise refuse(file, f"TEXT ends within the value of {keyword}, {value[:100]!r}: the file or HEADER is cut")
        yield keyword, value
    if re.match(rb"\$[A-Za-z]", rest := text[place:].strip(_BLANK)):
        raise refuse(file, f"TEXT ends with the keyword {_decoded(rest[:100])!r}, which has no value")


def _decoded(raw: bytes) -> str:
    """Return a value as text: UTF-8 (FCS 3.1, 2.1), or Latin-1 where it is none."""
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError:
        return raw.decode("latin-1")


def _refuse_misplaced(file: InputFile, keyword: str, value: str, delimiter: bytes) -> None:
    """Refuse a value with a keyword in it: from there on values would be taken for keywords."""
    mark = re.escape(delimiter.decode("latin-1"))
    if re.search(rf"(?:^|{mark})\s*{_DECISIVE}\s*\Z", value, re.IGNORECASE):
        raise refuse(
            file,
            f"the value of {keyword[:100]} would be {value[-100:]!r}, which has a keyword in it: the delimiter "
            f"{delimiter.decode('latin-1')!r} is missing or doubled there, so that values can't be told from keywords",
        )


def _merged(file: InputFile, values: dict[str, str], pairs: Iterator[tuple[str, str]]) -> dict[str, str]:
    """Return ``values`` and ``pairs`` together. Of two values of one keyword the first that is not empty counts.

    Raises:
        DataError: two differ, and decide which numbers are read.
    """
    merged = dict(values)
    for keyword, value in pairs:
        known = merged.get(keyword, "").strip()
        if not known:
            merged[keyword] = value
        elif value.strip() not in ("", known) and _IS_DECISIVE.fullmatch(keyword):
            raise refuse(file, f"{keyword} stands in it twice, as {known[:100]!r} and as {value[:100]!r}")
    return merged
