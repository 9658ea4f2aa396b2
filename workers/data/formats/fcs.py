"""Flow cytometry's FCS files."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from symadj.service.contract.spec.data import FileData
from symadj.workers.data.formats.raw import InputFile, Raw, need, reading, reads, refuse, refuse_larger_than_memory

__all__ = ["read_fcs"]

_BYTE_ORDERS = ("1,2,3,4", "4,3,2,1", "1,2", "2,1")


def read_fcs(file: InputFile, columns: Sequence[str] = (), *, compensate: bool = False) -> Raw:
    """Read the events of an FCS file, each channel scaled by its own gain or amplifier type as the standard says.

    Fluorescence is as it was measured, unless ``compensate`` asks for the file's spillover matrix to be applied.

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
            marker if marker in columns and name not in columns else name
            for name, marker in zip(data.pnn_labels, data.pns_labels, strict=True)
        )
        events = np.asarray(data.as_array(preprocess=True))
        if compensate:
            _compensate(file, data, events)
        return Raw(events, names)


def _refuse_misread(file: InputFile, data: Any) -> None:
    """Refuse what the parser reads as something else than it is, with a warning or none."""
    mode, order = data.text["mode"], data.text["byteord"]
    if mode.upper() != "L":
        raise refuse(file, f"holds histograms ($MODE is {mode}), not a list of events ($MODE L)")
    if order not in _BYTE_ORDERS:
        raise refuse(file, f"has the byte order ($BYTEORD) {order!r}: {'; '.join(_BYTE_ORDERS)} are read")
    if sorted(data.channels) != list(range(1, data.channel_count + 1)):
        raise refuse(file, f"does not name ($PnN) each of the {data.channel_count} channels ($PAR) that it announces")
    if data.events is None:
        raise refuse(file, "holds integers ($PnB) of other widths than 8, 16 and 32 bits")
    if len(data.events) != data.event_count * data.channel_count:
        raise refuse(
            file,
            f"holds {len(data.events)} values, not the {data.event_count} events ($TOT) of {data.channel_count} "
            "channels ($PAR) that it announces",
        )


def _compensate(file: InputFile, data: Any, events: NDArray[np.float64]) -> None:
    """Take spillover out of ``events`` [n, channels], in place.

    Row i of the matrix tells how the label of channel i shows in each channel, so that what was measured is what was
    emitted times the matrix (FCS 3.1, $SPILLOVER; instruments before it wrote SPILL).
    """
    written = data.text.get("spillover", data.text.get("spill"))
    if written is None:
        raise refuse(file, "has no spillover matrix ($SPILLOVER): leave data.compensate out")
    count, *parts = (part.strip() for part in written.split(","))
    size = int(count)
    names, values = parts[:size], np.array(parts[size:], np.float64)
    missing = [name for name in names if name not in data.pnn_labels]
    if missing or len(values) != size**2:
        what = f"names {missing[0]!r}, which is no channel" if missing else f"has {len(values)} values, not {size**2}"
        raise refuse(file, f"its spillover matrix {what}")
    places = [data.pnn_labels.index(name) for name in names]
    events[:, places] = np.linalg.solve(values.reshape(size, size).T, events[:, places].T).T


@reads("fcs")
def _fcs(file: InputFile, data: FileData) -> Raw:
    return read_fcs(file, [*(data.columns or ()), *data.context_columns], compensate=data.compensate)
