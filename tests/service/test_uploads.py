"""Uploads: who may name them, and what their jobs' runs are told."""

from __future__ import annotations

import pytest

from symadj.service.contract import layout
from symadj.service.contract.order import RunOrder
from symadj.service.contract.uploaded import UploadedFile
from symadj.service.dispatcher import Dispatcher
from symadj.service.errors import ConflictError, InvalidSpecError
from symadj.service.lifecycle import uploads
from symadj.service.settings import Settings
from symadj.service.store import Database, jobs
from symadj.service.store import uploads as stored
from tests.service.lives import submit, upload


def delete(database: Database, settings: Settings, upload_id: str) -> None:
    with database.session() as session:
        uploads.delete(session, stored.lock(session, upload_id), storage=settings.resolved_storage())


def test_an_order_names_the_uploads_of_its_spec_and_no_others(
    database: Database, settings: Settings, dispatcher: Dispatcher
) -> None:
    rows, test_rows, _ = upload(database, bytes=5), upload(database, name="test.npy", format="npy"), upload(database)
    paths = [layout.uploaded_file(row.id, row.name) for row in (rows, test_rows)]
    storage = settings.resolved_storage()
    job_id = submit(database, data={"kind": "file", "path": paths[0], "test_path": paths[1]})
    dispatcher.round()
    order = RunOrder.of_json(storage.read(layout.order_file(job_id, 1)))
    assert set(order.uploads) == {
        UploadedFile(path=path, storage=storage.location, bytes=row.bytes, sha256=row.sha256)
        for path, row in zip(paths, (rows, test_rows), strict=True)
    }
    other = submit(database)
    dispatcher.round()
    assert RunOrder.of_json(storage.read(layout.order_file(other, 1))).uploads == ()


def test_an_upload_stays_while_a_job_needs_it_whatever_its_labels_say(database: Database, settings: Settings) -> None:
    row, other = upload(database), upload(database)
    path = layout.uploaded_file(row.id, row.name)
    first = submit(database, data={"kind": "file", "path": path}, labels={"from": other.id})
    second = submit(database, data={"kind": "file", "path": "cells.csv", "test_path": path})
    with pytest.raises(ConflictError, match=f"{first}, {second}") as refused:
        delete(database, settings, row.id)
    assert refused.value.extensions == {"named_by": [first, second]}
    delete(database, settings, other.id)
    with pytest.raises(InvalidSpecError, match="is not an upload of bob"):
        submit(database, owner="bob", data={"kind": "file", "path": path})


def test_uploads_count_as_bytes_of_their_owner_and_the_same_content_once(database: Database) -> None:
    first = upload(database, bytes=7, sha256="0" * 64)
    assert upload(database, bytes=7, sha256="0" * 64, name="other.csv").id == first.id
    assert upload(database, owner="bob", bytes=7, sha256="0" * 64).id != first.id
    assert upload(database, bytes=7, sha256="0" * 64, name="cells.fcs", format="fcs").id != first.id
    with database.read_session() as session:
        assert jobs.bytes_of(session, "ada") == 14
