"""Telemetry in blocks: what is stored comes back, whatever it was, and goes when its job goes."""

from __future__ import annotations

import math
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import sqlalchemy as sa
from alembic import command
from hypothesis import example, given
from hypothesis import settings as examples
from hypothesis import strategies as st

from symadj.service.dispatcher import Dispatcher
from symadj.service.dispatcher.tidying import RARE_SECONDS
from symadj.service.lifecycle import requests
from symadj.service.settings import Settings
from symadj.service.store import Database, blocks, jobs, memory, memory_summaries, metrics
from symadj.service.store.columns import as_datetime, as_microseconds, pack, unpack, unpack_rows
from symadj.service.store.database import rows_as_they_come
from symadj.service.store.downsampling import Downsampler
from symadj.service.store.memory_summaries import MemorySummaries
from symadj.service.store.migrations.upgrade import alembic_config
from symadj.service.store.step_range import EVERY_STEP, StepRange
from symadj.service.store.tables import DeletedJob, TelemetryBlock
from tests.service.conftest import Clock
from tests.service.lives import TIME, claim, end, lose, running, send, send_late, step, submit
from tests.service.test_store import store_as_before, stored_job

WHOLE = st.integers(-(2**63), 2**63 - 1)
FIGURES = ("host_idle_bytes", "host_peak_bytes", "device_idle_bytes", "device_peak_bytes")


@examples(max_examples=200, deadline=None)
@given(st.one_of(st.lists(WHOLE), st.builds(range, WHOLE, WHOLE, st.integers(2**55, 2**62))))
@example([5, 5 + 2**31 - 1, 5 - 2**31])
@example([5, 5 + 2**31, 5])
@example([5, 4 - 2**31, 5])
def test_whole_numbers_of_any_size_and_order_come_back(numbers: Iterable[int]) -> None:
    column = np.array([*numbers], np.int64)
    assert unpack(pack(column)).tolist() == column.tolist()


@examples(max_examples=50, deadline=None)
@given(st.lists(st.floats(width=64)))
def test_floats_come_back_to_the_last_bit(numbers: list[float]) -> None:
    column = np.array(numbers, np.float64)
    assert unpack(pack(column)).tobytes() == column.tobytes()
    assert unpack_rows(pack(np.stack([column, -column]))).tobytes() == np.stack([column, -column]).tobytes()


def test_steps_take_no_room_and_times_four_bytes() -> None:
    steps = np.arange(10**9, 10**9 + 1000)
    times = as_microseconds(datetime.now(UTC)) + steps * 8333 % 1_000_003
    assert len(pack(steps)) < 30
    assert len(pack(times)) < 4030


@given(st.datetimes(timezones=st.just(UTC)))
def test_times_come_back_to_the_microsecond(time: datetime) -> None:
    assert as_datetime(as_microseconds(time)) == time


def test_a_column_of_an_unknown_form_is_refused_by_its_name() -> None:
    with pytest.raises(ValueError, match=r"the form b'z': it is of a later version, or damaged"):
        unpack(b"z" + pack(np.arange(3))[1:])


def memory_record(step_number: int, rank: int, phase: str, figures: list[int | None]) -> dict[str, Any]:
    time = (datetime.fromisoformat(TIME) + timedelta(seconds=step_number)).isoformat()
    record = {"kind": "memory", "time": time, "step": step_number, "rank": rank, "phase": phase}
    return record | dict(zip(FIGURES, figures, strict=True))


def highest(values: Iterable[int | None]) -> int | None:
    return max((value for value in values if value is not None), default=None)


def summarised(stored: dict[tuple[int, str, int], tuple[int, list[Any]]], steps: StepRange) -> list[Any]:
    """Return what the summary must be, record by record."""
    firsts = {
        min(number for (_, _, number), (attempt, _) in stored.items() if attempt == made) for made, _ in stored.values()
    }
    found = []
    for rank in (0, 1, 10):
        for phase in ("forward", "backward", "optimizer"):
            mine = {n: figures for (r, p, n), (_, figures) in stored.items() if (r, p) == (rank, phase)}
            mine = {n: f for n, f in mine.items() if (steps.first or 0) <= n <= (steps.last or 2**63)}
            if not mine:
                continue
            row: dict[str, Any] = {"rank": rank, "phase": phase, "steps": len(mine)}
            row |= {"first_step": min(mine), "last_step": max(mine)}
            for at, where in ((0, "host"), (2, "device")):
                above = {n: f[at + 1] - f[at] for n, f in mine.items() if None not in (f[at], f[at + 1])}
                row[f"{where}_peak_bytes"] = highest(f[at + 1] for f in mine.values())
                row[f"{where}_idle_bytes"] = min((f[at] for f in mine.values() if f[at] is not None), default=None)
                warm = [value for n, value in above.items() if n not in firsts]
                row[f"{where}_above_idle_bytes"] = highest(warm or above.values())
            found.append(row)
    return found


def test_memory_is_summed_up_and_listed_as_it_is_stored_through_resumes_and_late_records(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(blocks, "MOST_RECORDS", 5)
    monkeypatch.setattr(blocks, "_SOME", 3)
    monkeypatch.setattr(memory_summaries, "_TOGETHER", 2)
    random = np.random.default_rng(0)
    job_id = submit(database)
    token = claim(database, job_id).token
    stored: dict[tuple[int, str, int], tuple[int, list[Any]]] = {}
    attempt, sent, newest = 1, 0, 1
    known, forgetful = MemorySummaries(), MemorySummaries(kept_blocks=0)
    for turn in range(14):
        if turn in (5, 9):
            lose(database, job_id)
            with database.session() as session:
                jobs.lock(session, job_id).not_before = None
            token, attempt, sent = claim(database, job_id).token, attempt + 1, 0
            newest = int(random.integers(1, newest))
        places = {
            (int(random.choice([0, 1, 10])), str(random.choice(["forward", "backward", "optimizer"])), newest + ahead)
            for ahead in range(int(random.integers(1, 9)))
        }
        records = {}
        for place in sorted(places):
            figures: list[Any] = [int(value) for value in random.integers(0, 2**50, 4)]
            if random.random() < 0.4:
                figures[2:] = [None, None]
            records[place] = figures
        newest += 8
        batch = [memory_record(number, rank, phase, f) for (rank, phase, number), f in records.items()]
        if turn == 12:  # what an older attempt left fills gaps alone
            send_late(database, job_id, 1, *batch, source="rank-1")
            stored = {place: (1, f) for place, f in records.items() if stored.get(place, (0,))[0] <= 1} | {
                place: found for place, found in stored.items() if place not in records or found[0] > 1
            }
        else:
            sent = send(database, token, sent + 1, *batch).next_seq - 1
            stored |= {place: (attempt, f) for place, f in records.items()}
        for steps in (EVERY_STEP, StepRange(*sorted(random.integers(1, newest, 2).tolist()))):
            with database.read_session() as session:
                for summaries in (known, forgetful):
                    assert [dict(row) for row in summaries.of_job(session, job_id, steps)] == summarised(stored, steps)
    assert attempt == 3
    with database.read_session() as session:
        every = memory.points(session, job_id, rank=None, phase=None, after_seq=0, limit=10_000)
        page = memory.points(session, job_id, rank=10, phase="backward", after_seq=every[20].seq, limit=4)
    read = {(p.rank, p.phase, p.step): (p.attempt, [getattr(p, name) for name in FIGURES]) for p in every}
    assert (len(every), read) == (len(stored), stored)
    assert [p.seq for p in every] == sorted({p.seq for p in every})
    assert all(p.time == datetime.fromisoformat(TIME) + timedelta(seconds=p.step) for p in every)
    assert page == [p for p in every[21:] if (p.rank, p.phase) == (10, "backward")][:4]


@pytest.mark.parametrize("backend", ["postgresql"], indirect=True)
def test_a_database_that_dies_while_a_series_is_read_is_told_as_one_that_does_not_answer(database: Database) -> None:
    query = sa.select(sa.func.pg_backend_pid(), sa.func.repeat("x", 100_000)).select_from(
        sa.func.generate_series(1, 1000).alias()
    )

    def read() -> None:
        with database.read_session() as session:
            for process, _ in rows_as_they_come(session, query):
                with database.session() as other:
                    other.execute(sa.select(sa.func.pg_terminate_backend(process)))

    with pytest.raises(sa.exc.OperationalError):
        read()
    database.check_takes_writes()


def test_telemetry_of_earlier_versions_is_moved_into_blocks(new_database_url: str) -> None:
    store = Database(new_database_url)
    with store.engine.begin() as connection:
        command.upgrade(alembic_config(connection), "0010")
        old = sa.MetaData()
        old.reflect(connection, only=["jobs", "metric_points", "metric_series", "memory_points"])
    with store.session() as session:
        store_as_before(session, stored_job("job-1"))
        session.flush()
        session.execute(sa.update(old.tables["jobs"]).values(metric_seq=3001, memory_seq=2))
        # As a replaced step leaves them: the numbers have a hole, and the steps are not in their order.
        values = {1: math.nan, 2: math.inf} | {number: number / 3 for number in range(3, 2900)}
        rows: list[dict[str, Any]] = [
            {"job_id": "job-1", "name": "loss", "seq": number + 100 * (number > 1500), "step": 3000 - number}
            | {
                "attempt": 1 + (number > 1500),
                "time": datetime(2026, 1, 1, tzinfo=UTC) + timedelta(microseconds=number),
            }
            | {"value": None if math.isnan(value) else value}
            for number, value in values.items()
        ]
        if store.is_sqlite:
            rows = [row | {"time": row["time"].replace(tzinfo=None)} for row in rows]
        session.execute(sa.insert(old.tables["metric_points"]), rows)
        series = {
            "job_id": "job-1",
            "name": "loss",
            "points": 2899,
            "last_seq": 2999,
            "last_step": 101,
            "last_value": 9,
        }
        session.execute(sa.insert(old.tables["metric_series"]), series)
        record = {"job_id": "job-1", "step": 7, "rank": 0, "time": rows[0]["time"], "attempt": 1}
        record |= {"host_idle_bytes": 2**40, "host_peak_bytes": 2**41}
        record |= {"device_idle_bytes": None, "device_peak_bytes": None}
        peaks = [record | {"seq": 1, "phase": "forward"}, record | {"seq": 2, "phase": "backward"}]
        session.execute(sa.insert(old.tables["memory_points"]), peaks)
    store.migrate()
    with store.read_session() as session:
        points = metrics.points(session, "job-1", "loss", after_seq=0, limit=10_000)
        assert repr([(p.seq, p.step, p.value) for p in points]) == repr(
            [(row["seq"], row["step"], values[3000 - row["step"]]) for row in rows]
        )
        assert points[-1].time == datetime(2026, 1, 1, microsecond=2899, tzinfo=UTC)
        both = memory.points(session, "job-1", rank=None, phase=None, after_seq=0, limit=9)
        assert [(p.seq, p.phase, p.host_peak_bytes, p.device_peak_bytes) for p in both] == [
            (1, "forward", 2**41, None),
            (2, "backward", 2**41, None),
        ]
        assert not {"metric_points", "memory_points"} & set(sa.inspect(store.engine).get_table_names())
    assert Downsampler(store).buckets("job-1", "loss", count=1)[0].points == 2899
    store.close()


def blocks_left(database: Database) -> int:
    with database.read_session() as session:
        return session.scalars(sa.select(sa.func.count()).select_from(TelemetryBlock)).one()


def many_blocks(database: Database, monkeypatch: pytest.MonkeyPatch) -> str:
    """Return an ended job whose telemetry can't be deleted in one piece."""
    monkeypatch.setattr(blocks, "MOST_RECORDS", 2)
    monkeypatch.setattr(blocks, "_DELETED", 3)
    job_id = running(database)
    peaks = memory_record(1, 0, "forward", [1, 2, None, None])
    send_late(database, job_id, 1, *(step(number) for number in range(1, 31)), peaks)
    end(database, job_id, "succeeded")
    assert blocks_left(database) == 16
    return job_id


def test_a_deletion_lets_others_write_between_its_pieces(
    database: Database, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    job_id = many_blocks(database, monkeypatch)
    with database.session() as session:
        requests.delete(session, jobs.lock(session, job_id), storage=settings.resolved_storage())
    left = []
    more = True
    while more:
        with database.session() as session:
            more = blocks.delete_some(session)
        left.append(blocks_left(database))
        submit(database)  # which waits for no lock
    assert left[-1] == 0
    assert {before - after for before, after in pairwise([16, *left])} <= {0, 1, 3}


def test_the_dispatcher_finishes_a_deletion_that_was_cut_off(
    database: Database, settings: Settings, dispatcher: Dispatcher, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    job_id = many_blocks(database, monkeypatch)
    other = running(database)
    send_late(database, other, 1, step(1))
    with database.session() as session:
        requests.delete(session, jobs.lock(session, job_id), storage=settings.resolved_storage())
    with database.session() as session:
        blocks.delete_some(session)
    clock.now += RARE_SECONDS
    dispatcher.round()
    with database.read_session() as session:
        assert session.scalars(sa.select(DeletedJob)).all() == []
        assert [point.step for point in metrics.points(session, other, "loss", after_seq=0, limit=9)] == [1]
    assert blocks_left(database) == 1


def test_a_summary_of_memory_reads_no_block_again_that_has_not_changed(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[int] = []
    some = blocks.some

    def noting(*arguments: Any) -> Any:
        read.append(0)
        for columns in some(*arguments):
            read[-1] += 1
            yield columns

    monkeypatch.setattr(blocks, "MOST_RECORDS", 5)
    monkeypatch.setattr(blocks, "some", noting)
    job_id = submit(database)
    token = claim(database, job_id).token
    summaries = MemorySummaries()
    for last in (50, 54):
        numbers = range(1 if last == 50 else 51, last + 1)
        send(database, token, numbers[0], *(memory_record(n, 0, "forward", [1, 1000 - n, None, None]) for n in numbers))
        with database.read_session() as session:
            (row,) = summaries.of_job(session, job_id)
        assert (row["steps"], row["host_peak_bytes"], row["host_above_idle_bytes"]) == (last, 999, 997)
    # All of the first ten, then the new one; each time the one with the attempt's first step, too.
    assert [count for count in read if count] == [10, 1, 1, 1]
