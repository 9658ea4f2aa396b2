#!/usr/bin/env bash
# xarray 2026.9.0 unpacks 32-bit integers in single precision if scale_factor is one; netCDF4-python 1.7.5 does it in double.
#
# A packed int32 has 31 bits, a float32 has 24, so that neighbouring packed values become equal. The scale factor's type is
# whatever the writer's tool happened to use.
#
# Seen: 123456789 with scale_factor 0.1f: 12345679.0 by xarray, and for 123456788 the same; 12345679.08 and 12345678.98 by
# netCDF4-python.
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

with netCDF4.Dataset("packed.nc", "w") as file:
    file.createDimension("t", 2)
    x = file.createVariable("x", "i4", ("t",))
    x.scale_factor = np.float32(0.1)
    x.set_auto_maskandscale(False)
    x[:] = [123456788, 123456789]
with xr.open_dataset("packed.nc") as opened:
    single = opened["x"].values
with netCDF4.Dataset("packed.nc") as file:
    double = np.asarray(file["x"][:])
print("xarray:", single.dtype, single.tolist(), "netCDF4:", double.dtype, double.tolist())
assert single.dtype == np.float32 and single[0] == single[1]
assert double.dtype == np.float64 and double[0] != double[1]
PYTHON
