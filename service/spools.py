"""Delivers what dead runs left in their spools on this machine.

A run delivers its own records and removes its spool. One that was killed leaves files behind, with records that the
store may not have; where the spools lie on the dispatcher's machine, they are brought in from here. Sequence numbers
make it safe to do so at any time: what is stored already is passed over.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import shutil
from collections.abc import Sequence
from pathlib import Path

from pydantic import ValidationError

from symadj.service import ingest
from symadj.service.contract.output import Mask, left_behind
from symadj.service.contract.records import MAX_BATCH_RECORDS, RecordBatch
from symadj.service.errors import SymadjError
from symadj.service.store import Database, jobs

__all__ = ["attempts", "deliver", "left_over", "remove"]

log = logging.getLogger("symadj.spools")


def left_over(folder: Path | None) -> list[str]:
    """Return the ids of the jobs that have spools in ``folder``."""
    if folder is None or not folder.is_dir():
        return []
    return sorted(entry.name for entry in folder.iterdir() if entry.is_dir())


def attempts(folder: Path | None, job_id: str) -> list[int]:
    """Return the numbers of the attempts of a job that have spools in ``folder``."""
    if folder is None or not (folder / job_id).is_dir():
        return []
    return sorted(int(entry.name) for entry in (folder / job_id).iterdir() if entry.name.isdecimal())


def deliver(database: Database, folder: Path | None, job_id: str, attempt: int, *, retry_seconds: float) -> None:
    """Bring the records of an attempt, whose run is over, into the store. The driver's come last: they end the job.

    So are the lines that its processes printed and could not put into their spools any more.
    """
    if folder is None:
        return
    files = sorted(
        (folder / job_id / str(attempt)).glob("*.jsonl"), key=lambda file: (file.stem == "driver", file.stem)
    )
    for file in files:
        with left_behind(file, Mask.of_environment(os.environ)) as (printed, _):
            # Only whole lines: the last one was cut off if its writer died.
            try:
                lines = [line for line in file.read_bytes().split(b"\n")[:-1] if line]
            except FileNotFoundError:
                continue  # another dispatcher has brought it in
            lines += [record.model_dump_json().encode() for record in printed]
            _store(database, job_id, attempt, file, lines, retry_seconds)


def _store(
    database: Database, job_id: str, attempt: int, file: Path, lines: Sequence[bytes], retry_seconds: float
) -> None:
    for start in range(0, len(lines), MAX_BATCH_RECORDS):
        records = lines[start : start + MAX_BATCH_RECORDS]
        try:
            batch = RecordBatch.model_validate(
                {"source": file.stem, "first_seq": start + 1, "records": [json.loads(line) for line in records]}
            )
            with database.session() as session:
                row = jobs.attempt(session, job_id, attempt)
                ingest.store_batch(session, row, batch, retry_seconds=retry_seconds, live=False)
        except (ValidationError, ValueError, SymadjError):
            log.exception("%s: the records from %d on can't be read; they are left out", file, start + 1)
            return


def remove(folder: Path | None, job_id: str, attempt: int | None = None) -> None:
    """Remove the spools of a job, or of one attempt of it."""
    if folder is None:
        return
    if attempt is None:
        shutil.rmtree(folder / job_id, ignore_errors=True)
        return
    shutil.rmtree(folder / job_id / str(attempt), ignore_errors=True)
    with contextlib.suppress(OSError):  # not empty: another attempt's are there
        (folder / job_id).rmdir()
