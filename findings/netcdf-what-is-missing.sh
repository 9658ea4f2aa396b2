#!/usr/bin/env bash
# xarray 2026.9.0 and netCDF4-python 1.7.5 disagree on which values of one file are missing, in three ways.
#
# Never written: the netCDF library leaves 9.96921e36 there. netCDF4-python masks it, xarray returns it as data. Beyond
# valid_range: the same. And where a uint16 variable has no _FillValue, its largest value, 65535, is a measurement to xarray
# and missing to netCDF4-python, since it is the library's default fill value.
#
# Seen: netCDF4-python masks 2, 1 and 1 values; xarray has no NaN.
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check xarray==2026.9.0 netCDF4==1.7.5.1.post1 numpy==2.4.6 pandas==3.1.1
cd "$work"
venv/bin/python - <<'PYTHON'
import netCDF4
import numpy as np
import xarray as xr

with netCDF4.Dataset("some.nc", "w") as file:
    file.createDimension("t", 4)
    file.createVariable("half_written", "f4", ("t",))[:2] = [1, 2]
    limited = file.createVariable("limited", "f4", ("t",))
    limited.valid_range = np.array([0, 10], "f4")
    limited.set_auto_mask(False)
    limited[:] = [1, 2, 999, 3]
    file.createVariable("counts", "u2", ("t",))[:] = [1, 2, 3, 65535]
names = ("half_written", "limited", "counts")
with netCDF4.Dataset("some.nc") as file:
    masked = [int(np.ma.count_masked(file[name][:])) for name in names]
with xr.open_dataset("some.nc") as opened:
    missing = [int(opened[name].isnull().sum()) for name in names]
    print("xarray:", {name: opened[name].values.tolist() for name in names})
print("masked by netCDF4:", masked, "missing to xarray:", missing)
assert masked == [2, 1, 1] and missing == [0, 0, 0]
PYTHON
