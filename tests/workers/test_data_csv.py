"""csv as Excel, R and others write it: read by the option that the message names, and never shifted or scaled."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from symadj.service.contract.spec.data import FileData
from symadj.workers.data import DataError
from symadj.workers.data.formats.delimited import read_csv
from symadj.workers.data.formats.raw import InputFile
from tests.workers.loading import load_table

ROWS = np.random.default_rng(0).normal(scale=[1, 300], size=(40, 2)).round(6)
SEMICOLONS = {"delimiter": ";", "decimal": ","}


@pytest.fixture(autouse=True)
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SYMADJ_DATA_ROOTS", str(tmp_path))
    return tmp_path


def spec(**more: Any) -> FileData:
    return FileData.model_validate({"kind": "file", "path": "rows.csv", "batch_size": 20, **more})


def lines(header: str | None, delimiter: str = ",", decimal: str = ".", *, named: bool = False) -> str:
    rows = [] if header is None else [header]
    for number, row in enumerate(ROWS.tolist(), 1):
        cells = [str(value).replace(".", decimal) for value in row]
        rows.append(delimiter.join([f'"{number}"', *cells] if named else cells))
    return "\n".join(rows) + "\n"


def quoted(decimal: str) -> str:
    return '"a","b"\n' + "".join(",".join(f'"{v}"' for v in row).replace(".", decimal) + "\n" for row in ROWS.tolist())


# What a program writes, the options that read it, and what the message says without them.
WRITTEN: dict[str, tuple[bytes, dict[str, Any], str]] = {
    "Excel, semicolons and decimal commas": (lines("a;b", ";", ",").encode(), SEMICOLONS, "semicolons"),
    "Excel, CSV UTF-8": (lines("a;b", ";", ",").encode("utf-8-sig"), SEMICOLONS, "semicolons"),
    "Excel, with a line that names the separator": (
        b"sep=;\r\n" + lines("a;b", ";", ",").replace("\n", "\r\n").encode(),
        SEMICOLONS,
        "semicolons",
    ),
    "Excel, Unicode text": (
        lines("a\tb", "\t", ",").encode("utf-16"),
        {"encoding": "utf-16", "delimiter": "\t", "decimal": ","},
        "UTF-16",
    ),
    "R, write.csv": (lines('"","a","b"', named=True).encode(), {"row_names": True}, "R its row names"),
    "R, write.csv2": (
        lines('"";"a";"b"', ";", ",", named=True).encode(),
        SEMICOLONS | {"row_names": True},
        "semicolons",
    ),
    "R, write.table": (
        lines('"a" "b"', " ", named=True).encode(),
        {"delimiter": " ", "row_names": True},
        "spaces",
    ),
    "R, write.table with commas": (
        lines('"a","b"', named=True).encode(),
        {"row_names": True},
        "3 values, where 2 are expected; if the first is the name of the row",
    ),
    "pandas, with its index": (
        pd.DataFrame(ROWS, columns=["a", "b"]).to_csv().encode(),
        {"row_names": True},
        "pandas writes its index so",
    ),
    "semicolons and decimal points": (lines("a;b", ";").encode(), {"delimiter": ";"}, "semicolons"),
    "tabs": (lines("a\tb", "\t").encode(), {"delimiter": "\t"}, "tabs"),
    "vertical bars": (lines("a|b", "|").encode(), {"delimiter": "|"}, "vertical bars"),
    "decimal commas in quotes": (quoted(",").encode(), {"decimal": ","}, "if ',' is the decimal sign"),
}


@pytest.mark.parametrize("program", WRITTEN)
def test_what_a_program_writes_is_read_by_options_and_refused_without_them(root: Path, program: str) -> None:
    content, options, words = WRITTEN[program]
    (root / "rows.csv").write_bytes(content)
    with pytest.raises(DataError, match=re.escape(words)):
        load_table(spec())
    table = load_table(spec(csv=options))
    assert table.columns == ("a", "b")
    np.testing.assert_array_equal(table.rows, ROWS)


@pytest.mark.parametrize("program", [name for name, (_, options, _) in WRITTEN.items() if "delimiter" in options])
def test_a_message_names_the_options_that_lead_on(root: Path, program: str) -> None:
    content, options, _ = WRITTEN[program]
    (root / "rows.csv").write_bytes(content)
    with pytest.raises(DataError) as caught:
        load_table(spec())
    named = re.search(r"data\.csv: (\{.*?\})", str(caught.value))
    assert named is not None
    assert json.loads(named[1]).items() <= options.items()


def test_a_line_that_names_the_usual_separator_is_left_out(root: Path) -> None:
    (root / "rows.csv").write_text("sep=,\n" + lines("a,b"))
    raw = read_csv(InputFile(root / "rows.csv", "rows.csv"))
    np.testing.assert_array_equal(raw.values, ROWS)
    assert raw.notes == ("the first line, which names the separator, was left out",)


def test_names_of_another_encoding_are_read_by_it(root: Path) -> None:
    (root / "rows.csv").write_bytes(lines("Größe,b").encode("cp1252"))
    with pytest.raises(DataError, match=r'is not utf-8 .*data\.csv: \{"encoding": "cp1252"\}'):
        load_table(spec())
    assert load_table(spec(csv={"encoding": "cp1252"})).columns == ("Größe", "b")
    (root / "rows.csv").write_bytes(lines("Größe,b").encode("utf-8-sig"))
    with pytest.raises(DataError, match=r"begins as UTF-8, not as cp1252: leave out data\.csv\.encoding"):
        load_table(spec(csv={"encoding": "cp1252"}))


@pytest.mark.parametrize(
    ("content", "more", "words"),
    [
        (lines("a;b", ";"), {"csv": SEMICOLONS}, "if '.' is the decimal sign"),
        (lines("a;b", ";", ","), {"csv": {"delimiter": ";"}}, "if ',' is the decimal sign"),
        (lines(None, ";", ","), {"header": False}, "if semicolons separate the values, set data.csv.delimiter"),
        (lines("a,b"), {"csv": {"delimiter": ";"}}, "has commas in its first line"),
        ('a,b\n"1,234",5\n', {}, "if it groups digits, write the numbers without it"),
        ("a;b\n1.234;5,0\n", {"csv": SEMICOLONS}, "if it groups digits, write the numbers without it"),
        ("x\n1,5\n2,5\n", {}, "if a number has a decimal comma"),
        ("a,b\n1,2,\n3,4,\n", {}, "each row ends with a separator"),
        ("0.5,NA\n1.5,2.5\n", {}, "numbers in its first line"),
        ("1,5;2,5\n3,5;4,5\n", {"csv": SEMICOLONS}, "numbers in its first line"),
    ],
)
def test_what_may_be_meant_otherwise_is_refused_with_what_to_do(
    root: Path, content: str, more: dict[str, Any], words: str
) -> None:
    (root / "rows.csv").write_text(content)
    with pytest.raises(DataError, match=re.escape(words)):
        load_table(spec(**more))


def test_a_row_behind_row_names_and_a_separators_line_is_named_by_its_number(root: Path) -> None:
    (root / "rows.csv").write_text('sep=;\n\n"a";"b"\n"x";1,5;2,5\n\n"y";1,5;z\n')
    with pytest.raises(DataError, match="'z' is not a number") as caught:
        load_table(spec(csv=SEMICOLONS | {"row_names": True}))
    assert caught.value.place == {"file": "rows.csv", "column": "b", "row": 1}


def test_true_and_false_are_1_and_0(root: Path) -> None:
    dummies = pd.get_dummies(pd.DataFrame({"a": ROWS[:, 0], "kind": list("xyxx") * 10}))
    dummies.to_csv(root / "rows.csv", index=False)
    table = load_table(spec())
    assert table.columns == ("a", "kind_x", "kind_y")
    np.testing.assert_array_equal(table.rows, dummies.to_numpy(float))


@pytest.mark.parametrize("numbers", [[2**53 + 1, 1], [-(2**53) - 2, 1], [2**53 + 2, 2**60]])
def test_whole_numbers_that_floating_point_rounds_are_refused(root: Path, numbers: list[int]) -> None:
    (root / "rows.csv").write_text("a,id\n0.5,7\n" + "".join(f"0.5,{number}\n" for number in numbers))
    with pytest.raises(DataError, match=r"above 2\^53 are not exact") as caught:
        load_table(spec())
    assert caught.value.place == {"file": "rows.csv", "column": "id", "row": 1}
    assert load_table(spec(columns=["a"])).rows.shape == (3, 1)


def test_large_fractions_are_read_however_they_are_written(root: Path) -> None:
    (root / "rows.csv").write_text("a\n0.5\n1e20\n200000000000000000000\n9007199254740993.5\n")
    np.testing.assert_array_equal(load_table(spec()).rows[:, 0], [0.5, 1e20, 2e20, 9007199254740993.5])
    (root / "rows.csv").write_text("a\n0.5\n9007199254740993\n")
    with pytest.raises(DataError, match="9007199254740993, and whole numbers above"):
        load_table(spec())


@settings(deadline=None, max_examples=60)
@given(
    values=st.lists(
        st.tuples(
            st.floats(allow_nan=False, allow_infinity=False),
            st.integers(-(2**53), 2**53),
            st.booleans(),
            st.floats(width=32, allow_nan=False, allow_infinity=False),
        ),
        min_size=1,
        max_size=8,
    ),
    delimiter=st.sampled_from([",", ";", "\t", "|"]),
    decimal=st.sampled_from([".", ","]),
    encoding=st.sampled_from(["utf-8", "utf-16", "cp1252", "latin-1"]),
    index=st.booleans(),
)
def test_what_pandas_writes_is_read(
    tmp_path_factory: pytest.TempPathFactory,
    values: list[tuple[float, int, bool, float]],
    delimiter: str,
    decimal: str,
    encoding: str,
    index: bool,
) -> None:
    path = tmp_path_factory.mktemp("written") / "rows.csv"
    frame = pd.DataFrame(values, columns=["é", "whole", "flag", "single"])
    frame.to_csv(path, sep=delimiter, decimal=decimal, encoding=encoding, index=index)
    options = {"delimiter": delimiter, "decimal": decimal, "encoding": encoding, "row_names": index}
    raw = read_csv(InputFile(path, "rows.csv"), options=spec(csv=options).csv)
    assert raw.columns == tuple(frame.columns)
    np.testing.assert_array_equal(raw.values, frame.to_numpy(float))
