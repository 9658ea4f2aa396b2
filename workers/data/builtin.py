"""The data sets that ship with symadj or with scikit-learn."""

from __future__ import annotations

import zipfile
from importlib import resources

import numpy as np

from symadj.service.contract.spec.data import BuiltinRows
from symadj.workers.data.errors import DataError
from symadj.workers.data.table import Table

__all__ = ["load_builtin"]


def load_builtin(data: BuiltinRows) -> Table:
    """Load the set that ``data`` names.

    Raises:
        DataError: the file of the set is missing or unreadable.
    """
    if data.name == "flow_cytometry":
        return _flow_cytometry()
    return _scikit_learn(data.name)


def _flow_cytometry() -> Table:
    file = resources.files("symadj.workers") / "datasets" / "flow_cytometry" / "events.npz"
    try:
        with file.open("rb") as stream, np.load(stream) as arrays:
            return Table(tuple(map(str, arrays["channels"])), arrays["events"])
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise DataError(f"the built-in data set flow_cytometry cannot be read from {file}: {error}") from error


def _scikit_learn(name: str) -> Table:
    from sklearn import datasets  # takes a second to import, and most runs never need it

    # In the units of measurement: scikit-learn's own scaling of diabetes uses all rows, the test rows too.
    loaded = datasets.load_diabetes(scaled=False) if name == "diabetes" else getattr(datasets, f"load_{name}")()
    columns = tuple(map(str, loaded.feature_names))
    rows = np.asarray(loaded.data, np.float64)
    if name == "diabetes":
        # Sex, coded 1 and 2: two values have no density.
        kept = [place for place, column in enumerate(columns) if column != "sex"]
        columns, rows = tuple(columns[place] for place in kept), rows[:, kept]
    return Table(columns, rows, shape=(1, 8, 8) if name == "digits" else None)
