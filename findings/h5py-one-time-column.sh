#!/usr/bin/env bash
# h5py 3.16.0 can't read any column of a PyTables 3.11.1 table that has one time column.
#
# Time64Col is stored as HDF5's H5T_TIME, for which h5py has no dtype, so that the dtype of the whole record fails, and with
# it every way to the other columns, fields("x") included.
#
# Seen: TypeError, No NumPy equivalent for TypeTimeID exists, for dtype and for fields("x"); PyTables reads x.
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check h5py==3.16.0 tables==3.11.1 numpy==2.4.6
cd "$work"
venv/bin/python - <<'PYTHON'
import subprocess
import sys

write = """
import tables
with tables.open_file("table.h5", "w") as file:
    table = file.create_table("/", "table", {"x": tables.Float64Col(pos=0), "time": tables.Time64Col(pos=1)})
    table.append([(1.5, 2.5)])
    table.flush()
with tables.open_file("table.h5") as file:
    print("PyTables:", file.root.table.col("x"))
"""
subprocess.run([sys.executable, "-c", write], check=True)
import h5py

failed = []
with h5py.File("table.h5") as file:
    for what in (lambda: file["table"].dtype, lambda: file["table"].fields("x")[:]):
        try:
            what()
        except TypeError as error:
            failed.append(str(error))
print("h5py:", failed)
assert len(failed) == 2 and all("TypeTimeID" in error for error in failed)
PYTHON
