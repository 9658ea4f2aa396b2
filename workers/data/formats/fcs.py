"""Flow cytometry's FCS files."""

from __future__ import annotations

import warnings

from workers.data.formats.raw import InputFile, Raw, need, unreadable

__all__ = ["read_fcs"]


def read_fcs(file: InputFile) -> Raw:
    """Read the events of an FCS file, each channel scaled by its own gain or amplifier type as the standard says.

    The columns are the short names ($PnN) of the channels.
    """
    flowio = need("flowio", file)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of keywords that break the standard in ways which do no harm
            data = flowio.FlowData(str(file.path))
            return Raw(data.as_array(preprocess=True), tuple(data.pnn_labels))
    except Exception as error:  # the parser lets through whatever its arithmetic on a damaged header raises
        raise unreadable(file, "FCS", error) from error
