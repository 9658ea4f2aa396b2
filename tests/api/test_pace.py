"""How many answers of a kind are given a second: the clock of the test is the test itself."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest
from fastapi import FastAPI

from symadj.api.app import create_app
from symadj.api.bulkheads import CostlyReads
from symadj.api.long_polls import ANSWERS_PER_SECOND, LongPolls
from symadj.service.settings import Settings
from symadj.service.store import Database
from tests.service.lives import claim, send, step, submit

pytestmark = pytest.mark.parametrize("backend", ["sqlite"], indirect=True)


@pytest.fixture
def app(database: Database, tmp_path: Path) -> FastAPI:
    """The API on the test's own database, in this process."""
    return create_app(Settings(data=tmp_path, store_url=str(database.engine.url)))


def client(app: FastAPI) -> httpx.AsyncClient:
    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://localhost", timeout=60)


class Pauses:
    """Pauses that last until they are ended; ``asked``: how many seconds each should have lasted."""

    def __init__(self) -> None:
        self.asked: list[float] = []
        self._ends = asyncio.Semaphore(0)

    async def __call__(self, seconds: float) -> None:
        self.asked.append(seconds)
        await self._ends.acquire()

    def end_one(self) -> None:
        self._ends.release()


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not condition():
            await asyncio.sleep(0)


def test_the_more_wait_for_values_the_longer_these_are_gathered_for_all_of_them(
    database: Database, app: FastAPI
) -> None:
    job_id = submit(database)
    token = claim(database, job_id).token
    path = f"/api/v1/jobs/{job_id}/metrics/loss?wait=30"

    async def wait_together() -> list[list[int]]:
        pauses = Pauses()
        polls = app.state.long_polls = LongPolls(pause=pauses)
        async with client(app) as api:
            waiting = [asyncio.create_task(api.get(path))]
            await until(lambda: pauses.asked == [0.25])
            waiting += [asyncio.create_task(api.get(path)) for _ in range(49)]
            await until(lambda: polls.waiting == 50)
            pauses.end_one()
            await until(lambda: pauses.asked == [0.25, 50 / ANSWERS_PER_SECOND])  # a look that has found nothing
            send(database, token, 1, step(1))
            waiting += [asyncio.create_task(api.get(path)) for _ in range(10)]
            await until(lambda: polls.waiting == 60)
            send(database, token, 2, step(2))
            pauses.end_one()
            answers = [(await task).json() for task in waiting]
        assert pauses.asked == [0.25, 50 / ANSWERS_PER_SECOND]
        return [[point["step"] for point in answer["points"]] for answer in answers]

    assert asyncio.run(wait_together()) == [[1, 2]] * 60


def test_those_whose_turn_to_be_answered_has_not_come_still_count(database: Database, app: FastAPI) -> None:
    job_id = submit(database)
    send(database, claim(database, job_id).token, 1, step(1))
    path = f"/api/v1/jobs/{job_id}/metrics/loss?wait=30"

    async def ask_again() -> list[float]:
        pauses = Pauses()
        polls = app.state.long_polls = LongPolls(per_second=0.01, pause=pauses)
        async with client(app) as api:
            waiting = [asyncio.create_task(api.get(path)) for _ in range(5)]
            await until(lambda: polls.waiting == 5 and len(pauses.asked) == 1)
            pauses.end_one()
            await until(lambda: any(task.done() for task in waiting))
            waiting.append(asyncio.create_task(api.get(f"{path}&after_seq=1")))
            await until(lambda: len(pauses.asked) == 2)
            for task in waiting:
                task.cancel()
        return pauses.asked[1:]

    assert asyncio.run(ask_again()) == [5 / 0.01]


def test_a_full_page_waits_for_nobody_and_nobody_longer_than_was_asked_for(database: Database, app: FastAPI) -> None:
    job_id = submit(database)
    send(database, claim(database, job_id).token, 1, step(1), step(2), step(3))
    path = f"/api/v1/jobs/{job_id}/metrics/loss"

    async def read() -> list[list[int]]:
        app.state.long_polls = LongPolls(pause=Pauses())  # whose looks never come
        async with client(app) as api, asyncio.timeout(20):
            answers = [await api.get(path, params={"limit": 2, "wait": 30}), await api.get(path, params={"wait": 0.1})]
        return [[point["step"] for point in answer.json()["points"]] for answer in answers]

    assert asyncio.run(read()) == [[1, 2], [1, 2, 3]]


def test_costly_answers_are_given_at_a_pace_and_what_a_client_has_already_is_not_one(
    database: Database, app: FastAPI
) -> None:
    job_id = submit(database)
    send(database, claim(database, job_id).token, 1, step(1), step(2), step(3))
    path = f"/api/v1/jobs/{job_id}/metrics/loss?points=3"

    async def read() -> list[httpx.Response]:
        app.state.costly_reads = CostlyReads(per_second=1e-3)
        async with client(app) as api:
            first = await api.get(path)
            known = {"If-None-Match": first.headers["etag"]}
            second, third = await api.get(path), await api.get(path)
            return [first, second, third, await api.get(path, headers=known), await api.get(path[:-9])]

    answers = asyncio.run(read())
    assert [answer.status_code for answer in answers] == [200, 200, 503, 304, 200]
    third = answers[2]
    assert int(third.headers["retry-after"]) > 0
    assert "a second" in third.json()["detail"]
