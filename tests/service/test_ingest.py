"""Workers' records on their way into the store: each exactly once."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, get_args

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy.orm import Session

from symadj.service import ingest
from symadj.service.contract.records import (
    AnyRecord,
    ArtifactRecord,
    CheckpointRecord,
    ClosedRecord,
    DataRecord,
    EventRecord,
    LogRecord,
    MemoryRecord,
    OutcomeRecord,
    PlanRecord,
    RecordBatch,
    ResumedRecord,
    StepRecord,
)
from symadj.service.contract.states import ReasonCode, StopReason
from symadj.service.errors import ConflictError, UnauthorizedError
from symadj.service.lifecycle import attempts, requests
from symadj.service.lifecycle.advice import advice_for
from symadj.service.store import (
    Database,
    artifacts,
    checkpoints,
    data,
    events,
    jobs,
    logs,
    memory,
    metrics,
    plans,
    sources,
)
from symadj.service.store.downsampling import Downsampler
from symadj.service.store.memory import MemoryPoint
from symadj.service.store.memory_summaries import MemorySummaries
from symadj.service.store.tables import IngestSource
from tests.service import lives
from tests.service.lives import checkpoint, claim, lose, send_late, step, submit

NOW = datetime(2026, 1, 1, tzinfo=UTC).isoformat()


def start_job(database: Database) -> attempts.Claim:
    return claim(database, submit(database))


def send(database: Database, token: str, first_seq: int, *records: dict[str, Any], source: str = "rank-0") -> int:
    return lives.send(database, token, first_seq, *records, source=source).next_seq


def losses(database: Database, job_id: str) -> list[tuple[int, float | None]]:
    with database.read_session() as session:
        points = metrics.points(session, job_id, "loss", after_seq=0, limit=10_000)
    return [(point.step, point.value) for point in points]


# A job of its own each time, in one store.
@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(sends=st.lists(st.tuples(st.integers(0, 11), st.integers(1, 6)), max_size=25))
def test_whatever_is_sent_again_or_out_of_turn_each_record_is_stored_once(
    database: Database, sends: list[tuple[int, int]]
) -> None:
    started = start_job(database)
    all_records = [step(number) for number in range(1, 13)]
    stored = 0
    for start, length in sends:
        batch = all_records[start : start + length]
        if start > stored:
            with pytest.raises(ConflictError) as caught:
                send(database, started.token, start + 1, *batch)
            assert caught.value.extensions == {"next_seq": stored + 1}
        else:
            stored = max(stored, start + len(batch))
            assert send(database, started.token, start + 1, *batch) == stored + 1
    assert losses(database, started.job.id) == [(number, float(number)) for number in range(1, stored + 1)]


def test_sources_are_counted_apart(database: Database) -> None:
    started = start_job(database)
    memory_record = {"kind": "memory", "time": NOW, "step": 1, "phase": "forward", "device_idle_bytes": None}
    memory_record |= {"device_peak_bytes": None, "host_idle_bytes": 100}
    for rank in (0, 1):
        record = memory_record | {"rank": rank, "host_peak_bytes": 110 + rank}
        assert send(database, started.token, 1, record, source=f"rank-{rank}") == 2
    with database.read_session() as session:
        rows = MemorySummaries().of_job(session, started.job.id)
        assert [(row["rank"], row["host_peak_bytes"], row["host_above_idle_bytes"]) for row in rows] == [
            (0, 110, 10),
            (1, 111, 11),
        ]
        assert jobs.get(session, started.job.id).host_peak_bytes == 111


def test_a_step_that_is_made_again_after_a_resume_takes_the_place_of_the_first(database: Database) -> None:
    started = start_job(database)
    send(database, started.token, 1, step(1), step(2), step(3))
    send(database, started.token, 4, step(2, 20.0), step(3, 30.0), step(4))
    assert losses(database, started.job.id) == [(1, 1.0), (2, 20.0), (3, 30.0), (4, 4.0)]
    with database.read_session() as session:
        (series,) = metrics.series(session, started.job.id)
        later = metrics.points(session, started.job.id, "loss", after_seq=3, limit=10)
    assert (series.points, series.last_step) == (4, 4)
    assert [point.step for point in later] == [2, 3, 4], "a poller who has seen 1 to 3 is told of the new values"


def test_nan_and_infinity_survive(database: Database) -> None:
    started = start_job(database)
    send(database, started.token, 1, step(1, "NaN"), step(2, "Infinity"), step(3, 5.0))
    first, *others = losses(database, started.job.id)
    assert first[0] == 1
    assert math.isnan(first[1])
    assert others == [(2, math.inf), (3, 5.0)]


def test_the_first_record_makes_a_job_running_and_the_outcome_ends_it(database: Database) -> None:
    started = start_job(database)
    send(database, started.token, 1, {"kind": "event", "time": NOW, "name": "training_started", "message": "go"})
    with database.read_session() as session:
        assert jobs.get(session, started.job.id).state == "running"
    digest = "0" * 64
    artifact = {"kind": "artifact", "time": NOW, "name": "weights.safetensors", "media_type": "x/y", "bytes": 3}
    outcome = {"kind": "outcome", "time": NOW, "state": "failed", "reason": "diverged", "message": "loss is NaN"}
    send(database, started.token, 1, artifact | {"sha256": digest}, outcome | {"data": {"step": 7}}, source="driver")
    with database.read_session() as session:
        job = jobs.get(session, started.job.id)
        assert (job.state, job.reason, job.message) == ("failed", "diverged", "loss is NaN")
        assert job.reason_data == {"advice": advice_for({}, ReasonCode.DIVERGED), "step": 7}
        assert job.started_at is not None
        assert job.finished_at is not None
        assert artifacts.get(session, job.id, "weights.safetensors").sha256 == digest
        names = [event.name for event in events.after(session, job.id, after_seq=0, limit=10)]
    assert names == ["queued", "starting", "running", "training_started", "failed"]


def test_a_token_of_a_replaced_attempt_is_refused(database: Database) -> None:
    first = start_job(database)
    with database.session() as session:
        job = jobs.lock(session, first.job.id)
        attempts.put_back(session, job, actor="d", message="")
        second = attempts.claim(session, job, actor="d", lease_seconds=60)
    assert second is not None
    with pytest.raises(UnauthorizedError, match="replaced by attempt 2"):
        send(database, first.token, 1, step(1))
    assert send(database, second.token, 1, step(1)) == 2
    with pytest.raises(UnauthorizedError, match="no attempt"):
        send(database, "made-up", 1, step(1))


def test_a_cancelled_run_hears_of_it_with_its_next_batch(database: Database) -> None:
    started = start_job(database)
    send(database, started.token, 1, step(1))
    with database.session() as session:
        requests.cancel(session, jobs.lock(session, started.job.id), actor="ada")
    batch = RecordBatch.model_validate({"source": "rank-0", "first_seq": 2, "records": [step(2)]})
    with database.session() as session:
        answer = ingest.store_batch(session, ingest.authenticate(session, started.token), batch, retry_seconds=5)
    assert answer.stop == StopReason.CANCEL


def test_downsampling_hides_no_spike_and_no_nan(database: Database) -> None:
    started = start_job(database)
    values: dict[int, Any] = dict.fromkeys(range(1, 1001), 1.0) | {437: 99.0, 700: -5.0, 701: "NaN", 702: "Infinity"}
    send(database, started.token, 1, *(step(number, value) for number, value in values.items()))
    buckets = Downsampler(database).buckets(started.job.id, "loss", count=10)
    assert len(buckets) == 10
    assert sum(bucket.points for bucket in buckets) == 1000
    assert buckets[0].first_step == 1
    assert buckets[-1].last_step == 1000
    assert max(b.maximum for b in buckets if b.maximum is not None) == 99.0
    assert min(b.minimum for b in buckets if b.minimum is not None) == -5.0
    assert sum(bucket.non_finite for bucket in buckets) == 2
    spiked = next(bucket for bucket in buckets if bucket.maximum == 99.0)
    assert spiked.mean == pytest.approx(1 + 98 / 100)


def test_every_batch_is_a_sign_of_life_and_closing_the_last_one(database: Database) -> None:
    started = start_job(database)

    def source() -> IngestSource:
        with database.read_session() as session:
            return session.get_one(IngestSource, (started.job.id, 1, "rank-0"))

    send(database, started.token, 1)
    first = source()
    assert first.seen_at is not None
    assert not first.closed
    with database.read_session() as session:
        assert jobs.get(session, started.job.id).state == "starting", "who says nothing does not train yet"
    send(database, started.token, 1, step(1), {"kind": "closed", "time": NOW})
    assert source().closed
    seen_at = source().seen_at
    assert seen_at is not None
    assert seen_at > first.seen_at


def test_checkpoints_are_registered_and_those_that_made_room_forgotten(database: Database) -> None:
    started = start_job(database)
    send(database, started.token, 1, checkpoint(10, validation_nll=1.5), checkpoint(20, validation_nll="NaN"))
    removed = ["step-000000010-attempt-1"]
    send(database, started.token, 3, checkpoint(30, removed=removed, cause="stopped"))
    with database.read_session() as session:
        kept = checkpoints.of_job(session, started.job.id)
    assert [(item.step, item.cause, item.validation_nll) for item in kept] == [
        (20, "steps", None),
        (30, "stopped", None),
    ]


def test_an_attempt_remembers_from_which_step_it_went_on(database: Database) -> None:
    started = start_job(database)
    event = {"kind": "event", "time": NOW, "name": "resumed", "message": "", "data": {"step": 40, "checkpoint": "c"}}
    send(database, started.token, 1, event)
    with database.read_session() as session:
        assert jobs.attempt(session, started.job.id, 1).resumed_from_step == 40


def test_what_comes_late_of_an_older_attempt_fills_gaps_and_replaces_nothing(database: Database) -> None:
    job_id = submit(database)
    send(database, claim(database, job_id).token, 1, step(1))
    lose(database, job_id)
    token = claim(database, job_id).token
    send(database, token, 1, step(2, 20.0), memory_record(2, 222))
    event = {"kind": "event", "time": NOW, "name": "slow", "message": "late"}
    outcome = {"kind": "outcome", "time": NOW, "state": "failed", "reason": "diverged"}
    artifact = {"kind": "artifact", "time": NOW, "name": "w", "media_type": "x/y", "bytes": 3, "sha256": "0" * 64}
    send(database, token, 3, artifact)
    late = [step(1), step(2), step(3), memory_record(2, 111), memory_record(3, 333), event, artifact, outcome]
    send_late(database, job_id, 1, *late)
    assert losses(database, job_id) == [(1, 1.0), (2, 20.0), (3, 3.0)]
    with database.read_session() as session:
        points = memory.points(session, job_id, rank=0, phase="forward", after_seq=0, limit=10)
        assert [(point.step, point.host_peak_bytes) for point in points] == [(2, 222), (3, 333)]
        (series,) = metrics.series(session, job_id)
        assert (series.points, series.last_step, series.last_value) == (3, 2, 20.0), "progress is the newer one's"
        assert [(e.name, e.attempt) for e in events.after(session, job_id, after_seq=0, limit=99)][-1] == ("slow", 1)
        assert artifacts.get(session, job_id, "w").attempt == 2
        assert jobs.get(session, job_id).state == "running"


def everything_stored(database: Database, job_id: str) -> dict[str, Any]:
    """What of a job a user can read, but its events."""
    with database.read_session() as session:
        job = jobs.get(session, job_id)
        return {
            "job": (job.state, job.result, job.reason, job.message, job.attempt),
            "losses": losses(database, job_id),
            "memory": [(p.step, p.host_peak_bytes) for p in points_of_memory(session, job_id)],
            "artifacts": [(a.name, a.bytes, a.sha256) for a in artifacts.of_job(session, job_id)],
            "checkpoints": [(c.name, c.bytes) for c in checkpoints.of_job(session, job_id)],
            "data": data.of_job(session, job_id) is None,
            "resumed": [attempt.resumed_from_step for attempt in jobs.attempts(session, job_id)],
        }


def points_of_memory(session: Session, job_id: str) -> Sequence[MemoryPoint]:
    return memory.points(session, job_id, rank=0, phase="forward", after_seq=0, limit=10)


ENDS: dict[str, Callable[[Database, str], None]] = {
    "succeeded": lambda database, job_id: lives.end(database, job_id, "succeeded"),
    "failed": lambda database, job_id: lives.end(database, job_id, "failed", reason="diverged"),
    "lost": lose,
}


@pytest.mark.parametrize("ending", ENDS)
def test_after_the_end_of_an_attempt_its_token_replaces_nothing_and_adds_what_its_spool_has(
    database: Database, ending: str
) -> None:
    started = start_job(database)
    artifact = {"kind": "artifact", "time": NOW, "name": "w", "media_type": "x/y", "bytes": 3, "sha256": "0" * 64}
    send(database, started.token, 1, step(1), memory_record(1, 111), artifact, checkpoint(1))
    ENDS[ending](database, started.job.id)
    before = everything_stored(database, started.job.id)
    changes = [step(1, -777), memory_record(1, 777), artifact | {"bytes": 4, "sha256": SUM}, artifact | {"name": "new"}]
    changes += [checkpoint(1, bytes=77), checkpoint(2, removed=["step-000000001-attempt-1"])]
    changes += [{"kind": "data", "time": NOW, "summary": SUMMARY}, {"kind": "resumed", "time": NOW, "step": 7}]
    changes[-1] |= {"checkpoint": "step-000000007-attempt-1"}
    changes += [{"kind": "event", "time": NOW, "name": "resumed", "message": "", "data": {"step": 7}}]
    changes += [{"kind": "outcome", "time": NOW, "state": "succeeded"}]
    changes += [{"kind": "plan", "time": NOW, "plan": lives.plan().model_dump(mode="json")}]
    assert {get_args(kind.model_fields["kind"].annotation)[0] for kind in get_args(AnyRecord)} == {
        change["kind"] for change in changes
    } | {"closed", "log"}, "which replace nothing by their nature"
    assert send(database, started.token, 5, *changes) == 5 + len(changes), "taken note of, and left out"
    assert everything_stored(database, started.job.id) == before
    end = [step(2), memory_record(2, 222), {"kind": "closed", "time": NOW}]
    send(database, started.token, 5 + len(changes), *end)
    after = everything_stored(database, started.job.id)
    assert (after["losses"], after["memory"]) == ([(1, 1.0), (2, 2.0)], [(1, 111), (2, 222)])


def test_some_minutes_after_its_end_a_token_is_good_for_nothing(database: Database) -> None:
    started = start_job(database)
    lives.end(database, started.job.id, "succeeded")
    send(database, started.token, 1, step(1))
    with database.session() as session:
        long_ago = datetime.now(UTC) - timedelta(seconds=ingest.LATE_SECONDS + 1)
        jobs.attempt(session, started.job.id, 1).finished_at = long_ago
    with pytest.raises(UnauthorizedError, match=r"attempt 1 of .* ended at"):
        send(database, started.token, 2, step(2))
    assert losses(database, started.job.id) == [(1, 1.0)]


def memory_record(step_number: int, peak: int) -> dict[str, Any]:
    record = {"kind": "memory", "time": NOW, "step": step_number, "rank": 0, "phase": "forward"}
    return (
        record
        | dict.fromkeys(("device_idle_bytes", "device_peak_bytes"), None)
        | {
            "host_idle_bytes": 0,
            "host_peak_bytes": peak,
        }
    )


SUM = "a" * 64
COLUMN = {"name": "x", "context": False, "dtype": "int16", "min": 0.0, "mean": 1.5, "max": "Infinity", "zeros": 0.25}
SOURCE = {"name": "x.npy", "format": "npy", "rows": 4, "dim": 1, "notes": ["gain 2 was applied"], "remarks": []}
SUMMARY = {
    "sources": [SOURCE | {"columns": [COLUMN | {"not_finite": 1, "remarks": ["1 not finite"]}]}],
    "image": None,
    "transforms": [{"kind": "standardise", "columns": None}],
}
PLAN = lives.plan().stored()
# A record of every kind, and what of it the API can read back.
EVERY_KIND: dict[type[AnyRecord], tuple[dict[str, Any], Callable[[Session, str], Any], Any]] = {
    StepRecord: (
        {"step": 3, "metrics": {"loss": 2.5}},
        lambda session, job: [p.value for p in metrics.points(session, job, "loss", after_seq=0, limit=9)],
        [2.5],
    ),
    MemoryRecord: (
        {"step": 3, "rank": 0, "phase": "forward", "host_idle_bytes": 1, "host_peak_bytes": 7}
        | {"device_idle_bytes": None, "device_peak_bytes": None},
        lambda session, job: jobs.get(session, job).host_peak_bytes,
        7,
    ),
    EventRecord: (
        {"name": "seen", "message": "A thing happened.", "data": {"at": 3}},
        lambda session, job: [e.data for e in events.after(session, job, after_seq=0, limit=99) if e.name == "seen"],
        [{"at": 3}],
    ),
    LogRecord: (
        {"stream": "stderr", "lines": ["Fatal Python error: Aborted"], "end": 28},
        lambda session, job: [(line.source, line.stream, line.text) for line in logs.lines(session, job, limit=9)],
        [("rank-0", "stderr", "Fatal Python error: Aborted")],
    ),
    DataRecord: (
        {"summary": SUMMARY},
        lambda session, job: [(row.attempt, row.summary) for row in [data.of_job(session, job)] if row is not None],
        [(1, SUMMARY)],
    ),
    PlanRecord: (
        {"plan": PLAN},
        lambda session, job: [(row.attempt, row.plan) for row in [plans.of_job(session, job)] if row is not None],
        [(1, PLAN)],
    ),
    ArtifactRecord: (
        {"name": "curve.png", "media_type": "image/png", "bytes": 5, "sha256": SUM},
        lambda session, job: [(a.name, a.bytes) for a in artifacts.of_job(session, job)],
        [("curve.png", 5)],
    ),
    CheckpointRecord: (
        {"name": "step-000000003-attempt-1", "step": 3, "bytes": 5, "sha256": SUM}
        | {"cause": "steps", "validation_nll": 1.5, "removed": []},
        lambda session, job: [(c.step, c.attempt, c.validation_nll) for c in checkpoints.of_job(session, job)],
        [(3, 1, 1.5)],
    ),
    ResumedRecord: (
        {"step": 3, "checkpoint": "step-000000003-attempt-1"},
        lambda session, job: (
            jobs.attempt(session, job, 1).resumed_from_step,
            [e.data["step"] for e in events.after(session, job, after_seq=0, limit=99) if e.name == "resumed"],
        ),
        (3, [3]),
    ),
    OutcomeRecord: (
        {"state": "succeeded", "result": {"test_nll": 1.25, "steps": 3}},
        lambda session, job: (jobs.get(session, job).state, jobs.get(session, job).result),
        ("succeeded", {"test_nll": 1.25, "steps": 3}),
    ),
    ClosedRecord: (
        {},
        lambda session, job: [s.closed for s in sources.of_attempts(session, [(job, 1)])],
        [True],
    ),
}


@pytest.mark.parametrize("kind", get_args(AnyRecord), ids=lambda kind: kind.__name__)
def test_every_kind_of_record_has_its_place_in_the_store(database: Database, kind: type[AnyRecord]) -> None:
    started = start_job(database)
    fields, read, expected = EVERY_KIND[kind]
    name = get_args(kind.model_fields["kind"].annotation)[0]
    assert send(database, started.token, 1, {"kind": name, "time": NOW, **fields}) == 2
    with database.read_session() as session:
        assert read(session, started.job.id) == expected


def test_what_runs_of_the_first_versions_send_is_understood(database: Database) -> None:
    started = start_job(database)
    resumed = {"kind": "event", "time": NOW, "name": "resumed", "message": "", "data": {"step": 40, "checkpoint": "c"}}
    send(database, started.token, 1, resumed, {"kind": "farewell", "time": NOW})
    with database.read_session() as session:
        assert jobs.attempt(session, started.job.id, 1).resumed_from_step == 40
        (source,) = sources.of_attempts(session, [(started.job.id, 1)])
        assert source.closed


def test_what_a_later_attempt_has_read_is_not_replaced_by_what_an_earlier_one_left_behind(database: Database) -> None:
    started = start_job(database)
    lose(database, started.job.id)
    second = claim(database, started.job.id)

    def read(rows: int) -> dict[str, Any]:
        return {"kind": "data", "time": NOW, "summary": SUMMARY | {"sources": [SOURCE | {"rows": rows, "columns": []}]}}

    def stored() -> tuple[int, int]:
        with database.read_session() as session:
            row = data.of_job(session, started.job.id)
            assert row is not None
            return row.attempt, row.summary["sources"][0]["rows"]

    send(database, second.token, 1, read(20), source="driver")
    send_late(database, started.job.id, 1, read(10), source="driver")
    assert stored() == (2, 20)
    send(database, second.token, 2, read(30), source="driver")
    assert stored() == (2, 30)


def test_names_of_columns_that_no_database_takes_are_stored_readably(database: Database) -> None:
    started = start_job(database)
    summary = SUMMARY | {"sources": [SOURCE | {"columns": [COLUMN | {"name": "a\0b"}], "notes": ["half \ud800"]}]}
    record = DataRecord.model_validate({"summary": summary}).model_dump_json()
    send(database, started.token, 1, json.loads(record), source="driver")
    with database.read_session() as session:
        row = data.of_job(session, started.job.id)
        assert row is not None
        assert row.summary["sources"][0]["columns"][0]["name"] == "a\N{REPLACEMENT CHARACTER}b"
