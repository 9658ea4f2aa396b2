#!/usr/bin/env bash
# pyarrow 26.0.1: a safe cast to float64 refuses a whole number above 2^53 as int64, and rounds the same number silently
# as a decimal.
#
# Databases hand out ids and amounts as decimal(p, s), so that "cast is safe unless told otherwise" does not hold there.
#
# Seen: int64 9007199254740993 raises ArrowInvalid; decimal128(16, 0) of it gives 9007199254740992.0.
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check pyarrow==26.0.1 numpy==2.4.6
cd "$work"
venv/bin/python - <<'PYTHON'
from decimal import Decimal

import pyarrow as pa

try:
    pa.array([2**53 + 1]).cast(pa.float64())
    refused = False
except pa.ArrowInvalid as error:
    refused = True
    print("int64:", error)
rounded = pa.array([Decimal(2**53 + 1)], pa.decimal128(16, 0)).cast(pa.float64())[0].as_py()
print("decimal128(16, 0):", rounded)
assert refused and rounded == 2.0**53
PYTHON
