"""Telemetry of jobs that ended long ago: kept by default, thinned or removed where the settings say so."""

from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta

import pytest
import sqlalchemy as sa

from symadj.service.dispatcher import Dispatcher
from symadj.service.dispatcher.tidying import RETENTION_SECONDS
from symadj.service.lifecycle import requests
from symadj.service.settings import Settings, SettingsError, read_settings
from symadj.service.store import Database, audit, blocks, events, jobs, metrics
from symadj.service.store.memory_summaries import MemorySummaries
from symadj.service.store.tables import TelemetryBlock
from tests.service.conftest import Clock
from tests.service.lives import TIME, claim, end, read, send, step, submit

STEPS = 1500
SPIKE, NO_NUMBER = 777, 1203


def trained(database: Database, *, days_ago: float | None = 10, **changes: object) -> str:
    """Leave a job with telemetry that ended so many days ago; None: that runs."""
    job_id = submit(database, **changes)
    token = claim(database, job_id).token
    for first in range(1, STEPS + 1, 500):
        records = [step(number, 1e6 if number == SPIKE else None) for number in range(first, first + 500)]
        records = [item | {"metrics": {"loss": "NaN"}} if item["step"] == NO_NUMBER else item for item in records]
        peaks = [
            {"kind": "memory", "time": TIME, "step": number, "rank": 0, "phase": "forward", "host_idle_bytes": 100}
            | {"host_peak_bytes": 150 + (number * 7919) % 1013, "device_idle_bytes": None, "device_peak_bytes": None}
            for number in range(first, first + 500)
        ]
        send(database, token, 2 * first - 1, *records, *peaks)
    if days_ago is not None:
        end(database, job_id, "succeeded", result={"test_nll": 1.5})
        with database.session() as session:
            jobs.get(session, job_id).finished_at = datetime.now(UTC) - timedelta(days=days_ago)
    return job_id


def losses(database: Database, job_id: str) -> dict[int, float]:
    with database.read_session() as session:
        steps, values = metrics.values(session, job_id, "loss")
    return dict(zip(steps.tolist(), values.tolist(), strict=True))


def settle(dispatcher: Dispatcher, clock: Clock, rounds: int = 6) -> None:
    clock.now += RETENTION_SECONDS
    for _ in range(rounds):
        dispatcher.round()


def names_of_events(database: Database, job_id: str) -> list[str]:
    with database.read_session() as session:
        found = events.after(session, job_id, after_seq=0, limit=100)
    return [event.name for event in found if event.name.startswith("telemetry")]


def test_by_default_all_telemetry_is_kept_however_old(database: Database, dispatcher: Dispatcher, clock: Clock) -> None:
    job_id = trained(database, days_ago=30_000)
    settle(dispatcher, clock)
    assert len(losses(database, job_id)) == STEPS
    assert names_of_events(database, job_id) == []


def test_what_is_old_is_thinned_so_that_spikes_gaps_and_peaks_stay_and_it_is_said_why(
    database: Database, settings: Settings, dispatcher: Dispatcher, clock: Clock
) -> None:
    settings.telemetry_thin_days, settings.telemetry_thin_records = 7, 100
    old, new, pinned = (trained(database, days_ago=days) for days in (10, 5, 10))
    with database.session() as session:
        requests.change(session, jobs.lock(session, pinned), name="a", labels={"keep": ""}, actor="ada")
        before = MemorySummaries().of_job(session, old)
    settle(dispatcher, clock)
    for job_id in (new, pinned):
        assert len(losses(database, job_id)) == STEPS
        assert names_of_events(database, job_id) == []
    left = losses(database, old)
    assert 20 < len(left) <= 100
    assert {1, SPIKE, NO_NUMBER, STEPS} <= left.keys()
    assert left[SPIKE] == 1e6
    assert math.isnan(left[NO_NUMBER])
    with database.read_session() as session:
        assert metrics.series(session, old)[0].points == len(left)
        (now,) = MemorySummaries().of_job(session, old)
        assert now["steps"] <= 100
        assert {name: now[name] for name in now if name.endswith("bytes")} == {
            name: before[0][name] for name in now if name.endswith("bytes")
        }
        (event,) = [item for item in events.after(session, old, after_seq=0, limit=99) if "telemetry" in item.name]
        assert event.data == {
            "policy": "SYMADJ_TELEMETRY_THIN_DAYS=7",
            "series": 2,
            "records": 2 * STEPS,
            "thin_records": 100,
        }
        (entry,) = audit.page(session, who="dispatcher", limit=9).items
        assert (entry.target, entry.route) == (old, "SYMADJ_TELEMETRY_THIN_DAYS=7")
    assert read(database, old).telemetry == "thinned"
    settle(dispatcher, clock)
    assert losses(database, old).keys() == left.keys(), "once is enough"


def test_what_is_older_still_is_removed_but_for_what_a_user_comes_back_for(
    database: Database, settings: Settings, dispatcher: Dispatcher, clock: Clock
) -> None:
    settings.telemetry_keep_days, settings.telemetry_keep_last = 7, 1
    old, newest, active = trained(database), trained(database, days_ago=9), trained(database, days_ago=None)
    other = trained(database, owner="bob")
    settle(dispatcher, clock, rounds=1)
    clock.now += RETENTION_SECONDS
    dispatcher.round()
    for job_id in (newest, active, other):
        assert len(losses(database, job_id)) == STEPS, "running, or of those of their owners that ended last"
    with database.read_session() as session:
        assert blocks.records_by_series(session, old) == {}
        (loss,) = metrics.series(session, old)
        assert (loss.points, loss.last_step, loss.last_value) == (0, STEPS, STEPS)
        job = jobs.get(session, old)
        assert (job.telemetry, job.result is not None, job.host_peak_bytes) == ("removed", True, 1162)
    assert names_of_events(database, old) == ["telemetry_removed"]
    with database.session() as session:
        requests.delete(session, jobs.lock(session, old), storage=settings.resolved_storage())


def test_telemetry_that_is_damaged_keeps_no_other_jobs_from_being_thinned(
    database: Database, settings: Settings, dispatcher: Dispatcher, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    settings.telemetry_thin_days, settings.telemetry_thin_records = 7, 100
    damaged, other = trained(database, days_ago=11), trained(database, days_ago=10)
    with database.session() as session:
        session.execute(
            sa.update(TelemetryBlock).where(TelemetryBlock.job_id == damaged).values(steps=b"?", values=b"?")
        )
    settle(dispatcher, clock)
    assert f"the telemetry of {damaged} stays as it is: " in caplog.text
    assert len(losses(database, other)) <= 100


@pytest.mark.parametrize(
    ("days", "told"),
    [({"KEEP_LAST": "3"}, "set one of them"), ({"KEEP_DAYS": "5", "THIN_DAYS": "5"}, "nothing would be thinned")],
)
def test_settings_of_retention_that_would_do_nothing_are_refused(
    days: dict[str, str], told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in days.items():
        monkeypatch.setenv(f"SYMADJ_TELEMETRY_{name}", value)
    with pytest.raises(SettingsError, match=told):
        read_settings()
