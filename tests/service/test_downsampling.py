"""Whole series, downsampled while they grow and are replaced: always what numpy makes of the values stored now."""

from __future__ import annotations

import math

import numpy as np
import pytest

from symadj.service.lifecycle import attempts
from symadj.service.store import Database, blocks, downsampling, jobs, metrics
from symadj.service.store.downsampling import Downsampled, Downsampler
from symadj.service.store.export import metric_rows
from symadj.service.store.step_range import StepRange
from tests.service.lives import claim, end, send, send_late, step, submit

KINDS = (math.nan, math.inf, -math.inf, 0.0, 1.7e308, 5e-324)


def expected(values: dict[int, float], count: int) -> list[Downsampled]:
    """Return what the buckets must be, by numpy's plain functions."""
    found = []
    if not values:
        return found
    for part in np.array_split(np.array(sorted(values)), min(count, len(values))):
        numbers = np.array([values[number] for number in part])
        finite = numbers[np.isfinite(numbers)]
        some = len(finite) > 0
        found.append(
            Downsampled(
                first_step=int(part[0]),
                last_step=int(part[-1]),
                points=len(part),
                minimum=float(finite.min()) if some else None,
                maximum=float(finite.max()) if some else None,
                mean=float(np.mean(finite.astype(np.longdouble))) if some else None,
                last=float(numbers[-1]),
                non_finite=len(part) - len(finite),
            )
        )
    return found


def within(values: dict[int, float], steps: StepRange) -> dict[int, float]:
    first, last = steps.first or 0, math.inf if steps.last is None else steps.last
    return {number: value for number, value in values.items() if first <= number <= last}


def assert_same(drawn: list[Downsampled], wanted: list[Downsampled]) -> None:
    def exact(buckets: list[Downsampled]) -> list[str]:
        return [repr({**vars(bucket), "mean": None}) for bucket in buckets]  # by repr, NaN is NaN

    assert exact(drawn) == exact(wanted)
    for bucket, right in zip(drawn, wanted, strict=True):
        if right.mean is None or right.minimum is None or right.maximum is None:
            assert bucket.mean is None
        else:
            largest = max(abs(right.minimum), abs(right.maximum))
            assert bucket.mean == pytest.approx(right.mean, rel=1e-12, abs=1e-14 * largest)


def newest_seq(database: Database, job_id: str) -> int:
    with database.read_session() as session:
        known = metrics.one_series(session, job_id, "loss")
    return 0 if known is None else known.last_seq


def assert_pages(database: Database, job_id: str, values: dict[int, float], seen: int, limit: int) -> None:
    """Read all in pages; see that a poller who had read up to the number ``seen`` is told of what has come since."""
    with database.read_session() as session:
        found = metrics.points(session, job_id, "loss", after_seq=0, limit=limit)
        while page := metrics.points(session, job_id, "loss", after_seq=found[-1].seq, limit=limit):
            assert len(page) <= limit
            found += page
        newer = metrics.points(session, job_id, "loss", after_seq=seen, limit=10_000)
        newest = metrics.newest(session, job_id, "loss", limit=limit)
    assert [point.seq for point in found] == sorted({point.seq for point in found})
    assert repr({point.step: point.value for point in sorted(found, key=lambda p: p.step)}) == repr(
        dict(sorted(values.items()))
    )
    assert repr(newer) == repr([point for point in found if point.seq > seen])
    assert repr(newest) == repr([point.value for point in found[: -limit - 1 : -1]])


def random_batch(random: np.random.Generator, first: int, *, wild: bool) -> dict[int, float]:
    steps = first + np.flatnonzero(random.random(random.integers(1, 40)) < 0.8)
    values = random.normal(size=len(steps)) * 10.0 ** random.integers(-5, 5)
    odd = random.random(len(steps)) < (0.3 if wild else 0.0)
    return {
        int(n): float(random.choice(KINDS) if is_odd else v) for n, v, is_odd in zip(steps, values, odd, strict=True)
    }


@pytest.mark.parametrize("seed", [0, 1])
def test_a_series_is_read_as_it_is_stored_through_resumes_and_late_records(
    database: Database, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(blocks, "MOST_RECORDS", 7)  # so that there are many blocks, and some of them left with holes
    monkeypatch.setattr("symadj.service.store.export._BLOCKS", 3)
    random = np.random.default_rng(seed)
    downsampler = Downsampler(database)
    job_id = submit(database)
    token = claim(database, job_id).token
    attempt, sent, newest, last_seq = 1, 0, 0, 0
    stored: dict[int, tuple[int, float]] = {}
    late_attempts: list[int] = []
    assert downsampler.buckets(job_id, "loss", count=5) == []
    for _ in range(16):
        chance = random.random()
        if chance < 0.3 and sent:  # the attempt is lost, and the next one resumes at an earlier step
            with database.session() as session:
                attempts.put_back(session, jobs.lock(session, job_id), actor="d", message="")
            late_attempts.append(attempt)
            token = claim(database, job_id).token
            attempt, sent, newest = attempt + 1, 0, int(random.integers(0, newest + 1))
        if chance > 0.7 and late_attempts:  # what the spool of an older one held fills gaps alone
            late = late_attempts.pop()
            batch = random_batch(random, int(random.integers(1, newest + 2)), wild=seed > 0)
            send_late(database, job_id, late, *(step(n, str(v)) for n, v in batch.items()), source="rank-1")
            batch = {n: v for n, v in batch.items() if n not in stored or stored[n][0] <= late}
            stored |= {n: (late, v) for n, v in batch.items()}
        else:
            batch = random_batch(random, newest + 1, wild=seed > 0)
            if not batch:
                continue
            sent = send(database, token, sent + 1, *(step(n, str(v)) for n, v in batch.items())).next_seq - 1
            stored |= {n: (attempt, v) for n, v in batch.items()}
            newest = max(newest, *batch)
        values = {number: value for number, (_, value) in stored.items()}
        for count in (1, 7, int(random.integers(1, 2 * len(values) + 1))):
            assert_same(downsampler.buckets(job_id, "loss", count=count), expected(values, count))
        rows = list(metric_rows(database, job_id, ["loss"]))
        assert repr(rows) == repr([[number, values[number]] for number in sorted(values)])
        assert_pages(database, job_id, values, last_seq, int(random.integers(1, 50)))
        last_seq = newest_seq(database, job_id)
        steps = StepRange(*sorted(random.integers(0, newest + 2, 2).tolist()))
        assert_same(downsampler.buckets(job_id, "loss", count=7, steps=steps), expected(within(values, steps), 7))
    assert attempt > 2
    end(database, job_id, "cancelled")
    send(database, token, sent + 1, *(step(n, 0.5) for n in range(1, newest + 10)))
    values = dict.fromkeys(range(1, newest + 10), 0.5) | values
    assert_same(downsampler.buckets(job_id, "loss", count=10), expected(values, 10))
    assert_same(Downsampler(database).buckets(job_id, "loss", count=10), expected(values, 10))


def test_a_series_too_long_for_memory_is_drawn_alike(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    job_id = submit(database)
    values = {1: 3.0, 2: math.nan, 3: -1.0, 5: math.inf, 6: math.nan, 7: 2.5, 9: 4.0, 10: 1.7e308, 11: 1.7e308}
    send(database, claim(database, job_id).token, 1, *(step(n, str(v)) for n, v in values.items()))
    monkeypatch.setattr(downsampling, "MOST_POINTS", 6)
    for count in (1, 3, 4, 7, 100):
        assert_same(Downsampler(database).buckets(job_id, "loss", count=count), expected(values, count))
    for steps in (StepRange(3, 9), StepRange(4, None), StepRange(None, 4), StepRange(4, 4), StepRange(12, None)):
        for most in (6, 100):
            monkeypatch.setattr(downsampling, "MOST_POINTS", most)
            drawn = Downsampler(database).buckets(job_id, "loss", count=3, steps=steps)
            assert_same(drawn, expected(within(values, steps), 3))


def test_series_leave_the_memory_when_others_need_it_and_are_read_again(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    job_id = submit(database)
    names = [f"metric_{number}" for number in range(5)]
    record = step(1) | {"metrics": dict.fromkeys(names, 1.5)}
    send(database, claim(database, job_id).token, 1, record)
    monkeypatch.setattr(downsampling, "KEPT_BYTES", 2500)
    downsampler = Downsampler(database)
    for name in names * 2:
        assert [bucket.mean for bucket in downsampler.buckets(job_id, name, count=3)] == [1.5]
        assert 0 < downsampler.bytes <= 2500
