"""Flow cytometry's FCS files."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np

from workers.data.formats.raw import InputFile, Raw, need, reading, refuse, refuse_larger_than_memory

__all__ = ["read_fcs"]

_BYTE_ORDERS = ("1,2,3,4", "4,3,2,1", "1,2", "2,1")


def read_fcs(file: InputFile, columns: Sequence[str] | None = None) -> Raw:
    """Read the events of an FCS file, each channel scaled by its own gain or amplifier type as the standard says.

    Spillover is not compensated: fluorescence is as it was measured.

    The columns are the short names ($PnN) of the channels; a channel that ``columns`` calls by its marker ($PnS, as
    "CD4") has that name.
    """
    flowio = need("flowio", file)
    refuse_larger_than_memory(file, file.path.stat().st_size)
    with reading(file, "FCS"), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of keywords that break the standard; those that matter are looked at below
        try:
            # Many instruments give the end of the data as the byte behind it. The number of events is checked below.
            data = flowio.FlowData(file.path, ignore_offset_error=True)
        except flowio.exceptions.MultipleDataSetsError as error:
            raise refuse(file, "holds several data sets: save each as a file of its own") from error
        _refuse_misread(file, data)
        names = tuple(
            marker if columns and marker in columns and name not in columns else name
            for name, marker in zip(data.pnn_labels, data.pns_labels, strict=True)
        )
        return Raw(np.asarray(data.as_array(preprocess=True)), names)


def _refuse_misread(file: InputFile, data: Any) -> None:
    """Refuse what the parser reads as something else than it is, with a warning or none."""
    mode, order = data.text["mode"], data.text["byteord"]
    if mode.upper() != "L":
        raise refuse(file, f"holds histograms ($MODE is {mode}), not a list of events ($MODE L)")
    if order not in _BYTE_ORDERS:
        raise refuse(file, f"has the byte order ($BYTEORD) {order!r}: {'; '.join(_BYTE_ORDERS)} are read")
    if data.events is None:
        raise refuse(file, "holds integers ($PnB) of other widths than 8, 16 and 32 bits")
    if len(data.events) != data.event_count * data.channel_count:
        raise refuse(
            file,
            f"holds {len(data.events)} values, not the {data.event_count} events ($TOT) of {data.channel_count} "
            "channels ($PAR) that it announces",
        )
