"""Packed and missing values of netCDF, as its User's Guide and the CF conventions (2.5.1, 8.1) have them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from symadj.workers.data.formats.columns import INEXACT, first_inexact
from symadj.workers.data.formats.raw import InputFile, refuse

__all__ = ["Missing", "unpacked"]

Values = NDArray[Any]

# What the netCDF library leaves where nothing was written, unless told otherwise; bytes have no such value.
_NEVER_WRITTEN: dict[str, int | float] = {
    "i2": -32767,
    "u2": 65535,
    "i4": -2147483647,
    "u4": 4294967295,
    "i8": -9223372036854775806,
    "u8": 18446744073709551614,
    "f4": float(np.float32(9.969209968386869e36)),
    "f8": 9.969209968386869e36,
}


@dataclass(frozen=True)
class Missing:
    """Values that stand for missing ones.

    Attributes:
        where: which of the values, in their shape.
        why: what says so.
    """

    where: NDArray[np.bool_]
    why: str


def unpacked(
    file: InputFile, values: Values, attributes: Mapping[str, Any], *, netcdf: bool, hdf_eos: bool
) -> tuple[Values, list[Missing], list[str]]:
    """Return ``values`` as they were before they were packed, which of them are missing, and notes on it.

    Args:
        values: of a real dtype.
        attributes: of the dataset.
        netcdf: whether the netCDF library has written the file, so that values never written are known.
        hdf_eos: whether it is a file of HDF-EOS, where the offset may be meant otherwise.

    Raises:
        DataError: an attribute is not a number.
    """
    values, notes = _with_signs(values, attributes)
    missing = _missing(file, values, attributes, netcdf)
    scale, offset = (_scalar(file, attributes, name) for name in ("scale_factor", "add_offset"))
    if hdf_eos and offset:
        raise refuse(
            file,
            f"has the attribute add_offset {offset:g} in a file of HDF-EOS, where it may be subtracted before scaling "
            "or added after it: unpack the values and store them as they are",
        )
    applied = {name: value for name, value in (("scale_factor", scale), ("add_offset", offset)) if value is not None}
    result = values
    if applied:
        result = _floats(file, values, missing) * applied.get("scale_factor", 1.0) + applied.get("add_offset", 0.0)
        notes += [f"{name} {value:g} was applied" for name, value in applied.items()]
    missing += _invalid(file, values, result, attributes, scale)
    return result, missing, notes


def _with_signs(values: Values, attributes: Mapping[str, Any]) -> tuple[Values, list[str]]:
    """Return whole numbers with the sign that the attribute _Unsigned gives them: netCDF-3 had no unsigned types."""
    unsigned = _text(attributes.get("_Unsigned"))
    if unsigned == "true" and values.dtype.kind == "i":
        return values.view(f"u{values.dtype.itemsize}"), ["_Unsigned was applied"]
    if unsigned == "false" and values.dtype.kind == "u":
        return values.view(f"i{values.dtype.itemsize}"), ["_Unsigned was applied"]
    return values, []


def _missing(file: InputFile, values: Values, attributes: Mapping[str, Any], netcdf: bool) -> list[Missing]:
    """Return the values that _FillValue and missing_value name, and those that were never written."""
    fill, others = (_numbers(file, attributes, name) for name in ("_FillValue", "missing_value"))
    marks = [(mark, "_FillValue") for mark in fill] + [(mark, "missing_value") for mark in others]
    never_written = _NEVER_WRITTEN.get(values.dtype.str[1:])
    if netcdf and not len(fill) and never_written is not None:
        marks.append((np.asarray(never_written), "netCDF's value where nothing was written"))
    missing = []
    for mark, name in marks:
        # In the type of the values: 0.1 of single precision is not that of double precision.
        with np.errstate(over="ignore", invalid="ignore"):
            cast = mark.astype(values.dtype)
        if (where := values == cast).any():
            missing.append(Missing(where, f"{name} is {cast}"))
    return missing


def _invalid(
    file: InputFile, values: Values, result: Values, attributes: Mapping[str, Any], scale: float | None
) -> list[Missing]:
    """Return what is not within valid_range, valid_min and valid_max."""
    limits = _numbers(file, attributes, "valid_range")
    low, high = limits if len(limits) == 2 else (None, None)
    low = next(iter(_numbers(file, attributes, "valid_min")), low)
    high = next(iter(_numbers(file, attributes, "valid_max")), high)
    invalid = []
    for limit, beyond, slack in ((low, np.less, -0.5), (high, np.greater, 0.5)):
        if limit is None:
            continue
        # Limits of the packed type are of packed values; others are of unpacked values, which are rounded.
        if scale is None or limit.dtype.kind == values.dtype.kind != "f":
            where = beyond(values, limit.astype(values.dtype) if values.dtype.kind == "f" else limit)
        else:
            where = beyond(result, limit + slack * abs(scale))
        if where.any():
            invalid.append(Missing(where, f"its valid range ends at {limit}"))
    return invalid


def _floats(file: InputFile, values: Values, missing: Sequence[Missing]) -> NDArray[np.float64]:
    present = values
    for mark in missing:
        present = np.where(mark.where, values.dtype.type(0), present)
    if (at := first_inexact(present.ravel())) is not None:
        raise refuse(file, f"holds {present.ravel()[at]}, {INEXACT}")
    return present.astype(np.float64)


def _scalar(file: InputFile, attributes: Mapping[str, Any], name: str) -> float | None:
    numbers = _numbers(file, attributes, name)
    if not len(numbers):
        return None
    if len(numbers) > 1 or not np.isfinite(numbers[0]):
        raise refuse(file, f"has the attribute {name} {numbers}, which is not one number: unpack the values yourself")
    return float(numbers[0])


def _numbers(file: InputFile, attributes: Mapping[str, Any], name: str) -> Values:
    """Return the numbers of an attribute, none where there is no such attribute."""
    numbers = np.atleast_1d(np.asarray(attributes.get(name, []))).ravel()
    if len(numbers) and numbers.dtype.kind not in "iuf":
        raise refuse(
            file, f"has the attribute {name} {attributes[name]!r}, which is not a number: unpack the values yourself"
        )
    return numbers


def _text(given: Any) -> str:
    return (given.decode(errors="replace") if isinstance(given, bytes) else str(given)).lower()
