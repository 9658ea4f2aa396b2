#!/usr/bin/env bash
# pyarrow 26.0.1, pandas 3.1.1: whether a column of periods is a column of numbers depends on what has been imported.
#
# to_parquet stores periods as an extension type that pandas registers when it is first asked to convert something. In a
# process without pandas, the same file has a plain int64 column: days since 1970, months since 1970, by the frequency. Code
# that keeps "the numeric columns" then trains on them. Only the field's metadata say what it is.
#
# Seen: int64 without pandas; extension<pandas.period<...>> after pandas.read_parquet has run in the process.
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check pyarrow==26.0.1 pandas==3.1.1 numpy==2.4.6
cd "$work"
venv/bin/python - <<'PYTHON'
import subprocess
import sys

import pandas as pd

pd.DataFrame({"month": pd.period_range("2020-01", periods=3, freq="M")}).to_parquet("periods.parquet")
look = "import pyarrow.parquet as pq; t = pq.read_table('periods.parquet'); print(t.schema.field('month').type, t['month'][0])"


def run(first: str) -> str:
    return subprocess.run([sys.executable, "-c", first + look], check=True, capture_output=True, text=True).stdout.strip()


without = run("")
after = run("import pandas as pd; pd.read_parquet('periods.parquet'); ")
print("without pandas:", without)
print("after pandas has read it:", after)
assert without == "int64 600"
assert after.startswith("extension<pandas.period")
PYTHON
