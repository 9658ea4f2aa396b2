"""What is stored, in rows and bytes."""

from __future__ import annotations

from symadj.service.contract import layout
from symadj.service.contract.storage import is_url
from symadj.service.identifiers import new_upload_id
from symadj.service.settings import Settings
from symadj.service.store import Database
from symadj.service.usage import JobBytes, usage
from tests.service.lives import submit


def test_rows_bytes_and_folders_are_counted(database: Database, settings: Settings, place: str) -> None:
    settings.storage = place
    with database.read_session() as session:
        assert usage(session, database, settings).jobs == [], "before there is any folder"
    first, second = submit(database), submit(database)
    storage = settings.resolved_storage()
    for job_id, size in ((first, 10), (second, 3000)):
        storage.write(f"{layout.artifact_folder(job_id, 1)}/weights", b"w" * size)
    storage.write(f"{layout.job_folder(first)}/plot", b"p" * 5)
    storage.write(layout.uploaded_file(new_upload_id(), "cells.csv"), b"c" * 7)
    with database.read_session() as session:
        found = usage(session, database, settings)
    assert (found.rows["jobs"], found.rows["events"], found.rows["telemetry_blocks"]) == (2, 2, 0)
    assert found.jobs == [JobBytes(second, 3000), JobBytes(first, 15)]
    assert (found.jobs_bytes, found.uploads_bytes) == (3015, 7)
    assert found.store_bytes > 10_000
    assert (found.free_bytes is None) == is_url(place)
