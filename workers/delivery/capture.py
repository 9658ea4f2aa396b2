"""What this process prints, on its way to the API beside its other records."""

from __future__ import annotations

import contextlib
import logging
import os
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from symadj.service.contract.output import LAST_BYTES, LINE_BYTES, Mask, Output, OutputReader, note_file, note_outputs
from symadj.workers.delivery.outbox import TelemetryError
from symadj.workers.delivery.sender import Sender

__all__ = ["captured"]

log = logging.getLogger(__name__)

_LOOK_EVERY_S = 0.5
# How much a process may print a second, and at once, before the oldest of it is left out.
_BYTES_PER_SECOND = 2**16
_BURST_BYTES = 2**19


@contextmanager
def captured(sender: Sender, outputs: Sequence[Output], token: str) -> Iterator[None]:
    """Send what this process prints, from its beginning on, until the block ends; training goes on if that fails.

    Args:
        sender: of this process.
        outputs: where it prints; none: nothing is sent.
        token: of the attempt, which no line may show.
    """
    if not outputs:
        yield
        return
    capture = _Capture(sender, outputs, Mask.of_environment(os.environ, token))
    try:
        yield
    finally:
        capture.finish()


class _Capture:
    """Reads from a thread of its own."""

    def __init__(self, sender: Sender, outputs: Sequence[Output], mask: Mask) -> None:
        self._sender = sender
        self._readers = [OutputReader(output, mask) for output in outputs]
        self._spool: Path = sender.spool
        self._note: IO[bytes] | None = None
        try:
            self._note = note_outputs(self._spool, outputs)
        except OSError as error:
            log.warning("should this process die, its last lines won't be found: %s", error)
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="symadj-capture", daemon=True)
        self._thread.start()

    def finish(self) -> None:
        """Put what is left, and end."""
        self._over.set()
        self._thread.join()
        if self._note is not None:
            with contextlib.suppress(OSError):
                note_file(self._spool).unlink()
            self._note.close()

    def _run(self) -> None:
        room, looked_at = float(_BURST_BYTES), time.monotonic()
        try:
            while not self._over.wait(_LOOK_EVERY_S):
                now = time.monotonic()
                room = min(float(_BURST_BYTES), room + (now - looked_at) * _BYTES_PER_SECOND)
                looked_at = now
                for reader in self._readers:
                    room = max(0.0, room - self._put(reader, int(room)))
            for reader in self._readers:
                self._put(reader, LAST_BYTES, to_the_end=True)
        except (TelemetryError, OSError) as error:
            log.warning("what this process prints is not sent any more: %s", error)

    def _put(self, reader: OutputReader, most_bytes: int, *, to_the_end: bool = False) -> int:
        """Put the lines that have come; return what they count."""
        taken = 0
        for record in reader.read(most_bytes, to_the_end=to_the_end):
            self._sender.put(record)
            taken += sum(len(line.encode()) + LINE_BYTES for line in record.lines)
        return taken
