#!/usr/bin/env bash
# pyarrow 26.0.1 writes a partitioned data set that it reads back as an empty table.
#
# A partition column whose name begins with an underscore makes folders like _batch=1/. The writer makes them without a
# word; the reader takes them for hidden folders, as it does _SUCCESS or _temporary, and finds no files. Spark makes an
# exception for names with an equals sign.
#
# Seen: 4 rows written, read_table of the folder returns 0 rows and 0 columns.
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check pyarrow==26.0.1 numpy==2.4.6
cd "$work"
venv/bin/python - <<'PYTHON'
import pathlib

import pyarrow as pa
import pyarrow.parquet as pq

table = pa.table({"x": [1.0, 2.0, 3.0, 4.0], "_batch": [1, 1, 2, 2]})
pq.write_to_dataset(table, "set", partition_cols=["_batch"])
written = sum(pq.ParquetFile(path).metadata.num_rows for path in pathlib.Path("set").rglob("*.parquet"))
read = pq.read_table("set")
print(f"rows in the files: {written}; read: {read.num_rows} rows, {read.num_columns} columns")
assert (written, read.num_rows, read.num_columns) == (4, 0, 0)
PYTHON
