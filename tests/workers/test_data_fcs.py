"""FCS as instruments write it, built byte by byte: encodings, scales, names, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from symadj.service.contract.spec.data import FileData
from symadj.workers.data import DataError, Table
from tests.workers.loading import load_table

EVENTS = np.array([[1.5, 2.0], [3.5, 1000.25], [7.0, 512.0]])
COUNTS = np.array([[1, 2], [1023, 512]])
DATA_FROM = 1500


@pytest.fixture(autouse=True)
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SYMADJ_DATA_ROOTS", str(tmp_path))
    return tmp_path


def write(
    path: Path,
    events: np.ndarray = EVENTS,
    dtype: str = "<f4",
    version: str = "FCS3.1",
    end_off: int = 0,
    **keywords: str,
) -> None:
    """Two channels, FSC-A and PE-A; ``keywords`` replace those of the text segment."""
    body = events.astype(dtype).tobytes()
    end = DATA_FROM + len(body) - 1 + end_off
    text = {
        "BEGINANALYSIS": "0",
        "ENDANALYSIS": "0",
        "BEGINDATA": str(DATA_FROM),
        "ENDDATA": str(end),
        "BYTEORD": "1,2,3,4",
        "DATATYPE": "F",
        "MODE": "L",
        "NEXTDATA": "0",
        "PAR": "2",
        "TOT": str(len(events)),
    }
    for number, name in ((1, "FSC-A"), (2, "PE-A")):
        bits = str(8 * np.dtype(dtype).itemsize)
        text |= {f"P{number}N": name, f"P{number}B": bits, f"P{number}R": "1024", f"P{number}E": "0,0"}
    segment = "/" + "".join(f"${key}/{value}/" for key, value in (text | keywords).items())
    places = (58, 58 + len(segment) - 1, DATA_FROM, end, 0, 0)
    head = f"{version:<10}" + "".join(f"{place:>8}" for place in places)
    path.write_bytes((head + segment).encode().ljust(DATA_FROM) + body + b"00000000")


def load(path: str = "cells.fcs", **more: Any) -> Table:
    return load_table(FileData.model_validate({"kind": "file", "path": path, "batch_size": 1, **more}))


@pytest.mark.parametrize("version", ["FCS2.0", "FCS3.0", "FCS3.1"])
@pytest.mark.parametrize(
    ("dtype", "keywords"),
    [
        ("<f4", {}),
        (">f4", {"BYTEORD": "4,3,2,1"}),
        ("<f8", {"DATATYPE": "D"}),
        ("<f4", {"TIMESTEP": "0.01"}),  # of no channel here
    ],
)
def test_floats_are_read_in_each_version_and_byte_order(
    root: Path, version: str, dtype: str, keywords: dict[str, str]
) -> None:
    write(root / "cells.fcs", dtype=dtype, version=version, **keywords)
    table = load()
    assert table.columns == ("FSC-A", "PE-A")
    np.testing.assert_array_equal(table.rows, EVENTS)


@pytest.mark.parametrize(
    ("dtype", "order"), [("<u2", "1,2,3,4"), (">u2", "2,1"), ("<u4", "1,2,3,4"), (">u4", "4,3,2,1")]
)
def test_integers_are_read_without_the_bits_above_their_range(root: Path, dtype: str, order: str) -> None:
    write(root / "cells.fcs", COUNTS + 2048, dtype, DATATYPE="I", BYTEORD=order)
    np.testing.assert_array_equal(load().rows, COUNTS)


def test_channels_are_scaled_by_their_gain_or_their_decades(root: Path) -> None:
    write(root / "cells.fcs", COUNTS, "<u2", DATATYPE="I", P1E="4,1", P2G="2.0")
    expected = np.stack([10 ** (4 * COUNTS[:, 0] / 1024), COUNTS[:, 1] / 2], 1)
    np.testing.assert_allclose(load().rows, expected)


@pytest.mark.parametrize("keyword", ["SPILLOVER", "SPILL"])
def test_spillover_is_taken_out_where_it_is_asked_for(root: Path, keyword: str) -> None:
    emitted = np.array([[100.0, 0.0], [0.0, 50.0], [3.0, 4.0]])
    # A tenth of the light of the first label is seen in the second channel as well.
    measured = np.array([[100.0, 10.0], [0.0, 50.0], [3.0, 4.3]])
    write(root / "cells.fcs", measured, **{keyword: "2,PE-A,FSC-A,1,0,0.1,1"})
    np.testing.assert_allclose(load().rows, measured, rtol=1e-6)
    np.testing.assert_allclose(load(compensate=True).rows, emitted, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    ("keywords", "words"),
    [
        ({}, "has no spillover matrix"),
        ({"SPILLOVER": "2,PE-A,V450-A,1,0,0.1,1"}, "names 'V450-A', which is no channel"),
        ({"SPILLOVER": "2,PE-A,FSC-A,1,0,0.1"}, "has 3 values, not 4"),
        ({"SPILLOVER": "2,PE-A,FSC-A,1,1,1,1"}, "Singular"),
    ],
)
def test_a_spillover_matrix_that_cannot_be_applied_is_refused(root: Path, keywords: dict[str, str], words: str) -> None:
    write(root / "cells.fcs", **keywords)
    with pytest.raises(DataError, match=rf"cells\.fcs.*{words}"):
        load(compensate=True)


def test_a_channel_can_be_called_by_its_marker(root: Path) -> None:
    write(root / "cells.fcs", P2S="CD4")
    table = load(columns=["CD4"], context_columns=["FSC-A"])
    assert (table.columns, table.context_columns) == (("CD4",), ("FSC-A",))
    np.testing.assert_array_equal(table.rows[:, 0], EVENTS[:, 1])
    assert load(context_columns=["CD4"]).columns == ("FSC-A",)
    assert load().columns == ("FSC-A", "PE-A")


def test_an_end_of_the_data_that_is_one_byte_off_is_put_up_with(root: Path) -> None:
    write(root / "cells.fcs", end_off=1)
    np.testing.assert_array_equal(load().rows, EVENTS)


@pytest.mark.parametrize(
    ("keywords", "words"),
    [
        ({"BYTEORD": "4, 3, 2, 1"}, "has the byte order .* '4, 3, 2, 1'"),
        ({"BYTEORD": "3,4,1,2"}, "has the byte order .* '3,4,1,2'"),
        ({"MODE": "C"}, "holds histograms"),
        ({"TOT": "7"}, "holds 6 values, not the 7 events"),
        ({"TOT": "2"}, "holds 6 values, not the 2 events"),
        ({"DATATYPE": "I", "P1B": "10", "P2B": "10"}, "other widths than 8, 16 and 32 bits"),
        ({"NEXTDATA": "2100"}, "several data sets: save each as a file of its own"),
        ({"P1N": "PE-A"}, "more than one column 'PE-A'"),
        ({"P3N": "V450-A", "P3R": "1024"}, "does not name .* each of the 2 channels"),
    ],
)
def test_what_would_be_read_as_other_numbers_than_were_measured_is_refused(
    root: Path, keywords: dict[str, str], words: str
) -> None:
    write(root / "cells.fcs", **keywords)
    with pytest.raises(DataError, match=rf"cells\.fcs.*{words}"):
        load()
