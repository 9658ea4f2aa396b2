"""What dead runs and cut off deletions left is brought in or removed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from symadj.service.contract import layout
from symadj.service.dispatcher import Dispatcher
from symadj.service.dispatcher.tidying import RARE_SECONDS
from symadj.service.identifiers import made_at, new_job_id, new_upload_id
from symadj.service.ray_jobs import RayRefusedError
from symadj.service.settings import Settings
from symadj.service.store import Database, blocks, jobs
from tests.buckets import BucketServer
from tests.service.conftest import Clock
from tests.service.lives import ask, claim, end, lose, read, running, step, submit, upload
from tests.service.ray_server import RayServer


def leave(settings: Settings, job_id: str, attempt: int, *records: dict[str, Any], source: str = "rank-0") -> Path:
    """Leave records in a spool; return the job's folder of spools."""
    assert settings.spool is not None
    folder = settings.spool / job_id
    (folder / str(attempt)).mkdir(parents=True, exist_ok=True)
    (folder / str(attempt) / f"{source}.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    return folder


def steps(database: Database, job_id: str) -> list[tuple[int, int]]:
    with database.read_session() as session:
        steps, attempts = blocks.whole(session, job_id, "metric/loss", "steps", "attempts")
        return sorted(zip(steps.tolist(), attempts.tolist(), strict=True))


def test_spools_of_a_lost_attempt_are_in_the_store_before_the_next_one_starts(
    database: Database, ray: RayServer, settings: Settings, dispatcher: Dispatcher
) -> None:
    job_id = running(database)
    lose(database, job_id)
    with database.session() as session:
        jobs.get(session, job_id).not_before = None
    leave(settings, job_id, 1, step(1), step(2))
    ray.refusal = "not now"
    with pytest.raises(RayRefusedError):
        dispatcher.round()
    assert steps(database, job_id) == [(1, 1), (2, 1)]


def test_at_the_end_the_spools_of_all_attempts_are_delivered_and_removed(
    database: Database, settings: Settings, dispatcher: Dispatcher
) -> None:
    job_id = running(database)
    lose(database, job_id)
    claim(database, job_id)
    end(database, job_id, "succeeded")
    leave(settings, job_id, 2, step(2, 20.0), step(3))
    folder = leave(settings, job_id, 1, step(1), step(2))
    dispatcher.round()
    assert steps(database, job_id) == [(1, 1), (2, 2), (3, 2)]
    assert not folder.exists()


def test_a_paused_jobs_spools_are_delivered_once_its_run_is_gone(
    database: Database, ray: RayServer, settings: Settings, dispatcher: Dispatcher
) -> None:
    job_id = submit(database)
    dispatcher.round()
    folder = leave(settings, job_id, 1, step(1))
    ask(database, job_id, "pause")
    end(database, job_id, "paused")
    dispatcher.round()
    assert folder.exists(), "its run may still deliver it"
    ray.jobs[f"{job_id}-1"]["status"] = "SUCCEEDED"
    dispatcher.round()
    assert steps(database, job_id) == [(1, 1)]
    assert not folder.exists()


def test_a_deletion_that_was_cut_off_is_undone_if_the_job_is_there_and_finished_if_not(
    database: Database, settings: Settings, dispatcher: Dispatcher, place: str
) -> None:
    settings.storage = place
    storage = settings.resolved_storage()
    kept, kept_upload = submit(database), upload(database).id
    for folder in (kept, "job-gone", kept_upload, new_upload_id()):
        storage.write(f"{folder}/weights", b"w")
        assert storage.set_aside(folder)
    dispatcher.round()
    assert storage.read(f"{kept}/weights") == storage.read(f"{kept_upload}/weights") == b"w"
    assert storage.read(layout.order_file(kept, 1)), "the job was started before it was tidied up"
    assert storage.children("") == [kept, kept_upload]
    assert storage.all_set_aside() == []


def test_a_bucket_that_is_away_keeps_the_dispatcher_from_nothing_else(
    database: Database, settings: Settings, dispatcher: Dispatcher, ray: RayServer, bucket_server: BucketServer
) -> None:
    settings.storage = bucket_server.new_bucket()
    settings.retry_seconds = 0.0
    failing = submit(database)
    dispatcher.round()
    waiting = submit(database)
    with bucket_server.away():
        ray.jobs[f"{failing}-1"]["status"] = "FAILED"
        dispatcher.round()
    assert read(database, failing).state == "failed"
    assert read(database, waiting).state == "queued", "its order could not be written"
    dispatcher.round()
    assert f"{waiting}-2" in ray.jobs


def test_a_run_that_does_not_end_after_its_outcome_is_stopped(
    database: Database, ray: RayServer, dispatcher: Dispatcher, clock: Clock
) -> None:
    job_id = submit(database)
    dispatcher.round()
    end(database, job_id, "succeeded")
    for _ in range(2):
        clock.now += 31
        dispatcher.round()
        assert ray.stopped == []
    clock.now += 31
    dispatcher.round()
    assert ray.stopped == [f"{job_id}-1"]
    assert read(database, job_id).state == "succeeded"


@pytest.mark.parametrize("backend", ["sqlite"])
def test_a_file_whose_api_died_while_it_came_in_is_removed_after_a_day(
    database: Database, settings: Settings, dispatcher: Dispatcher, clock: Clock
) -> None:
    storage = settings.resolved_storage()
    old, new, kept = "job-01k0000000abcdef", new_job_id(), submit(database)
    old_upload, new_upload = "upl-01k0000000abcdef", new_upload_id()
    stored_upload = upload(database, id="upl-01k0000000stored").id  # whose API died before it removed the mark
    for folder in (old, new, kept, old_upload, new_upload, stored_upload):
        storage.mark(layout.upload_mark(folder))
        storage.write(f"{folder}/rows.csv", b"x")
    clock.now += RARE_SECONDS
    dispatcher.round()
    assert storage.children(old) == storage.children(old_upload) == []
    assert all("rows.csv" in storage.children(folder) for folder in (new, kept, new_upload, stored_upload))
    assert storage.children(layout.UPLOADS) == sorted([new, kept, new_upload])
    assert made_at(old) < made_at(new) <= made_at(kept)
