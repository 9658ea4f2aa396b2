"""Flow cytometry's FCS files, versions 2.0 to 3.2, as the standard says and, where it is silent, as flowCore does.

Our own reading and not a library's, since instruments write more than the common ones read: channels of several types,
keywords without a value or in the supplemental TEXT, any byte order, ASCII.
"""

from __future__ import annotations

from collections.abc import Sequence

from symadj.service.contract.spec.data import FileData
from symadj.workers.data.formats.columns import wanted_of
from symadj.workers.data.formats.fcs_channels import reading_of, stored_channels
from symadj.workers.data.formats.fcs_data import read_events
from symadj.workers.data.formats.fcs_spillover import read_spillover, written_spillover
from symadj.workers.data.formats.fcs_text import find_data_set
from symadj.workers.data.formats.raw import InputFile, Raw, reading, reads

__all__ = ["read_fcs"]


def read_fcs(
    file: InputFile,
    columns: Sequence[str] | None = None,
    context_columns: Sequence[str] = (),
    *,
    compensated: bool = False,
    data_set: int | None = None,
) -> Raw:
    """Read channels of an FCS file, each scaled by its own gain, amplifier type or time step.

    Fluorescence is as it was measured, unless the file's spillover matrix is to be taken out (``compensated``).

    The columns are the short names ($PnN) of the channels; a channel that is called by its marker ($PnS, as "CD4") has
    that name. Without ``columns`` all are read, otherwise these and ``context_columns``: what the file says of others
    need not make sense. ``data_set`` is the one to read (from 1) of a file with several.

    Raises:
        DataError: a keyword has a value that can't be used, or the file does not hold what its keywords say.
    """
    size = file.path.stat().st_size
    called = [*(columns or ()), *context_columns]
    with reading(file, "FCS"), file.path.open("rb") as stream:
        found = find_data_set(file, stream, size, data_set)
        channels = stored_channels(file, found)
        names = [
            channel.marker if channel.marker in called and channel.name not in called else channel.name
            for channel in channels
        ]
        wanted = wanted_of(file, names, None if columns is None else called)
        places = [names.index(name) for name in wanted]
        matrix = read_spillover(file, found.keywords, channels) if compensated else None
        beside = [] if matrix is None else [place for place in matrix.places if place not in places]
        read = [reading_of(file, found, channels[place]) for place in (*places, *beside)]
        events, notes = read_events(file, stream, size, found, channels, read)
        for one in read[: len(places)]:
            notes += one.scale.notes
        if matrix is not None:
            matrix.take_out(events, [*places, *beside])
            notes.append(matrix.note)
        elif spillover := written_spillover(found.keywords):
            notes.append(f"spillover ({spillover}) was left in: data.compensate takes it out")
        stored = tuple(channels[place].dtype for place in places)
        return Raw(events[:, : len(places)] if beside else events, tuple(wanted), tuple(notes), stored)


@reads("fcs")
def _fcs(file: InputFile, data: FileData) -> Raw:
    return read_fcs(file, data.columns, data.context_columns, compensated=data.compensate, data_set=data.data_set)
