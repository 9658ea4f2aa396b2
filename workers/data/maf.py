"""The five tabular sets of masked autoregressive flows (Papamakarios, Pavlakou and Murray, NeurIPS 2017, appendix D).

Preprocessing and split are those of the code published with that paper, which the literature took over, oddities
included: NLLs are comparable only so. The order of rows, the random draws and the rows behind each mean are kept.
"""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from symadj.service.contract.spec.data import MafRows
from symadj.workers.data.checks import refuse_not_finite
from symadj.workers.data.errors import DataError
from symadj.workers.data.formats.arrays import read_npy
from symadj.workers.data.formats.delimited import read_csv
from symadj.workers.data.formats.hdf5 import read_hdf5
from symadj.workers.data.formats.parquet import read_parquet
from symadj.workers.data.formats.raw import InputFile, Raw
from symadj.workers.data.roots import DataRoots
from symadj.workers.data.table import Source, Table
from symadj_core.transforms import FittedTransform, Standardise

__all__ = ["load_maf"]

Rows = NDArray[np.float64]

_GAS = "ethylene_CO"
_CONVERT_GAS = (
    f"python -c \"import pandas; pandas.read_pickle('{_GAS}.pickle').to_parquet('{_GAS}.parquet', index=False)\""
)


def load_maf(data: MafRows, roots: DataRoots) -> Table:
    """Load and preprocess the set that ``data`` names from the files in ``data.path``.

    Raises:
        DataError: a file is missing, unreadable or of another layout.
    """
    match data.name:
        case "power":
            return _power(roots, data.path)
        case "gas":
            return _gas(roots, data.path)
        case "hepmass":
            return _hepmass(roots, data.path)
        case "miniboone":
            return _miniboone(roots, data.path)
        case "bsds300":
            return _bsds300(roots, data.path)


def _power(roots: DataRoots, folder: str) -> Table:
    """Reactive power and global intensity go, noise breaks the ties of the readings; the time of day stays as it is."""
    file, raw = _array(roots, folder, "data.npy", 8)
    rng = np.random.RandomState(42)
    # The permutation of a shuffle in place, without its slow exchange of rows.
    data = raw[rng.permutation(len(raw))][:, [0, 2, 4, 5, 6, 7]]
    rows = len(data)
    voltage = 0.01 * rng.rand(rows, 1)
    active_power = 0.001 * rng.rand(rows, 1)
    sub_meters = rng.rand(rows, 3)
    data = data + np.hstack([active_power, voltage, sub_meters, np.zeros((rows, 1))])
    columns = ("active_power", "voltage", "sub_metering_1", "sub_metering_2", "sub_metering_3", "time")
    return _tenths(file, columns, data, "two columns were left out, and noise was added to break ties")


def _miniboone(roots: DataRoots, folder: str) -> Table:
    """The published file is filtered already; the filters change nothing then, and serve the unfiltered one."""
    file, data = _array(roots, folder, "data.npy", None)
    data = data[~(data[:, 0] < -100)]
    _refuse_empty(file, data)
    data = data[:, _rarely_at_the_minimum(data)]
    names = tuple(f"x{place}" for place in range(data.shape[1]))
    note = "rows whose first value is below -100 and columns that often have their smallest value were left out"
    return _tenths(file, names, data, note)


def _gas(roots: DataRoots, folder: str) -> Table:
    """Sensors only, one of each pair that correlates by more than 0.98; standardised over all rows."""
    file, raw = _gas_file(roots, folder)
    assert raw.columns is not None
    missing = {"Meth", "Eth", "Time"} - set(raw.columns)
    if missing:
        raise DataError(f"{file.name} has no column {sorted(missing)[0]!r}: is it the published file?", file=file.name)
    kept = [place for place, name in enumerate(raw.columns) if name not in ("Meth", "Eth", "Time")]
    data, columns = raw.values[:, kept].astype(np.float64), [raw.columns[place] for place in kept]
    _refuse_unfit(file, data, tuple(columns))
    with np.errstate(invalid="ignore", divide="ignore"):  # of a constant column, which is refused later
        close = np.atleast_2d(np.corrcoef(data.T)) > 0.98
    left = list(range(len(columns)))
    while True:
        # The first column that is close to another (each is close to itself) goes, one at a time.
        crowded = np.flatnonzero(close[np.ix_(left, left)].sum(1) > 1)
        if not len(crowded):
            break
        del left[crowded[0]]
    data = data[:, left]
    test_from, validation_from = _tenth_from(len(data))
    scale = _standardise(data, ddof=1)
    note = "labels, time and columns that correlate with another by more than 0.98 were left out"
    return _table(file, tuple(columns[place] for place in left), data, validation_from, test_from, scale, note)


def _gas_file(roots: DataRoots, folder: str) -> tuple[InputFile, Raw]:
    for name, read in ((f"{_GAS}.parquet", read_parquet), (f"{_GAS}.csv", read_csv)):
        path = str(PurePosixPath(folder, name))
        try:
            file = roots.find_file(path)
        except DataError:
            continue
        return file, read(file)
    path = str(PurePosixPath(folder, f"{_GAS}.parquet"))
    raise DataError(
        f"{path} was not found below a data root. GAS is published as {_GAS}.pickle, and a pickle may run any code "
        f"when it is read, so symadj does not read it: if you trust yours, convert it once, in its folder, by "
        f"{_CONVERT_GAS}",
        file=path,
    )


def _hepmass(roots: DataRoots, folder: str) -> Table:
    """Signal rows only, without the columns that repeat a value too often; the training file's mean and spread."""
    train_file, test_file = (
        roots.find_file(str(PurePosixPath(folder, f"1000_{part}.csv"))) for part in ("train", "test")
    )
    train = read_csv(train_file)
    assert train.columns is not None
    test = _hepmass_test(test_file, train.columns)
    assert test.columns is not None
    _refuse_unfit(train_file, train.values, train.columns)
    _refuse_unfit(test_file, test.values, test.columns)
    width = train.values.shape[1]
    if test.columns[:width] != train.columns:
        raise DataError(
            f"{test_file.name} does not begin with the {width} columns of {train_file.name}", file=test_file.name
        )
    data, held_out = (raw.values[raw.values[:, 0] == 1][:, 1:width] for raw in (train, test))
    _refuse_empty(train_file, data)
    _refuse_empty(test_file, held_out)
    kept = _rarely_at_the_minimum(data)
    data, held_out = data[:, kept], held_out[:, kept]
    columns = tuple(name.strip() for name, keep in zip(train.columns[1:], kept, strict=True) if keep)
    rows = np.concatenate([data, held_out])
    notes = _noted("background rows and columns that often have their smallest value were left out")
    sources = (Source(train_file.name, notes=notes), Source(test_file.name, len(data), notes))
    validation_from = len(data) - int(0.1 * len(data))
    return Table(
        columns,
        rows,
        validation_from=validation_from,
        test_from=len(data),
        transforms=(_standardise(data, ddof=1),),
        sources=sources,
    )


def _hepmass_test(file: InputFile, columns: tuple[str, ...]) -> Raw:
    """The test file names one column more than the training file, the mass. Its rows may have it or not.

    The published code takes both, since pandas does, and drops that column.
    """
    try:
        return read_csv(file)
    except DataError:
        return read_csv(file, names=columns)


def _bsds300(roots: DataRoots, folder: str) -> Table:
    """Patches of 8 x 8 pixels with their mean taken away, and so without the last pixel. As they are."""
    file = roots.find_file(str(PurePosixPath(folder, "BSDS300.hdf5")))
    parts = [read_hdf5(file, key).values for key in ("train", "validation", "test")]
    widths = [part.shape[1:] for part in parts]
    if widths[0] == () or len(set(widths)) > 1 or len(widths[0]) > 1:
        raise DataError(f"{file.name}: train, validation and test are not tables of one width", file=file.name)
    columns = tuple(f"x{place}" for place in range(parts[0].shape[1]))
    validation_from = len(parts[0])
    return Table(
        columns,
        np.concatenate(parts),
        validation_from=validation_from,
        test_from=validation_from + len(parts[1]),
        sources=(Source(file.name),),
    )


def _array(roots: DataRoots, folder: str, name: str, width: int | None) -> tuple[InputFile, Rows]:
    # A missing folder is reported as such, not as a file that is missing in it.
    roots.resolve(folder)
    file = roots.find_file(str(PurePosixPath(folder, name)))
    values = read_npy(file).values
    if values.ndim != 2 or (width is not None and values.shape[1] != width):
        wanted = "rows of some width" if width is None else f"[rows, {width}]"
        raise DataError(f"{file.name} holds an array of {list(values.shape)}, not {wanted}", file=file.name)
    rows = values.astype(np.float64)
    _refuse_unfit(file, rows, tuple(f"x{place}" for place in range(rows.shape[1])))
    return file, rows


def _tenth_from(rows: int) -> tuple[int, int]:
    """Return where the test rows begin, the last tenth, and the validation rows, the last tenth before."""
    test_from = rows - int(0.1 * rows)
    return test_from, test_from - int(0.1 * test_from)


def _tenths(file: InputFile, columns: tuple[str, ...], data: Rows, note: str) -> Table:
    """Split off the last tenths and standardise by all rows but the test rows."""
    _refuse_empty(file, data)
    test_from, validation_from = _tenth_from(len(data))
    return _table(file, columns, data, validation_from, test_from, _standardise(data[:test_from], ddof=0), note)


def _table(
    file: InputFile,
    columns: tuple[str, ...],
    data: Rows,
    validation_from: int,
    test_from: int,
    scale: FittedTransform,
    note: str,
) -> Table:
    return Table(
        columns,
        data,
        validation_from=validation_from,
        test_from=test_from,
        transforms=(scale,),
        sources=(Source(file.name, notes=_noted(note)),),
    )


def _noted(what: str) -> tuple[str, ...]:
    """Return what the preprocessing did, for the summary of the data."""
    return (f"{what}, as in the literature",)


def _standardise(data: Rows, ddof: int) -> FittedTransform:
    with np.errstate(invalid="ignore", divide="ignore"):  # reported by the checks that every table goes through
        return Standardise(data.mean(0), data.std(0, ddof=ddof))


def _rarely_at_the_minimum(data: Rows) -> NDArray[np.bool_]:
    """Return which columns [dim] have their smallest value in at most five rows.

    Described in the paper as columns whose values repeat often; the published code counts the smallest value's rows.
    """
    return np.asarray((data == data.min(0)).sum(0) <= 5)


def _refuse_unfit(file: InputFile, data: NDArray[Any], columns: tuple[str, ...]) -> None:
    """Check the rows as they are in the file, while their numbers are those of the file."""
    _refuse_empty(file, data)
    refuse_not_finite(Table(columns, data, sources=(Source(file.name),)))


def _refuse_empty(file: InputFile, data: NDArray[Any]) -> None:
    if not len(data):
        raise DataError(f"{file.name} has no rows that the preprocessing keeps", file=file.name)
