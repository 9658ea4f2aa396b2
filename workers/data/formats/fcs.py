"""Flow cytometry's FCS files, versions 2.0 to 3.2, as the standard says and, where it is silent, as flowCore does.

Our own reading and not a library's, since instruments write more than the common ones read: channels of several types,
keywords without a value or in the supplemental TEXT, any byte order, ASCII.
"""

from __future__ import annotations

from collections.abc import Sequence

from symadj.service.contract.spec.data import FileData
from symadj.workers.data.formats.fcs_channels import read_channels
from symadj.workers.data.formats.fcs_data import read_events
from symadj.workers.data.formats.fcs_spillover import compensate, written_spillover
from symadj.workers.data.formats.fcs_text import find_data_set
from symadj.workers.data.formats.raw import InputFile, Raw, reading, reads

__all__ = ["read_fcs"]


def read_fcs(
    file: InputFile, columns: Sequence[str] = (), *, compensated: bool = False, data_set: int | None = None
) -> Raw:
    """Read the events of an FCS file, each channel scaled by its own gain, amplifier type or time step.

    Fluorescence is as it was measured, unless the file's spillover matrix is to be taken out (``compensated``).

    The columns are the short names ($PnN) of the channels; a channel that ``columns`` calls by its marker ($PnS, as
    "CD4") has that name. ``data_set`` is the one to read (from 1) of a file with several.

    Raises:
        DataError: a keyword has a value that can't be used, or the file does not hold what its keywords say.
    """
    size = file.path.stat().st_size
    with reading(file, "FCS"), file.path.open("rb") as stream:
        found = find_data_set(file, stream, size, data_set)
        channels = read_channels(file, found)
        events, notes = read_events(file, stream, size, found, channels)
        for channel in channels:
            notes += channel.scale.notes
        spillover = written_spillover(found.keywords)
        if compensated:
            notes.append(compensate(file, found.keywords, channels, events))
        elif spillover is not None:
            notes.append(f"spillover ({spillover}) was left in: data.compensate takes it out")
        names = tuple(
            channel.marker if channel.marker in columns and channel.name not in columns else channel.name
            for channel in channels
        )
        return Raw(events, names, tuple(notes))


@reads("fcs")
def _fcs(file: InputFile, data: FileData) -> Raw:
    columns = [*(data.columns or ()), *data.context_columns]
    return read_fcs(file, columns, compensated=data.compensate, data_set=data.data_set)
