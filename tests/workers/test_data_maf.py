"""MAF's five sets, on small files of the published layout, against the published preprocessing written out plainly."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pytest

from symadj.service.contract.spec.data import MafData
from symadj.workers.data import DataError, PreparedData
from tests.workers.loading import load_data

rng = np.random.default_rng(0)


@pytest.fixture(autouse=True)
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SYMADJ_DATA_ROOTS", str(tmp_path))
    return tmp_path


def load(name: str) -> PreparedData:
    return load_data(MafData(kind="maf", name=name, path=".", batch_size=10))


def check(data: PreparedData, training: np.ndarray, validation: np.ndarray, test: np.ndarray) -> None:
    for part, expected in ((data.training, training), (data.validation, validation), (data.test, test)):
        np.testing.assert_allclose(part.rows, expected, rtol=1e-9, atol=1e-9)


def tenths(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    test = int(0.1 * len(rows))
    rest, held_out = rows[:-test], rows[-test:]
    validation = int(0.1 * len(rest))
    return rest[:-validation], rest[-validation:], held_out


def test_power_is_shuffled_blurred_and_standardised_as_published(root: Path) -> None:
    rows = rng.integers(20, size=(503, 8)).astype(float)
    np.save(root / "data.npy", rows)
    data = load("power")

    legacy = np.random.RandomState(42)
    shuffled = rows.copy()
    legacy.shuffle(shuffled)
    kept = np.delete(np.delete(shuffled, 3, axis=1), 1, axis=1)
    voltage, gap, meters = 0.01 * legacy.rand(503, 1), 0.001 * legacy.rand(503, 1), legacy.rand(503, 3)
    parts = tenths(kept + np.hstack([gap, voltage, meters, np.zeros((503, 1))]))
    seen = np.vstack(parts[:2])
    check(data, *((part - seen.mean(0)) / seen.std(0) for part in parts))
    assert data.columns[0] == "active_power"


def test_miniboone_drops_outliers_and_columns_that_repeat_and_its_published_file_stays_whole(root: Path) -> None:
    rows = rng.normal(size=(300, 4))
    rows[:, 2] = np.round(np.abs(rows[:, 2]))  # zero over and over
    rows[5, 0] = -999.0
    np.save(root / "data.npy", rows)
    parts = tenths(np.delete(np.delete(rows, 5, axis=0), 2, axis=1))
    seen = np.vstack(parts[:2])
    expected = [(part - seen.mean(0)) / seen.std(0) for part in parts]
    check(load("miniboone"), *expected)

    np.save(root / "data.npy", np.vstack(parts))
    check(load("miniboone"), *expected)


def gas_frame() -> pd.DataFrame:
    sensors = rng.normal(size=(400, 4))
    frame = pd.DataFrame(rng.normal(size=(400, 3)), columns=["Meth", "Eth", "Time"])
    frame["R1"] = sensors[:, 0]
    frame["R2"] = sensors[:, 0] + 0.01 * sensors[:, 1]
    frame["R3"] = sensors[:, 0] - 0.01 * sensors[:, 2]
    frame["R4"] = -sensors[:, 0]
    frame["R5"] = sensors[:, 3]
    return frame


@pytest.mark.parametrize("ending", ["parquet", "csv"])
def test_gas_keeps_one_of_the_sensors_that_correlate(root: Path, ending: str) -> None:
    frame = gas_frame()
    getattr(frame, f"to_{ending}")(root / f"ethylene_CO.{ending}", index=False)
    data = load("gas")

    left = frame.drop(columns=["Meth", "Eth", "Time"])
    while ((left.corr() > 0.98).to_numpy().sum(1) > 1).any():
        left = left.drop(columns=left.columns[(left.corr() > 0.98).to_numpy().sum(1) > 1][0])
    assert data.columns == tuple(left.columns) == ("R3", "R4", "R5")
    check(data, *tenths(((left - left.mean()) / left.std()).to_numpy()))


def test_a_pickle_is_not_read_and_the_way_around_it_is_told(root: Path) -> None:
    gas_frame().to_pickle(root / "ethylene_CO.pickle")
    with pytest.raises(DataError, match=r"a pickle may run any code.*to_parquet"):
        load("gas")


@pytest.mark.parametrize("rows_have_the_mass", [True, False])
def test_hepmass_keeps_the_signal_and_drops_the_mass_and_columns_that_repeat(
    root: Path, rows_have_the_mass: bool
) -> None:
    names = ["# label", "f0", "f1", "f2"]
    train = pd.DataFrame(np.hstack([rng.integers(2, size=(400, 1)), rng.normal(size=(400, 3))]), columns=names)
    train["f1"] = train["f1"].round().clip(-1, 1)
    test = pd.DataFrame(
        np.hstack([rng.integers(2, size=(200, 1)), rng.normal(size=(200, 4))]), columns=[*names, "mass"]
    )
    train.to_csv(root / "1000_train.csv", index=False)
    header = ",".join(test.columns)
    written = test if rows_have_the_mass else test.drop(columns="mass")
    (root / "1000_test.csv").write_text(f"{header}\n{written.to_csv(index=False, header=False)}")
    data = load("hepmass")

    signal = train[train["# label"] == 1].drop(columns="# label")
    held_out = test[test["# label"] == 1].drop(columns=["# label", "mass"])
    held_out, signal = (held_out - signal.mean()) / signal.std(), (signal - signal.mean()) / signal.std()
    kept = [name for name in signal if sorted(Counter(signal[name]).items())[0][1] <= 5]
    assert data.columns == tuple(kept) == ("f0", "f2")
    rows = signal[kept].to_numpy()
    validation = int(len(rows) * 0.1)
    check(data, rows[:-validation], rows[-validation:], held_out[kept].to_numpy())


def test_bsds300_is_taken_as_it_is(root: Path) -> None:
    parts = [rng.normal(size=(rows, 63)) for rows in (50, 20, 30)]
    with h5py.File(root / "BSDS300.hdf5", "w") as file:
        for name, part in zip(("train", "validation", "test"), parts, strict=True):
            file[name] = part
    data = load("bsds300")
    check(data, *parts)
    assert data.transforms == ()


def test_original_units_are_those_before_the_literatures_standardisation(root: Path) -> None:
    rows = rng.normal(5.0, 2.0, size=(300, 3))
    np.save(root / "data.npy", rows)
    data = load("miniboone")
    np.testing.assert_allclose(data.original_units(data.test.rows), rows[-30:])
    np.testing.assert_allclose(data.test.log_abs_det, -np.log(rows[:270].std(0)).sum())


def test_a_bad_row_is_named_by_its_number_in_the_file(root: Path) -> None:
    rows = rng.normal(size=(300, 8))
    rows[123, 4] = np.nan
    np.save(root / "data.npy", rows)
    with pytest.raises(DataError, match=r"row 123 .*column 'x4' of data\.npy is nan"):
        load("power")


def test_hepmass_files_of_other_columns_are_refused(root: Path) -> None:
    (root / "1000_train.csv").write_text("# label,f0,f1\n1,2,3\n")
    (root / "1000_test.csv").write_text("# label,f1,f0,mass\n1,2,3,4\n")
    with pytest.raises(DataError, match=r"1000_test\.csv does not begin with the 3 columns of 1000_train\.csv"):
        load("hepmass")


@pytest.mark.parametrize("name", ["power", "gas", "hepmass", "miniboone", "bsds300"])
def test_a_set_whose_files_are_missing_says_which(name: str) -> None:
    with pytest.raises(DataError, match=r"(data\.npy|ethylene_CO|1000_train\.csv|BSDS300\.hdf5)"):
        load(name)


def test_an_array_of_another_width_is_refused(root: Path) -> None:
    np.save(root / "data.npy", rng.normal(size=(300, 6)))
    with pytest.raises(DataError, match=r"data\.npy holds an array of \[300, 6\], not \[rows, 8\]"):
        load("power")
