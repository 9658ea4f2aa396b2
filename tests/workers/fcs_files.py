"""A writer of FCS files, byte by byte, that shares nothing with the reader: what is written is what a test says."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

__all__ = ["Channel", "FcsFile", "joined"]


@dataclass(frozen=True)
class Channel:
    """A column as it is stored: its name, type (F, D, I, A), bits (characters of A; * between delimiters), keywords."""

    name: str = "FL1-A"
    kind: str = "F"
    bits: int | str = 32
    keywords: Mapping[str, str] = field(default_factory=dict)

    def stored(self, value: Any, order: Sequence[int]) -> bytes:
        if self.kind == "A":
            return str(value).encode().rjust(int(self.bits)) if self.bits != "*" else f"{value},".encode()
        width = int(self.bits) // 8
        little = struct.pack("<f" if self.kind == "F" else "<d", value) if self.kind in "FD" else None
        little = little or int(value).to_bytes(width, "little")
        if len(order) != width and list(order) == sorted(order):
            return little
        if len(order) != width:
            return little[::-1]
        return bytes(little[significance - 1] for significance in order)


@dataclass
class FcsFile:
    """A data set of ``rows`` under ``channels``.

    Attributes:
        keywords: without $; they take the place of those that the layout gives, and None leaves one out.
        supplement: keywords of the supplemental TEXT; none: there is no such segment.
        bare: keywords of a maker, written as they are.
        end_off: is added to the last byte of DATA, in HEADER and TEXT.
        header_data: DATA's places as HEADER has them; None: the true ones.
        data_from: where DATA begins.
    """

    rows: Sequence[Sequence[Any]]
    channels: Sequence[Channel]
    version: str = "FCS3.1"
    order: str = "1,2,3,4"
    delimiter: str = "/"
    keywords: Mapping[str, str | None] = field(default_factory=dict)
    supplement: Mapping[str, str] = field(default_factory=dict)
    bare: Sequence[tuple[str, str]] = ()
    end_off: int = 0
    header_data: tuple[int, int] | None = None
    data_from: int = 4096
    next_data: int = 0

    def text(self, pairs: Sequence[tuple[str, str]]) -> bytes:
        d = self.delimiter
        escaped = [part.replace(d, 2 * d) for pair in pairs for part in pair]
        return (d + d.join(escaped) + d).encode()

    def content(self) -> bytes:
        order = [int(part) for part in self.order.split(",") if part.strip()]
        data = b"".join(
            channel.stored(value, order) for row in self.rows for channel, value in zip(self.channels, row, strict=True)
        )
        begin, end = self.data_from, self.data_from + len(data) - 1 + self.end_off
        values: dict[str, str | None] = {
            "BEGINANALYSIS": "0",
            "ENDANALYSIS": "0",
            "BEGINSTEXT": "0",
            "ENDSTEXT": "0",
            "BEGINDATA": str(begin),
            "ENDDATA": str(end),
            "BYTEORD": self.order,
            "DATATYPE": self.channels[0].kind,
            "MODE": "L",
            "NEXTDATA": str(self.next_data),
            "PAR": str(len(self.channels)),
            "TOT": str(len(self.rows)),
        }
        for number, channel in enumerate(self.channels, 1):
            own = {"N": channel.name, "B": str(channel.bits), "E": "0,0", "R": "262144", **channel.keywords}
            values |= {f"P{number}{ending}": value for ending, value in own.items()}
            if channel.kind != values["DATATYPE"]:
                values[f"P{number}DATATYPE"] = channel.kind
        supplement = b""
        if self.supplement:
            supplement = self.text([(f"${name}", value) for name, value in self.supplement.items()])
            first = begin + len(data) + 10
            values |= {"BEGINSTEXT": str(first), "ENDSTEXT": str(first + len(supplement) - 1)}
        values |= self.keywords
        text = self.text([*self.bare, *((f"${name}", value) for name, value in values.items() if value is not None)])
        assert 58 + len(text) <= begin
        places = (58, 58 + len(text) - 1, *(self.header_data or (begin, end)), 0, 0)
        header = f"{self.version:<10}" + "".join(f"{place:>8}" for place in places)
        return (header.encode() + text).ljust(begin) + data + b" " * 10 + supplement + b"00000000"


def joined(*sets: FcsFile) -> bytes:
    """Return a file of several data sets, each of which names the next ($NEXTDATA)."""
    last = len(sets) - 1
    return b"".join(
        replace(one, next_data=len(one.content()) if place < last else 0).content() for place, one in enumerate(sets)
    )
