"""`symadj inspect`: what a run would read from a file, without a job and without a service."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from symadj.service.contract.data_summary import DataSummary
from symadj.service.contract.spec.data import FORMATS, FileData
from tests.command import SYMADJ, run_symadj
from tests.workers.test_data_files import ROWS, WRITERS

NO_SERVICE = {"SYMADJ_URL": "http://127.0.0.1:9"}


def inspect(folder: Path, *words: str, modules: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run the command in a folder; of ``modules``, the reader imports those in place of libraries of their names."""
    environment = NO_SERVICE | ({} if modules is None else {"PYTHONPATH": str(modules)})
    done = run_symadj("inspect", *words, environment=environment, folder=folder)
    assert "Traceback" not in done.stderr
    return done


def summary_of(done: subprocess.CompletedProcess[str]) -> DataSummary:
    assert done.returncode == 0, done.stderr
    return DataSummary.model_validate_json(done.stdout)


@pytest.fixture
def broken(tmp_path: Path) -> Path:
    """Modules that can't be imported: what `inspect` must not need, and what a bare installation lacks."""
    folder = tmp_path / "broken"
    folder.mkdir()
    for name in ("torch", "ray"):
        (folder / f"{name}.py").write_text("raise SystemExit('loaded')")
    for name in ("h5py", "pyarrow"):
        (folder / f"{name}.py").write_text(f"raise ModuleNotFoundError({name!r}, name={name!r})")
    return folder


def test_every_format_is_inspected_here() -> None:
    assert {FileData(kind="file", path=name).format for name in WRITERS} == FORMATS.keys()


@pytest.mark.parametrize("name", WRITERS)
def test_a_file_of_every_format_is_shown_as_a_run_reads_it(tmp_path: Path, name: str) -> None:
    WRITERS[name](tmp_path / name)
    # Fractions, which images of bytes do not have.
    shown = inspect(tmp_path, name, "--set", "data.transforms=[{kind: standardise}]")
    assert shown.returncode == 0, shown.stderr
    assert f"{name} ({FileData(kind='file', path=name).format}): 200 rows of 3 columns" in shown.stdout
    for value in (ROWS[:, 1].min(), ROWS[:, 1].max()):
        assert f"{value:.4g}"[:5] in shown.stdout
    assert "Transforms before the flow: standardise." in shown.stdout


def test_the_options_of_the_data_are_set_as_in_a_spec(tmp_path: Path) -> None:
    lines = ["name;a;b;c", *(f"r{n};{n},5;{n * n};{n % 2}" for n in range(30))]
    (tmp_path / "x.csv").write_text("\n".join(lines))
    options = ["data.csv={delimiter: ;, decimal: ','}", "data.columns=[c, a]", "data.context_columns=[b]"]
    settings = [word for option in options for word in ("--set", option)]
    (source,) = summary_of(inspect(tmp_path, "x.csv", "--json", *settings)).sources
    assert [(column.name, column.context) for column in source.columns] == [("c", False), ("a", False), ("b", True)]
    assert [column.max for column in source.columns] == [1, 29.5, 841]


def test_a_folder_of_parquet_is_shown_by_all_its_rows(tmp_path: Path) -> None:
    for donor in (1, 2):
        folder = tmp_path / "cells" / f"donor={donor}"
        folder.mkdir(parents=True)
        pq.write_table(pa.table({"a": ROWS[:, 0] + donor}), folder / "x.parquet")
    (source,) = summary_of(inspect(tmp_path, "cells", "--json", "--set", "data.context_columns=[donor]")).sources
    assert (source.rows, source.columns[1].mean, len(source.notes)) == (400, 1.5, 2)
    assert source.columns[0].max == (ROWS[:, 0] + 2).max()


def test_a_path_may_be_absolute_climb_or_lead_through_a_link(tmp_path: Path) -> None:
    (tmp_path / "here").mkdir()
    (tmp_path / "there").mkdir()
    np.save(tmp_path / "there" / "x.npy", ROWS)
    (tmp_path / "here" / "link.npy").symlink_to(tmp_path / "there" / "x.npy")
    for path in (str(tmp_path / "there" / "x.npy"), "../there/x.npy", "link.npy"):
        assert summary_of(inspect(tmp_path / "here", path, "--json")).sources[0].rows == 200


def test_what_a_run_would_refuse_is_shown_and_refused_in_the_words_of_a_run(tmp_path: Path) -> None:
    rows = ROWS.copy()
    rows[17, 1] = np.nan
    np.save(tmp_path / "bad.npy", rows)
    done = inspect(tmp_path, "bad.npy")
    assert done.returncode == 1
    assert "1 not finite" in done.stdout
    refused = "a run would refuse these data: row 17 (from 0), column 'x1' of bad.npy is nan, which is not finite"
    assert refused in done.stderr
    as_json = inspect(tmp_path, "bad.npy", "--json")
    assert as_json.returncode == 1
    assert json.loads(as_json.stdout)["sources"][0]["columns"][1]["not_finite"] == 1


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("none.npy",), "none.npy does not exist"),
        (("text.npy",), "text.npy can't be read as npy"),
        (("empty",), "empty is a folder without any .parquet file"),
        (("x.unknown",), "can't be recognised by its ending"),
        (("x.npy", "--set", "data.columns=[q]"), "has no column 'q'; it has: x0, x1, x2"),
        (("x.npy", "--set", "data.compensate=true"), "/data/compensate: data.compensate is about FCS files"),
        (("x.npy", "--set", "data.split_seed=-1"), "/data/split_seed: Input should be greater than or equal to 0"),
        (("x.npy", "--set", "seed=1"), "/seed: 'seed' is not a field of this, which has data"),
        (("x.npy", "--set", "data"), "field.field=value"),
        (("x.npy", "--set", "data=1"), "/data: "),
    ],
)
def test_what_cannot_be_inspected_is_told_in_a_sentence(tmp_path: Path, words: tuple[str, ...], told: str) -> None:
    np.save(tmp_path / "x.npy", ROWS)
    (tmp_path / "x.unknown").write_text("?")
    (tmp_path / "text.npy").write_text("no array")
    (tmp_path / "empty").mkdir()
    done = inspect(tmp_path, *words)
    assert done.returncode in {1, 2}
    assert told in done.stderr
    assert done.stdout == ""


def test_neither_torch_nor_ray_is_loaded(tmp_path: Path, broken: Path) -> None:
    np.save(tmp_path / "x.npy", ROWS)
    environment = NO_SERVICE | {"PYTHONPATH": str(broken), "PATH": "/usr/bin:/bin"}
    command = [SYMADJ, "inspect", "x.npy", "--json"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert summary_of(done).sources[0].rows == 200


@pytest.mark.parametrize(
    ("name", "package"), [("rows.parquet", "pyarrow"), ("rows.h5", "h5py"), ("rows.csv", "pyarrow")]
)
def test_an_extra_that_is_not_installed_is_named(tmp_path: Path, broken: Path, name: str, package: str) -> None:
    WRITERS[name](tmp_path / name)
    done = inspect(tmp_path, name, modules=broken)
    assert done.returncode == 1
    assert f"{package} is not installed, `pip install '.[train]'` in a checkout of symadj brings it" in done.stderr


def test_a_reader_that_is_killed_is_told(tmp_path: Path, broken: Path) -> None:
    (broken / "h5py.py").write_text("import os, signal\nos.kill(os.getpid(), signal.SIGKILL)")
    WRITERS["rows.h5"](tmp_path / "rows.h5")
    done = inspect(tmp_path, "rows.h5", modules=broken)
    assert done.returncode == 1
    assert "signal 9; is the memory used up?" in done.stderr
