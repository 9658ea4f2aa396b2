"""FCS as instruments write it, built byte by byte: what the standard says of each kind, and what is refused.

Sections are those of FCS 3.0 (and 3.1, whose numbers are the same) unless another version is named.
"""

from __future__ import annotations

import itertools
import string
import tracemalloc
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import flowio
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from symadj.service.contract.spec.data import FileData
from symadj.workers.data import DataError, Table
from symadj.workers.data.formats.fcs import read_fcs
from symadj.workers.data.formats.raw import InputFile, Raw
from tests.workers.fcs_files import Channel, FcsFile, joined
from tests.workers.loading import load_table

EVENTS = np.array([[1.5, 2.0], [3.5, 1000.25], [7.0, 512.0]])
COUNTS = np.array([[1, 2], [1023, 512]])
FLOATS = (Channel("FSC-A"), Channel("PE-A"))
VERSIONS = ("FCS2.0", "FCS3.0", "FCS3.1", "FCS3.2")


@pytest.fixture(autouse=True)
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SYMADJ_DATA_ROOTS", str(tmp_path))
    return tmp_path


def integers(bits: int = 16, **keywords: str) -> tuple[Channel, Channel]:
    """Two channels of 10 of ``bits``, FSC-A and PE-A; ``keywords`` are those of PE-A."""
    return Channel("FSC-A", "I", bits, {"R": "1024"}), Channel("PE-A", "I", bits, {"R": "1024", **keywords})


def write(
    path: Path, events: Sequence[Any] | np.ndarray = EVENTS, channels: Sequence[Channel] = FLOATS, **layout: Any
) -> None:
    rows = events.tolist() if isinstance(events, np.ndarray) else events
    path.write_bytes(FcsFile(rows, channels, **layout).content())


def load(path: str = "cells.fcs", **more: Any) -> Table:
    return load_table(FileData.model_validate({"kind": "file", "path": path, "batch_size": 1, **more}))


def read(path: Path, columns: Sequence[str] | None = None, **options: Any) -> Raw:
    return read_fcs(InputFile(path, path.name), columns, **options)


def refused(root: Path, words: str, **options: Any) -> None:
    with pytest.raises(DataError, match=rf"cells\.fcs.*{words}"):
        load(**options)


# 3.2.20 $DATATYPE, $PnB, $BYTEORD


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("order", ["1,2,3,4", "4,3,2,1"])
@pytest.mark.parametrize(("kind", "bits"), [("F", 32), ("D", 64)])
def test_floats_are_read_in_each_version_and_byte_order(
    root: Path, version: str, order: str, kind: str, bits: int
) -> None:
    channels = [Channel(name, kind, bits) for name in ("FSC-A", "PE-A")]
    write(root / "cells.fcs", EVENTS, channels, version=version, order=order)
    table = load()
    assert table.columns == ("FSC-A", "PE-A")
    np.testing.assert_array_equal(table.rows, EVENTS)


@pytest.mark.parametrize("bits", [16, 24, 32, 40, 48, 56, 64])
@pytest.mark.parametrize("order", ["1,2", "2,1", "1,2,3,4", "4,3,2,1"])
def test_integers_are_read_without_the_bits_above_their_range(root: Path, bits: int, order: str) -> None:
    # 3.3: "use a bit mask".
    write(root / "cells.fcs", COUNTS + 2048, integers(bits), order=order)
    np.testing.assert_array_equal(load().rows, COUNTS)


def test_bytes_have_no_order(root: Path) -> None:
    channels = [Channel(name, "I", 8, {"R": "256"}) for name in ("FSC-A", "PE-A")]
    write(root / "cells.fcs", [[1, 255], [254, 3]], channels, keywords={"BYTEORD": None})
    np.testing.assert_array_equal(load().rows, [[1, 255], [254, 3]])


@pytest.mark.parametrize("order", [*map(",".join, itertools.permutations("1234")), "4, 3, 2, 1"])
def test_words_are_read_in_any_order_of_their_bytes(root: Path, order: str) -> None:
    # 3.2.20 $BYTEORD: 3,4,1,2 is that of a PDP-11.
    values = [[0x01020304, 0xFFFEFDFC], [7, 1 << 24]]
    wide = [Channel(name, "I", 32, {"R": str(2**32)}) for name in ("FSC-A", "PE-A")]
    write(root / "cells.fcs", values, wide, order=order)
    np.testing.assert_array_equal(load().rows, values)
    write(root / "cells.fcs", EVENTS, order=order)
    np.testing.assert_array_equal(load().rows, EVENTS)


@pytest.mark.parametrize("order", ["3,4,1,2", "1", "0,1,2,3", "1,1,2,2", "little", "", "1,2,3,4,5,6,7,9"])
def test_an_order_that_does_not_say_where_a_byte_is_is_refused(root: Path, order: str) -> None:
    write(root / "cells.fcs", COUNTS, integers(), order="1,2", keywords={"BYTEORD": order})
    refused(root, r"\$BYTEORD")


@pytest.mark.parametrize(
    ("reach", "kept"), [("1000", 1023), ("1023", 1023), ("1024", 1023), ("1025", 2047), ("1024.0", 1023), ("1e3", 1023)]
)
def test_a_range_that_is_no_power_of_two_is_masked_by_the_next(root: Path, reach: str, kept: int) -> None:
    # FCS 3.1, 3.2.20 $PnR.
    write(root / "cells.fcs", [[5, 0xFFFF], [6, 1001]], integers(R=reach))
    raw = read(root / "cells.fcs")
    np.testing.assert_array_equal(raw.values, [[5, kept], [6, 1001]])
    assert raw.notes == ("bits above the range of channel PE-A ($P2R) were masked",)


@pytest.mark.parametrize("reach", ["65536", "65535", "4294967296", str(2**64), "0"])
def test_a_range_of_all_bits_or_of_none_masks_nothing(root: Path, reach: str) -> None:
    write(root / "cells.fcs", [[5, 0xFFFF], [6, 1001]], integers(R=reach))
    raw = read(root / "cells.fcs")
    np.testing.assert_array_equal(raw.values, [[5, 0xFFFF], [6, 1001]])
    assert raw.notes == ()


def test_channels_may_have_widths_of_their_own(root: Path) -> None:
    channels = [Channel(f"P{bits}", "I", bits, {"R": str(2**bits)}) for bits in (8, 32, 16, 64, 24)]
    values = [[255, 2**32 - 1, 2**16 - 1, 2**53, 2**24 - 1], [1, 2, 3, 4, 5]]
    for order in ("1,2,3,4", "4,3,2,1"):
        write(root / "cells.fcs", values, channels, order=order)
        np.testing.assert_array_equal(load().rows, values)


def test_whole_numbers_that_floats_do_not_hold_are_refused_with_their_place(root: Path) -> None:
    channels = [Channel(name, "I", 64, {"R": str(2**64)}) for name in ("FSC-A", "PE-A")]
    write(root / "cells.fcs", [[1, 2**53], [2, 2**53 + 1]], channels)
    refused(root, rf"column 'PE-A', row 1 .*is {2**53 + 1}, and whole numbers above 2\^53")


# FCS 3.2, 3.3.14 $DATATYPE and $PnDATATYPE


@pytest.mark.parametrize("order", ["1,2,3,4", "4,3,2,1"])
def test_a_channel_may_have_a_type_of_its_own(root: Path, order: str) -> None:
    channels = [
        Channel("FSC-A"),
        Channel("Number", "I", 32, {"R": "1024"}),
        Channel("Time", "D", 64),
        Channel("Flag", "I", 8, {"R": "4", "E": "0,0"}),
    ]
    rows = [[1.5, 1025, 1e-9, 5], [2.5, 7, 2.0, 3]]
    write(root / "cells.fcs", rows, channels, version="FCS3.2", order=order)
    np.testing.assert_array_equal(load().rows, [[1.5, 1, 1e-9, 1], [2.5, 7, 2.0, 3]])


def test_a_channel_of_an_integer_file_may_be_of_floats(root: Path) -> None:
    channels = [Channel("FSC-A", "I", 16, {"R": "1024"}), Channel("PE-A")]
    write(root / "cells.fcs", [[3, 0.25], [4, -1.5]], channels, version="FCS3.2")
    np.testing.assert_array_equal(load().rows, [[3, 0.25], [4, -1.5]])


def test_types_by_channel_are_refused_where_the_version_has_none(root: Path) -> None:
    write(root / "cells.fcs", [[1.5, 2]], [Channel("FSC-A"), Channel("Number", "I", 32)], version="FCS3.1")
    refused(root, r"column 'Number': \$P2DATATYPE is I beside \$DATATYPE F")
    write(root / "cells.fcs", keywords={"P2DATATYPE": "F"}, version="FCS3.1")
    np.testing.assert_array_equal(load().rows, EVENTS)


def test_a_file_of_version_3_2_needs_neither_a_mode_nor_places_of_segments_that_it_has_not(root: Path) -> None:
    # FCS 3.2: $MODE is deprecated, and these keywords are optional.
    absent = ("MODE", "NEXTDATA", "BEGINANALYSIS", "ENDANALYSIS", "BEGINSTEXT", "ENDSTEXT")
    write(root / "cells.fcs", version="FCS3.2", keywords=dict.fromkeys(absent))
    np.testing.assert_array_equal(load().rows, EVENTS)


@pytest.mark.parametrize("keyword", ["P1DATATYPE", "DATATYPE"])
def test_a_type_that_is_none_is_refused(root: Path, keyword: str) -> None:
    write(root / "cells.fcs", version="FCS3.2", keywords={keyword: "X"})
    refused(root, rf"\${keyword} is 'X': .*I, F, D can be read")


@pytest.mark.parametrize(
    ("channel", "bits"), [(Channel("A", "F"), "16"), (Channel("A", "F"), "64"), (Channel("A", "I", 16), "10")]
)
def test_widths_that_the_type_has_not_are_refused(root: Path, channel: Channel, bits: str) -> None:
    write(root / "cells.fcs", [[1]], [channel], keywords={"P1B": bits})
    refused(root, rf"column 'A': \$P1B is '{bits}'")


# 3.2.20 $DATATYPE A


@pytest.mark.parametrize("version", ["FCS2.0", "FCS3.0", "FCS3.1"])
def test_ascii_of_fixed_width_is_read(root: Path, version: str) -> None:
    channels = [Channel("FSC-A", "A", 4), Channel("PE-A", "A", 17)]
    write(root / "cells.fcs", [[12, 2**53], ["0007", 9999]], channels, version=version)
    np.testing.assert_array_equal(load().rows, [[12, 2**53], [7, 9999]])


@pytest.mark.parametrize("separators", [b" ", b",", b"\t", b"\n", b"\r\n", b", ", b",,, \n"])
def test_ascii_between_delimiters_is_read_several_of_which_are_one(root: Path, separators: bytes) -> None:
    write(
        root / "cells.fcs", [[12, 30], [7, 2]], [Channel(name, "A", "*") for name in ("FSC-A", "PE-A")], data_from=2000
    )
    content = (root / "cells.fcs").read_bytes()
    values = b"12,30,7,2,".replace(b",", separators)
    content = content.replace(b"/$ENDDATA/2009/", b"/$ENDDATA/%d/" % (1999 + len(values)))
    head = content[:2000].replace(b"    2009", b"%8d" % (1999 + len(values)))[:2000]
    (root / "cells.fcs").write_bytes(head + values)
    np.testing.assert_array_equal(load().rows, [[12, 30], [7, 2]])


def test_ascii_without_a_number_of_events_is_counted(root: Path) -> None:
    channels = [Channel(name, "A", "*") for name in ("FSC-A", "PE-A")]
    write(root / "cells.fcs", [[12, 30], [7, 2], [8, 9]], channels, version="FCS2.0", keywords={"TOT": None})
    np.testing.assert_array_equal(load().rows, [[12, 30], [7, 2], [8, 9]])


def test_ascii_of_many_blocks_is_read(root: Path) -> None:
    rows = np.random.default_rng(0).integers(0, 10**5, size=(150_000, 3))
    write(root / "cells.fcs", rows, [Channel(name, "A", "*") for name in "abc"])
    np.testing.assert_array_equal(load().rows, rows)


@pytest.mark.parametrize(
    ("bits", "rows", "words"),
    [
        (("*", "*"), [[1, 2], [3, "x"]], r"column 'PE-A', row 1 .*'x' is not a number"),
        ((4, 4), [[1, 2], ["", 3]], r"column 'FSC-A', row 1 .*'' is not a number"),
        ((4, 17), [[1, 2**53 + 1]], "column 'PE-A', row 0 .*'9007199254740993' is not a number of at most"),
        (("*", "*"), [[1.5, 2], ["1_0", 3]], r"column 'FSC-A', row 1 .*'1_0' is not a number"),
        (("*", "*"), [[1.5, 2], ["nan", 3]], r"column 'FSC-A', row 1 .*'nan' is not a number"),
        (("*", "*"), [[1, 2], [3, ""]], r"holds 3 values in ASCII, not the 2 events \(\$TOT\) of 2 channels"),
        (("*", "*"), [[1, 2], ["3,4", 5]], "holds 5 values in ASCII"),
        ((4, "*"), [[1, 2]], r"\$P2B is \*"),
        ((0, 4), [[1, 2]], r"\$P1B is '0'"),
    ],
)
def test_ascii_that_is_not_the_numbers_announced_is_refused(
    root: Path, bits: tuple[Any, Any], rows: list[Any], words: str
) -> None:
    channels = [Channel(name, "A", width) for name, width in zip(("FSC-A", "PE-A"), bits, strict=True)]
    write(root / "cells.fcs", rows, channels)
    refused(root, words)


# 3.2.20 $PnE, $PnG, $TIMESTEP


def test_channels_are_scaled_by_their_gain_or_their_decades(root: Path) -> None:
    first, second = integers(G="2.0")
    write(root / "cells.fcs", COUNTS, [Channel(first.name, "I", 16, {"R": "1024", "E": "4,1"}), second])
    raw = read(root / "cells.fcs")
    np.testing.assert_allclose(raw.values, np.stack([10 ** (4 * COUNTS[:, 0] / 1024), COUNTS[:, 1] / 2], 1))
    assert raw.notes == (
        "4 decades of channel FSC-A ($P1E 4,1) were applied",
        "gain 2.0 of channel PE-A ($P2G) was applied",
    )


@pytest.mark.parametrize(
    ("written", "decades", "zero"), [("4,1", 4, 1), ("3.5,0.1", 3.5, 0.1), ("4,0", 4, 1), (" 4.0 , 0.00 ", 4, 1)]
)
def test_decades_begin_with_what_the_second_number_says_and_never_with_zero(
    root: Path, written: str, decades: float, zero: float
) -> None:
    # FCS 3.1, 3.2.20 $PnE: f2 of 0 with decades is to be taken as 1; so does flowCore. The range needs no power of two.
    write(root / "cells.fcs", [[1, 0], [2, 500]], integers(E=written, R="1000"))
    np.testing.assert_allclose(load().rows[:, 1], [zero, zero * 10 ** (decades * 500 / 1000)])


@pytest.mark.parametrize("written", ["0,0", "0.0,0.0", "0,1", " 0 , 0 "])
def test_no_decades_are_linear(root: Path, written: str) -> None:
    write(root / "cells.fcs", COUNTS, integers(E=written))
    np.testing.assert_array_equal(load().rows, COUNTS)


@pytest.mark.parametrize("written", ["4", "4,1,2", "four,1", "-4,1", "4,-1", "4;1", "nan,1", "inf,0", "4,0,1,0"])
def test_decades_that_are_none_are_refused(root: Path, written: str) -> None:
    write(root / "cells.fcs", COUNTS, integers(E=written))
    refused(root, r"column 'PE-A': \$P2E is ")


def test_decades_over_no_range_are_refused(root: Path) -> None:
    write(root / "cells.fcs", COUNTS, integers(E="4,1", R="0"))
    refused(root, r"column 'PE-A': \$P2E is '4,1' \(logarithmic\), which takes a range \(\$P2R\) above 0")


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize(("kind", "bits"), [("F", 32), ("D", 64)])
@pytest.mark.parametrize("written", ["4.0,1", "4,0", "NA"])
def test_floats_are_linear_whatever_is_left_of_an_amplifier(
    root: Path, version: str, kind: str, bits: int, written: str
) -> None:
    # FCS 3.1, 3.2.20 $PnE.
    channels = [Channel("FSC-A", kind, bits), Channel("PE-A", kind, bits, {"E": written, "G": "1"})]
    write(root / "cells.fcs", EVENTS, channels, version=version)
    raw = read(root / "cells.fcs")
    np.testing.assert_array_equal(raw.values, EVENTS)
    assert raw.notes[0].startswith(f"$P2E {written} of channel PE-A was not applied")


def test_floats_with_decades_and_a_gain_are_refused_where_they_are_read(root: Path) -> None:
    # FCS 3.2, 3.3.46: never both. A Guava Muse stores logarithms so, as floats with the gain of the linear channel.
    channels = [
        Channel("FSC-HLin", keywords={"G": "2.95"}),
        Channel("FSC-HLog", keywords={"E": "4.0,1.0", "G": "2.95"}),
    ]
    write(root / "cells.fcs", EVENTS, channels)
    refused(
        root, r"column 'FSC-HLog': .*\(\$P2E 4\.0,1\.0\) and a gain \(\$P2G 2\.95\).*: leave it out of data\.columns"
    )
    np.testing.assert_array_equal(load(columns=["FSC-HLin"]).rows, EVENTS[:, :1] / 2.95)


def test_what_is_said_of_channels_that_are_not_read_need_not_make_sense(root: Path) -> None:
    channels = [
        Channel("FSC-A", "I", 64, {"R": "?"}),
        Channel("PE-A", "I", 16, {"G": "2"}),
        Channel("Time", "I", 16, {"E": "4"}),
        Channel("A", "I", 24),
    ]
    write(root / "cells.fcs", [[2**60, 3, 5, 7], [2**61, 4, 6, 9]], channels, keywords={"TIMESTEP": "fast"})
    np.testing.assert_array_equal(load(columns=["A", "PE-A"]).rows, [[7, 1.5], [9, 2]])
    np.testing.assert_array_equal(load(columns=["A"], context_columns=["PE-A"]).context, [[1.5], [2]])
    refused(root, r"column 'Time': \$P3E is '4'", columns=["Time"])
    refused(root, r"\$P1R is '\?'")
    refused(root, r"column 'nothing': has no column 'nothing'; it has: FSC-A, PE-A, Time, A", columns=["nothing"])


def test_decades_of_an_integer_channel_among_floats_are_applied(root: Path) -> None:
    channels = [Channel("FSC-A", keywords={"E": "4,1"}), Channel("PE-A", "I", 16, {"E": "4,1", "R": "1024"})]
    write(root / "cells.fcs", [[1.5, 512], [2.5, 0]], channels, version="FCS3.2")
    np.testing.assert_allclose(load().rows, [[1.5, 100], [2.5, 1]])


def test_a_gain_belongs_to_linear_channels_alone(root: Path) -> None:
    # FCS 3.2, 3.3.46 $PnG.
    write(root / "cells.fcs", COUNTS, integers(E="4,1", G="8"))
    raw = read(root / "cells.fcs")
    np.testing.assert_allclose(raw.values[:, 1], 10 ** (4 * COUNTS[:, 1] / 1024))
    assert raw.notes[1] == "gain 8 of channel PE-A ($P2G) was not applied, since the scale is logarithmic"


@pytest.mark.parametrize("gain", ["1", "1.0", "0", " "])
def test_a_gain_of_one_or_of_none_changes_nothing(root: Path, gain: str) -> None:
    write(root / "cells.fcs", keywords={"P2G": gain})
    np.testing.assert_array_equal(load().rows, EVENTS)


@pytest.mark.parametrize("gain", ["-2", "x", "1,5", "nan", "1_0", "1e99999", "1e999999999999"])
def test_a_gain_that_is_none_is_refused(root: Path, gain: str) -> None:
    write(root / "cells.fcs", keywords={"P2G": gain})
    refused(root, r"\$P2G is ")


@pytest.mark.parametrize("name", ["Time", "TIME", "time", "Time "])
def test_the_time_step_is_applied_to_time_and_its_gain_is_not(root: Path, name: str) -> None:
    channels = [Channel("FSC-A", keywords={"G": "2"}), Channel(name, keywords={"G": "0.01"}), Channel("Time-H")]
    write(root / "cells.fcs", [[1.5, 8, 3], [4.5, 16, 5]], channels, keywords={"TIMESTEP": "0.25"})
    raw = read(root / "cells.fcs")
    np.testing.assert_array_equal(raw.values, [[0.75, 2, 3], [2.25, 4, 5]])
    assert raw.notes == (
        "gain 2 of channel FSC-A ($P1G) was applied",
        f"gain 0.01 of channel {name} ($P2G) was not applied, since time has none",
        f"$TIMESTEP 0.25 was applied to channel {name}",
    )


def test_time_is_what_the_type_of_a_channel_says(root: Path) -> None:
    # FCS 3.2, 3.3.55 $PnTYPE; before it the keyword is a maker's.
    for version, ticks in (("FCS3.2", 4), ("FCS3.1", 1)):
        write(root / "cells.fcs", version=version, keywords={"P1TYPE": "Time", "TIMESTEP": "0.25"})
        np.testing.assert_array_equal(load().rows, EVENTS / [ticks, 1])


def test_a_time_step_without_a_channel_of_time_changes_nothing(root: Path) -> None:
    write(root / "cells.fcs", keywords={"TIMESTEP": "0.01"})
    np.testing.assert_array_equal(load().rows, EVENTS)


@pytest.mark.parametrize(
    ("keywords", "words"),
    [
        ({"TIMESTEP": "fast"}, r"\$TIMESTEP is 'fast', not a number"),
        ({"TIMESTEP": "0"}, r"column 'Time': \$TIMESTEP is 0"),
        ({"TIMESTEP": "-1"}, r"column 'Time': \$TIMESTEP is -1"),
        ({"P2E": "4,1"}, r"column 'Time': \$P2E gives time a logarithmic scale"),
    ],
)
def test_time_that_can_not_be_counted_is_refused(root: Path, keywords: dict[str, str], words: str) -> None:
    channels = [Channel("FSC-A", "I", 16), Channel("Time", "I", 16)]
    write(root / "cells.fcs", COUNTS, channels, keywords=keywords)
    refused(root, words)


# 3.2.5 to 3.2.10, 3.2.12: keywords and values


@pytest.mark.parametrize(
    "keywords",
    [
        {"P2S": "", "P2G": "4"},
        {"P2S": "", "COM": "", "P2G": "4"},
        {"P2G": "4", "P2S": ""},
        {"COM": "", "P2G": "4", "P2F": ""},
        {"P2S": "  ", "P2G": "4"},
        {"P2S": "", "P2G": "4", "COM": "RSX-11/M", "SRC": ""},
    ],
)
def test_an_empty_value_hides_no_keyword_behind_it(root: Path, keywords: dict[str, str]) -> None:
    # Against 3.2.9, and yet written: read as flowCore's emptyValue=TRUE reads it.
    write(root / "cells.fcs", keywords=keywords)
    np.testing.assert_array_equal(load().rows, EVENTS / [1, 4])


def test_an_empty_value_in_front_is_read(root: Path) -> None:
    write(root / "cells.fcs", bare=[("COMMENT", "")], keywords={"P2G": "4"})
    np.testing.assert_array_equal(load().rows, EVENTS / [1, 4])


@pytest.mark.parametrize("keyword", ["P2G", "P2E", "TIMESTEP", "P2S", "MODE", "NEXTDATA", "SPILLOVER", "BEGINSTEXT"])
def test_an_empty_value_of_what_may_be_missing_is_as_if_it_were(root: Path, keyword: str) -> None:
    write(root / "cells.fcs", keywords={keyword: ""})
    np.testing.assert_array_equal(load().rows, EVENTS)


@pytest.mark.parametrize("keyword", ["PAR", "DATATYPE", "P1B"])
@pytest.mark.parametrize("value", ["", None])
def test_what_must_be_there_is_asked_for_by_its_name(root: Path, keyword: str, value: str | None) -> None:
    write(root / "cells.fcs", keywords={keyword: value})
    refused(root, rf"has no value of the keyword \${keyword}")


def test_a_keyword_without_the_standards_mark_is_not_the_standards(root: Path) -> None:
    # 3.2.12
    write(root / "cells.fcs", keywords={"PAR": None}, bare=[("PAR", "2")])
    refused(root, r"no value of the keyword \$PAR.*its PAR, without \$")


@pytest.mark.parametrize("before", [True, False])
def test_a_makers_keywords_do_not_stand_for_the_standards(root: Path, before: bool) -> None:
    makers = [("P2G", "8"), ("p2e", "4,1"), ("TIMESTEP", "9"), ("P1N", "Ham"), ("TOT", "1"), ("DATATYPE", "I")]
    channels = [Channel("Time"), Channel("PE-A", keywords={"G": "4"})]
    write(root / "cells.fcs", EVENTS, channels, bare=makers if before else [], keywords={"TIMESTEP": "0.5"})
    if not before:
        content = (root / "cells.fcs").read_bytes()
        text = content[58 : content.index(b"  ", 58)]
        added = b"".join(f"{name}/{value}/".encode() for name, value in makers)
        head = content[:18] + b"%8d" % (57 + len(text + added)) + content[26:58] + text + added
        (root / "cells.fcs").write_bytes(head.ljust(4096) + content[4096:])
    table = load()
    assert table.columns == ("Time", "PE-A")
    np.testing.assert_array_equal(table.rows, EVENTS * [0.5, 0.25])


def test_keywords_are_read_in_any_case(root: Path) -> None:
    # 3.2.10
    write(root / "cells.fcs", EVENTS, [Channel("FSC-A"), Channel("Time", keywords={"G": "4"})], keywords={"P1G": "2"})
    content = (root / "cells.fcs").read_bytes()
    (root / "cells.fcs").write_bytes(content[:58] + content[58:4096].lower() + content[4096:])
    table = load()
    assert table.columns == ("fsc-a", "time")
    np.testing.assert_array_equal(table.rows, EVENTS / [2, 1])


# 3.2.7: it may not be the first character of a keyword or a value, as these are below.
DELIMITERS = [chr(code) for code in range(1, 127) if chr(code) not in "$01234FLTQax"]


@pytest.mark.parametrize("delimiter", DELIMITERS, ids=[hex(ord(delimiter)) for delimiter in DELIMITERS])
def test_any_character_may_be_the_delimiter(root: Path, delimiter: str) -> None:
    # 2.2.15, 3.2.5, 3.2.7
    keywords = {"P2G": "4", "COM": f"a{delimiter}b {delimiter}{delimiter} c", "TIMESTEP": "0.5"}
    channels = [Channel("Time"), Channel("x", keywords={"S": f"Q{delimiter}Q"})]
    write(root / "cells.fcs", EVENTS, channels, delimiter=delimiter, keywords=keywords)
    table = load(columns=["Time", f"Q{delimiter}Q"] if delimiter.isprintable() else None)
    np.testing.assert_array_equal(table.rows, EVENTS * [0.5, 0.25])


@pytest.mark.parametrize("delimiter", ["\x0c", "|", "\\", "*", "!", "\t", "\x1e", "^", "]"])
def test_empty_values_are_read_between_delimiters_of_many_kinds(root: Path, delimiter: str) -> None:
    write(root / "cells.fcs", delimiter=delimiter, keywords={"P1S": "", "P2S": "", "P2G": "4", "COM": ""})
    np.testing.assert_array_equal(load().rows, EVENTS / [1, 4])


@pytest.mark.parametrize("marker", ["CD4/CD8", "a//b", "end/", "RSX-11/M", "µm", "a / b"])
def test_a_delimiter_within_a_value_is_written_twice(root: Path, marker: str) -> None:
    # 3.2.7; FCS 3.1, 2.1: values are UTF-8.
    write(root / "cells.fcs", keywords={"P1S": marker, "P2G": "4"})
    raw = read(root / "cells.fcs", [marker, "PE-A"])
    assert raw.columns == (marker, "PE-A")
    np.testing.assert_array_equal(raw.values, EVENTS / [1, 4])


@pytest.mark.parametrize(
    ("keywords", "words"),
    [
        # By the letter of 3.2.7 the value is "CD3/$P2G", and 4 the next keyword.
        ([b"/$P2S/CD3//$P2G/4/"], r"value of \$P2S would be 'CD3/\$P2G'"),
        ([b"/$COM/one/two/$P2G/4/"], r"value of TWO would be '\$P2G'"),
        ([b"/$P2G/4/$P2G/8/"], r"\$P2G stands in it twice, as '4' and as '8'"),
        ([b"/$P2G/4/$p2g/8/"], r"\$P2G stands in it twice"),
        ([b"/$COM/a/$P2G"], r"TEXT ends with the keyword '\$P2G', which has no value"),
        ([b"/$COM/a/$P2G/"], r"TEXT ends within the value of \$P2G, ''"),
        ([b"/$COM/a/$P2G/4.2"], r"TEXT ends within the value of \$P2G, '4.2'"),
    ],
)
def test_keywords_that_can_not_be_told_from_values_are_refused(root: Path, keywords: list[bytes], words: str) -> None:
    write(root / "cells.fcs")
    content = (root / "cells.fcs").read_bytes()
    text = content[58 : int(content[18:26])] + keywords[0]
    head = content[:18] + b"%8d" % (57 + len(text)) + content[26:58] + text + b"x"
    (root / "cells.fcs").write_bytes(head.ljust(4096) + content[4096:])
    refused(root, words)


@pytest.mark.parametrize("repeated", [b"/$P2G/4/$P2G/4/", b"/$P2G//$P2G/4/", b"/$P2G/4/$COM/a/$COM/b/", b"//$P2G/4/"])
def test_a_keyword_that_stands_twice_and_says_the_same_is_read(root: Path, repeated: bytes) -> None:
    write(root / "cells.fcs", bare=[("X", "CHANGED")])
    content = (root / "cells.fcs").read_bytes()
    place = content.index(b"/X/CHANGED/")
    text = content[58:place] + repeated + content[place + 11 : int(content[18:26]) + 1]
    head = content[:18] + b"%8d" % (57 + len(text)) + content[26:58] + text
    (root / "cells.fcs").write_bytes(head.ljust(4096) + content[4096:])
    np.testing.assert_array_equal(load().rows, EVENTS / [1, 4])


@pytest.mark.parametrize("off", [-1, 1, 5])
def test_an_end_of_the_text_that_is_some_bytes_off_is_put_up_with(root: Path, off: int) -> None:
    write(root / "cells.fcs", keywords={"P2G": "4", "COM": "last"})
    content = (root / "cells.fcs").read_bytes()
    (root / "cells.fcs").write_bytes(content[:18] + b"%8d" % (int(content[18:26]) + off) + content[26:])
    np.testing.assert_array_equal(load().rows, EVENTS / [1, 4])


# 3.2.3 to 3.2.5: the supplemental TEXT


@pytest.mark.parametrize("delimiter", ["/", "|", "\x0c"])
def test_keywords_of_the_supplemental_text_count_as_those_of_the_first(root: Path, delimiter: str) -> None:
    supplement = {"P2S": "", "P2G": "4", "TIMESTEP": "0.5", "P1S": f"tick{delimiter}s", "SPILLOVER": "1,PE-A,2"}
    channels = [Channel("Time"), Channel("PE-A")]
    write(root / "cells.fcs", EVENTS, channels, supplement=supplement, delimiter=delimiter)
    raw = read(root / "cells.fcs", [f"tick{delimiter}s", "PE-A"], compensated=True)
    assert raw.columns == (f"tick{delimiter}s", "PE-A")
    np.testing.assert_array_equal(raw.values, EVENTS * [0.5, 0.125])


def test_a_supplemental_text_that_says_otherwise_is_refused(root: Path) -> None:
    write(root / "cells.fcs", keywords={"P2G": "4"}, supplement={"P2G": "8"})
    refused(root, r"\$P2G stands in it twice, as '4' and as '8'")


def test_a_supplemental_text_behind_the_end_of_the_file_is_refused(root: Path) -> None:
    write(root / "cells.fcs", keywords={"BEGINSTEXT": "9000", "ENDSTEXT": "9100"})
    refused(root, r"the supplemental TEXT \(\$BEGINSTEXT, \$ENDSTEXT\) is announced from byte 9000 to 9100")


# 3.2.20 $NEXTDATA


def three_sets() -> bytes:
    one = FcsFile(EVENTS.tolist(), FLOATS)
    other = FcsFile(COUNTS.tolist(), integers(G="2"), supplement={"P1G": "4"}, data_from=2048)
    return joined(one, other, FcsFile([[9.5]], [Channel("Time")]))


def test_a_file_with_several_data_sets_is_refused_with_the_option_that_reads_them(root: Path) -> None:
    (root / "cells.fcs").write_bytes(three_sets())
    refused(root, r"holds several data sets \(3, \$NEXTDATA\): name the one to read by data\.data_set, from 1 to 3")


def test_each_data_set_is_read_by_its_own_keywords_and_places(root: Path) -> None:
    (root / "cells.fcs").write_bytes(three_sets())
    np.testing.assert_array_equal(load(data_set=1).rows, EVENTS)
    np.testing.assert_array_equal(load(data_set=2).rows, COUNTS / [4, 2])
    assert load(data_set=3).columns == ("Time",)
    refused(root, "has 3 data sets, data.data_set is 4", data_set=4)


def test_the_only_data_set_is_the_first(root: Path) -> None:
    write(root / "cells.fcs")
    np.testing.assert_array_equal(load(data_set=1).rows, EVENTS)
    refused(root, "has 1 data set, data.data_set is 2", data_set=2)


@pytest.mark.parametrize("distance", ["4000", "2100000", "5"])
def test_a_next_data_set_that_is_not_there_is_refused_and_the_first_can_be_read(root: Path, distance: str) -> None:
    write(root / "cells.fcs", keywords={"NEXTDATA": distance})
    refused(root, "several data sets or is damaged.*: set data.data_set to 1 to read the first alone")
    np.testing.assert_array_equal(load(data_set=1).rows, EVENTS)


# 3.1 HEADER, 3.2.20 $BEGINDATA, $ENDDATA, $TOT


@pytest.mark.parametrize("version", ["FCS3.0", "FCS3.1", "FCS3.2"])
@pytest.mark.parametrize("header_data", [(0, 0), (4096, 0), (4096, 99_999_999)])
def test_a_header_that_leaves_the_places_to_the_text_is_read(
    root: Path, version: str, header_data: tuple[int, int]
) -> None:
    write(root / "cells.fcs", version=version, header_data=header_data)
    np.testing.assert_array_equal(load().rows, EVENTS)


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("keywords", [{}, {"BEGINDATA": "0", "ENDDATA": "0"}, {"BEGINDATA": None, "ENDDATA": None}])
def test_a_text_that_leaves_the_places_to_the_header_is_read(
    root: Path, version: str, keywords: Mapping[str, str | None]
) -> None:
    write(root / "cells.fcs", version=version, keywords=keywords)
    np.testing.assert_array_equal(load().rows, EVENTS)


def test_header_and_text_that_say_different_places_are_refused(root: Path) -> None:
    write(root / "cells.fcs", header_data=(4092, 4119))
    refused(root, r"\$BEGINDATA is 4096, HEADER has 4092")
    # FCS 2.0 has no such keywords.
    write(root / "cells.fcs", version="FCS2.0", keywords={"BEGINDATA": "4092", "ENDDATA": "4115"})
    np.testing.assert_array_equal(load().rows, EVENTS)


@pytest.mark.parametrize("total", [{}, {"TOT": None}])
def test_an_end_of_the_data_that_is_one_byte_off_is_put_up_with(root: Path, total: Mapping[str, None]) -> None:
    write(root / "cells.fcs", end_off=1, keywords=total)
    np.testing.assert_array_equal(load().rows, EVENTS)


@pytest.mark.parametrize("version", VERSIONS)
def test_events_that_are_not_counted_are_counted_by_the_bytes(root: Path, version: str) -> None:
    # $TOT is optional in FCS 2.0.
    write(root / "cells.fcs", version=version, keywords={"TOT": None})
    np.testing.assert_array_equal(load().rows, EVENTS)
    write(root / "cells.fcs", version=version, keywords={"TOT": None}, end_off=3)
    refused(root, r"does not say how many events it holds \(\$TOT\), and its 27 bytes .* are not a whole number")


@pytest.mark.parametrize(
    ("layout", "words"),
    [
        ({"keywords": {"TOT": "7"}}, r"holds 6 values, not the 7 events \(\$TOT\)"),
        ({"keywords": {"TOT": "2"}}, "holds 6 values, not the 2 events"),
        ({"keywords": {"TOT": "0"}}, "holds 6 values, not the 0 events"),
        ({"end_off": -1}, "holds 5 values, not the 3 events"),
        ({"end_off": 2}, "holds 6 values, not the 3 events"),
        ({"keywords": {"PAR": "1"}}, r"names a channel 2 \(\$P2N\), and announces 1 \(\$PAR\)"),
        ({"keywords": {"PAR": "3"}}, r"no value of the keyword \$P3B"),
        ({"keywords": {"PAR": "0", "P1N": None}}, "has no columns"),
        ({"keywords": {"MODE": "C"}}, "holds histograms"),
        ({"keywords": {"MODE": "u"}}, "holds histograms"),
        ({"keywords": {"TOT": "many"}}, r"\$TOT is 'many', not a number"),
        ({"keywords": {"TOT": "-3"}}, r"\$TOT is '-3', not a whole number"),
        ({"keywords": {"PAR": "1.5"}}, r"\$PAR is '1.5', not a whole number"),
        ({"keywords": {"P1N": "PE-A"}}, "more than one column 'PE-A'"),
        ({"version": "FCS1.0"}, "begins with 'FCS1.0', .*: FCS2.0, FCS3.0, FCS3.1, FCS3.2 are read"),
        ({"version": "FCS9.9"}, "begins with 'FCS9.9'"),
        ({"header_data": (0, 0), "keywords": {"BEGINDATA": "0", "ENDDATA": "0"}}, "where its events begin"),
    ],
)
def test_what_would_be_read_as_other_numbers_than_were_measured_is_refused(
    root: Path, layout: dict[str, Any], words: str
) -> None:
    write(root / "cells.fcs", **layout)
    refused(root, words)


@pytest.mark.parametrize("length", [0, 3, 40, 58, 700, 4095, 4096, 4119])
def test_a_file_that_was_cut_is_refused(root: Path, length: int) -> None:
    write(root / "cells.fcs")
    content = (root / "cells.fcs").read_bytes()
    (root / "cells.fcs").write_bytes(content[:length])
    refused(root, "")


@pytest.mark.parametrize(
    "keywords", [{"TOT": str(10**12)}, {"PAR": str(10**9)}, {"TOT": str(10**18)}, {"P1B": "8" * 300}]
)
def test_a_text_that_announces_vast_amounts_takes_no_memory(root: Path, keywords: dict[str, str]) -> None:
    rows = int(keywords.get("TOT", 3))
    end = 4096 + 8 * rows - 1
    write(root / "cells.fcs", keywords={"ENDDATA": str(end), **keywords}, header_data=(0, 0))
    tracemalloc.start()
    with pytest.raises(DataError, match=r"cells\.fcs"):
        load()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 10 << 20


def test_events_of_many_blocks_are_read(root: Path) -> None:
    rows = np.random.default_rng(0).integers(0, 2**16, size=(700_000, 3))
    channels = [Channel("a", "I", 16, {"R": "65536"}), Channel("b", "F"), Channel("c", "I", 64, {"R": "65536"})]
    write(root / "head.fcs", rows[:1], channels, version="FCS3.2", keywords={"TOT": "700000", "P1G": "2"})
    records = np.empty(len(rows), [("a", "<u2"), ("b", "<f4"), ("c", "<u8")])
    for place, name in enumerate("abc"):
        records[name] = rows[:, place]
    head = (root / "head.fcs").read_bytes()[:4096]
    end = b"%d" % (4095 + records.nbytes)
    head = head.replace(b"/$ENDDATA/4109/", b"/$ENDDATA/" + end + b"/").replace(b"    4109", end.rjust(8))
    (root / "cells.fcs").write_bytes(head[:18] + b"%8d" % (int(head[18:26]) + 4) + head[26:4096] + records.tobytes())
    np.testing.assert_array_equal(load().rows, rows / [2, 1, 1])


# Names, markers, spillover


def test_a_channel_can_be_called_by_its_marker(root: Path) -> None:
    write(root / "cells.fcs", keywords={"P2S": "CD4"})
    table = load(columns=["CD4"], context_columns=["FSC-A"])
    assert (table.columns, table.context_columns) == (("CD4",), ("FSC-A",))
    np.testing.assert_array_equal(table.rows[:, 0], EVENTS[:, 1])
    assert load(context_columns=["CD4"]).columns == ("FSC-A",)
    assert load().columns == ("FSC-A", "PE-A")


@pytest.mark.parametrize("name", ["", None])
def test_a_channel_without_a_name_is_called_by_its_number(root: Path, name: str | None) -> None:
    # $PnN is optional up to FCS 3.0.
    write(root / "cells.fcs", version="FCS3.0", keywords={"P2N": name})
    raw = read(root / "cells.fcs")
    assert raw.columns == ("FSC-A", "P2")
    assert raw.notes == ("channel 2 has no name ($P2N): it is called P2",)


EMITTED = np.array([[100.0, 0.0], [0.0, 50.0], [3.0, 4.0]])
# A tenth of the light of the first label is seen in the second channel as well.
MEASURED = np.array([[100.0, 10.0], [0.0, 50.0], [3.0, 4.3]])


@pytest.mark.parametrize("keyword", ["$SPILLOVER", "SPILL", "$SPILL", "SPILLOVER"])
@pytest.mark.parametrize("matrix", ["2,PE-A,FSC-A,1,0,0.1,1", " 2, PE-A, FSC-A, 1, 0, 1e-1, 1 ", "2,2,1,1,0,0.1,1"])
def test_spillover_is_taken_out_where_it_is_asked_for(root: Path, keyword: str, matrix: str) -> None:
    write(root / "cells.fcs", MEASURED, bare=[(keyword, matrix)])
    raw = read(root / "cells.fcs")
    np.testing.assert_allclose(raw.values, MEASURED, rtol=1e-6)
    assert raw.notes == (f"spillover ({keyword}) was left in: data.compensate takes it out",)
    raw = read(root / "cells.fcs", compensated=True)
    np.testing.assert_allclose(raw.values, EMITTED, rtol=1e-6, atol=1e-6)
    assert raw.notes[0].startswith(f"spillover ({keyword}) was taken out of ")
    np.testing.assert_array_equal(load(compensate=True).rows, raw.values)


def test_the_standards_spillover_goes_before_a_makers(root: Path) -> None:
    bare = [("SPILL", "2,PE-A,FSC-A,1,0,0.9,1"), ("SPILLOVER", "2,PE-A,FSC-A,1,0,0.8,1")]
    write(root / "cells.fcs", MEASURED, bare=bare, supplement={"SPILLOVER": "2,PE-A,FSC-A,1,0,0.1,1"})
    np.testing.assert_allclose(load(compensate=True).rows, EMITTED, rtol=1e-6, atol=1e-6)


def test_spillover_is_taken_out_of_a_channel_by_others_that_are_not_asked_for(root: Path) -> None:
    write(root / "cells.fcs", MEASURED, keywords={"SPILLOVER": "2,PE-A,FSC-A,1,0,0.1,1"})
    table = load(compensate=True, columns=["PE-A"])
    np.testing.assert_allclose(table.rows, EMITTED[:, 1:], rtol=1e-6, atol=1e-6)


def test_spillover_is_of_scaled_values(root: Path) -> None:
    first, second = integers(G="2", R="4096", B="16")
    write(root / "cells.fcs", [[100, 20], [0, 100]], [first, second], keywords={"SPILLOVER": "2,FSC-A,PE-A,1,0.1,0,1"})
    np.testing.assert_allclose(load(compensate=True).rows, [[100, 0], [0, 50]], atol=1e-9)


@pytest.mark.parametrize(
    ("keywords", "words"),
    [
        ({}, "has no spillover matrix"),
        ({"COMP": "2,0,-10,0,0"}, r"no spillover matrix .*\$COMP says what the instrument has subtracted already"),
        ({"DFC1TO2": "10.0"}, r"no spillover matrix .*\$DFC1TO2 says"),
        ({"SPILLOVER": "2,PE-A,V450-A,1,0,0.1,1"}, "names 'V450-A', which is no channel"),
        ({"SPILLOVER": "2,1,3,1,0,0.1,1"}, "names '3', which is no channel"),
        ({"SPILLOVER": "2,PE-A,FSC-A,1,0,0.1"}, "has 3 values, not 4"),
        ({"SPILLOVER": "2,PE-A,FSC-A,1,1,1,1"}, "singular"),
        ({"SPILLOVER": "2,PE-A,FSC-A,1,1,1,1.0000000000001"}, "singular"),
        ({"SPILLOVER": "2,PE-A,FSC-A,1,x,0,1"}, "has the value 'x', which is not a number"),
        ({"SPILLOVER": "2,PE-A,FSC-A,1,nan,0,1"}, "has the value 'nan'"),
        ({"SPILLOVER": "2,PE-A,PE-A,1,0,0,1"}, "names 'PE-A' twice"),
        ({"SPILLOVER": "two,PE-A,FSC-A,1,0,0,1"}, "begins with 'two'"),
        ({"SPILLOVER": "0"}, "begins with '0'"),
    ],
)
def test_a_spillover_matrix_that_cannot_be_applied_is_refused(root: Path, keywords: dict[str, str], words: str) -> None:
    write(root / "cells.fcs", keywords=keywords)
    refused(root, words, compensate=True)


def test_a_spillover_matrix_of_a_name_that_several_channels_have_is_refused(root: Path) -> None:
    channels = [Channel("PE-A"), Channel("PE-A"), Channel("FSC-A")]
    write(root / "cells.fcs", [[1, 2, 3]], channels, keywords={"SPILLOVER": "1,PE-A,1"})
    refused(root, "names 'PE-A', which is the name of several channels", columns=["FSC-A"], compensate=True)


# All at once


VALUES = st.text(
    st.characters(codec="utf-8", categories=["L", "N", "P", "S", "Zs"], exclude_characters="$"), max_size=8
)


@st.composite
def files(draw: st.DrawFn) -> tuple[FcsFile, np.ndarray]:
    """A file of any layout that the standard has, and its events as they are to be read."""
    version = draw(st.sampled_from(VERSIONS))
    delimiter = draw(st.sampled_from([mark for mark in DELIMITERS if not mark.isalnum()]))
    common = draw(st.sampled_from("IFD"))
    count, rows = draw(st.integers(1, 5)), draw(st.integers(1, 6))
    one_order = draw(st.sampled_from(["1,2,3,4", "4,3,2,1", "3,4,1,2", "2,1,4,3"]))
    swapped = one_order not in ("1,2,3,4", "4,3,2,1")
    channels: list[Channel] = []
    columns: list[np.ndarray] = []
    stored: list[list[Any]] = []
    for number in range(1, count + 1):
        kind = draw(st.sampled_from("IFD")) if version == "FCS3.2" and number > 1 else common
        if swapped and kind == "D":
            one_order, swapped = "4,3,2,1", False
        bits = {"F": 32, "D": 64}.get(kind) or (32 if swapped else 8 * draw(st.integers(1, 8)))
        keywords: dict[str, str] = {}
        if kind == "I":
            reach = draw(st.integers(1, min(2**bits, 2**53)))
            values = draw(st.lists(st.integers(0, 2**bits - 1), min_size=rows, max_size=rows))
            keywords["R"] = str(reach)
            read = np.array([value % (1 << (reach - 1).bit_length()) for value in values], np.float64)
            if draw(st.booleans()):
                decades, zero = draw(st.integers(1, 6)), draw(st.sampled_from(["0", "1", "0.1"]))
                keywords["E"] = f"{decades},{zero}"
                read = (float(zero) or 1.0) * 10 ** (decades * read / reach)
        else:
            floats = st.floats(-1e6, 1e6, width=32 if kind == "F" else 64)
            values = draw(st.lists(floats, min_size=rows, max_size=rows))
            keywords["E"] = draw(st.sampled_from(["0,0", "4,1", "4,0"]))
            read = np.array(values, np.float64)
        if draw(st.booleans()):
            gain = draw(st.sampled_from(["1", "0.5", "4.0", "1e1"]))
            if kind != "I" and keywords["E"] != "0,0":
                gain = "1"  # both are refused
            keywords["G"] = gain
            logarithmic = kind == "I" and keywords.get("E", "0,0") != "0,0"
            read = read if logarithmic else read / float(gain)
        keywords["S"] = draw(VALUES).strip(delimiter + " ")
        channels.append(Channel(f"c{number}", kind, bits, keywords))
        columns.append(read)
        stored.append(values)
    names = [f"P{number}{ending}" for number in range(1, count + 1) for ending in ("G", "S")]
    own = {name: channels[int(name[1]) - 1].keywords.get(name[2]) for name in names}
    moved = draw(st.sets(st.sampled_from(names))) if version != "FCS2.0" else set()
    supplement = {name: value for name, value in own.items() if name in moved and value is not None}
    channels = [
        Channel(
            channel.name,
            channel.kind,
            channel.bits,
            {key: value for key, value in channel.keywords.items() if f"P{number}{key}" not in supplement},
        )
        for number, channel in enumerate(channels, 1)
    ]
    extra = {"COM": draw(VALUES).lstrip(delimiter), "SRC": draw(VALUES).lstrip(delimiter), "OP": ""}
    # A float of 32 bits has an order of four bytes; a permutation of four is of nothing else.
    file = FcsFile(
        list(zip(*stored, strict=True)),
        channels,
        version,
        one_order,
        delimiter,
        extra,
        supplement,
        end_off=draw(st.integers(0, 1)),
        header_data=draw(st.sampled_from([None, (0, 0)])) if version != "FCS2.0" else None,
    )
    return file, np.stack(columns, 1)


@given(files())
def test_what_is_written_is_read(tmp_path_factory: pytest.TempPathFactory, drawn: tuple[FcsFile, np.ndarray]) -> None:
    file, events = drawn
    path = tmp_path_factory.getbasetemp() / "drawn.fcs"
    path.write_bytes(file.content())
    raw = read(path)
    assert raw.columns == tuple(channel.name for channel in file.channels)
    np.testing.assert_allclose(raw.values, events, rtol=1e-14)


@given(
    st.sampled_from(["FCS2.0", "FCS3.0", "FCS3.1"]),
    st.sampled_from([("I", 8), ("I", 16), ("I", 32), ("F", 32), ("D", 64)]),
    st.sampled_from(["1,2,3,4", "4,3,2,1"]),
    st.sampled_from("/|\\,*\t\x0c"),
    st.data(),
)
def test_flowio_reads_the_same_of_files_that_both_understand(
    tmp_path_factory: pytest.TempPathFactory,
    version: str,
    stored: tuple[str, int],
    order: str,
    delimiter: str,
    data: st.DataObject,
) -> None:
    kind, bits = stored
    letters = st.text(string.ascii_letters, min_size=1, max_size=5)
    numbers = st.integers(0, 2**bits - 1) if kind == "I" else st.floats(-1e5, 1e5, width=32)
    rows = data.draw(st.lists(st.tuples(numbers, numbers, numbers), min_size=1, max_size=5))
    reach = str(2 ** data.draw(st.integers(1, bits)) if kind == "I" else 1024)
    channels = [
        Channel("Time", kind, bits, {"R": reach}),
        Channel("a", kind, bits, {"R": reach, "G": "4", "S": data.draw(letters)}),
        Channel("b", kind, bits, {"R": reach, "E": "4,1" if kind == "I" else "0,0"}),
    ]
    file = FcsFile(rows, channels, version, order, delimiter, {"TIMESTEP": "0.01"})
    path = tmp_path_factory.getbasetemp() / "both.fcs"
    path.write_bytes(file.content())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = flowio.FlowData(path)
    ours = read(path)
    assert ours.columns == tuple(theirs.pnn_labels)
    np.testing.assert_array_equal(ours.values, theirs.as_array(preprocess=True))
