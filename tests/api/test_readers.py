"""Many readers at once: they wait for each other, and the runs for none of them."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, contextmanager
from typing import Any

import httpx
import pytest
import sqlalchemy as sa

from symadj.service.store import Database
from tests.api.conftest import NOW
from tests.api.test_jobs import assert_problem
from tests.conftest import ApiServer, new_postgresql_database, running_api
from tests.service.lives import claim, send, step, submit

# More than the API has threads for all requests but ingest's, and many more than it has connections.
READERS = 60


def until(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, f"in vain: {what}"
        time.sleep(0.02)


@pytest.fixture(scope="module")
def database(postgresql: sa.URL) -> Iterator[Database]:
    """A store on PostgreSQL, where queries of a table can be made to wait."""
    with (
        new_postgresql_database(postgresql) as url,
        closing(Database(url.render_as_string(hide_password=False))) as store,
    ):
        store.migrate()
        yield store


@pytest.fixture(scope="module")
def server(database: Database, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApiServer]:
    """An API on it. Each test's readers are answered before the next one begins."""
    url = database.engine.url.render_as_string(hide_password=False)
    with running_api(tmp_path_factory.mktemp("readers"), SYMADJ_STORE_URL=url) as running:
        yield running


@pytest.fixture
def threads() -> Iterator[ThreadPoolExecutor]:
    """One for each client."""
    with ThreadPoolExecutor(READERS) as pool:
        yield pool


@contextmanager
def locked(database: Database, table: str) -> Iterator[Callable[[], int]]:
    """Let every query of a table wait; yield what tells how many do."""
    with database.engine.connect() as holder, database.engine.connect() as observer:
        holder.execute(sa.text(f"LOCK TABLE {table} IN ACCESS EXCLUSIVE MODE"))
        observer = observer.execution_options(isolation_level="AUTOCOMMIT")
        count = sa.text(
            "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
        )
        yield lambda: int(observer.execute(count).scalar_one())
        holder.rollback()


def get(server: ApiServer, path: str, **parameters: Any) -> httpx.Response:
    return httpx.get(f"{server.url}{path}", params=parameters or None, timeout=60)


def test_readers_who_take_all_threads_and_connections_hold_up_no_run_and_are_told_to_come_again(
    database: Database, server: ApiServer, threads: ThreadPoolExecutor
) -> None:
    job_id = submit(database)
    token = claim(database, job_id).token
    with locked(database, "job_labels") as waiting:
        readers = [threads.submit(get, server, "/api/v1/jobs", label="a=b") for _ in range(READERS)]
        until(lambda: waiting() >= 15, "the readers take all connections")
        batch = {"source": "rank-0", "first_seq": 1, "records": [step(1)]}
        with httpx.Client(base_url=server.url, timeout=20, headers={"Authorization": f"Bearer {token}"}) as run:
            assert run.post("/api/v1/ingest/batches", json=batch).json()["next_seq"] == 2
            assert [run.get(path).status_code for path in ("/healthz", "/ingestz")] == [200, 200]
        until(lambda: any(reader.done() for reader in readers), "one that found no connection is answered")
    answers = [reader.result() for reader in readers]
    assert {answer.status_code for answer in answers} == {200, 503}
    for answer in answers:
        if answer.status_code == 503:
            assert "connections" in assert_problem(answer, 503)["detail"]
            assert int(answer.headers["retry-after"]) > 0


def test_few_series_are_downsampled_at_once_each_for_all_who_ask_and_kept(
    database: Database, server: ApiServer, threads: ThreadPoolExecutor
) -> None:
    job_id = submit(database)
    records = [step(number) | {"metrics": dict.fromkeys(("loss", "nfe"), number)} for number in range(1, 101)]
    send(database, claim(database, job_id).token, 1, *records)
    queued = submit(database)
    path = f"/api/v1/jobs/{job_id}/metrics/loss"

    def ask(points: int, name: str = "loss") -> Future[httpx.Response]:
        return threads.submit(get, server, f"/api/v1/jobs/{job_id}/metrics/{name}", points=points)

    with locked(database, "telemetry_blocks") as waiting:
        first = [ask(10) for _ in range(4)]
        until(lambda: waiting() == 1, "one query for four readers")
        second = [ask(20, "nfe") for _ in range(4)]
        until(lambda: waiting() == 2, "one more for another series")
        refused = ask(30).result()
        assert assert_problem(refused, 503)["type"].endswith(":busy")
        assert int(refused.headers["retry-after"]) > 0
        # The time that is left of a running job is reckoned from its newest values, in this very table.
        assert get(server, f"/api/v1/jobs/{queued}").status_code == 200
        assert waiting() == 2
    assert {len(answer.result().json()["buckets"]) for answer in first} == {10}
    assert {len(answer.result().json()["buckets"]) for answer in second} == {20}
    with locked(database, "telemetry_blocks"):
        again = ask(10).result()
        assert again.json() == first[0].result().json()
        etag = {"If-None-Match": again.headers["etag"]}
        assert httpx.get(f"{server.url}{path}", params={"points": 10}, headers=etag, timeout=60).status_code == 304
    assert httpx.get(f"{server.url}{path}", params={"points": 11}, headers=etag, timeout=60).status_code == 200


def test_a_new_value_makes_a_new_picture(database: Database, server: ApiServer) -> None:
    job_id = submit(database)
    token = claim(database, job_id).token
    path = f"/api/v1/jobs/{job_id}/metrics/loss"
    for number in (1, 2, 3):
        send(database, token, number, step(number))
        assert [bucket["last_step"] for bucket in get(server, path, points=1).json()["buckets"]] == [number]


@pytest.mark.parametrize("path", ["/memory", "/memory/steps", "/metrics/loss?points=3"])
def test_costly_reads_share_their_bound(
    database: Database, server: ApiServer, threads: ThreadPoolExecutor, path: str
) -> None:
    job_id = submit(database)
    sizes = {"host_idle_bytes": 1, "host_peak_bytes": 2, "device_idle_bytes": None, "device_peak_bytes": None}
    memory = {"kind": "memory", "time": NOW, "step": 1, "rank": 0, "phase": "forward"} | sizes
    loss_and_nfe = step(1) | {"metrics": {"loss": 1.0, "nfe": 2.0}}
    send(database, claim(database, job_id).token, 1, loss_and_nfe, memory)
    with locked(database, "telemetry_blocks") as waiting:
        for name in ("loss", "nfe"):
            threads.submit(get, server, f"/api/v1/jobs/{job_id}/metrics/{name}", points=1)
        until(lambda: waiting() == 2, "two are under way")
        busy = assert_problem(get(server, f"/api/v1/jobs/{job_id}{path}"), 503)
        assert "Retry-After" in busy["detail"]
    until(lambda: get(server, f"/api/v1/jobs/{job_id}{path}").status_code == 200, "there is room again")


def test_what_a_client_that_has_left_asked_for_is_ended(database: Database, server: ApiServer) -> None:
    job_id = submit(database)
    request = f"GET /api/v1/jobs/{job_id}/metrics/loss?wait=30 HTTP/1.1\r\nHost: {server.url[7:]}\r\n\r\n"
    host, port = server.url.removeprefix("http://").split(":")
    for _ in range(3):
        with socket.create_connection((host, int(port))) as client:
            client.sendall(request.encode())
            client.shutdown(socket.SHUT_WR)

    def ended() -> bool:
        lines = get(server, "/metrics").text.splitlines()
        return any('status="499"' in line and "metrics/{name}" in line and line.endswith(" 3.0") for line in lines)

    began = time.monotonic()
    until(ended, "they are counted as left")
    assert time.monotonic() - began < 29, "they would have waited 30 s"


@pytest.fixture(params=["sqlite", "postgresql"])
def either(request: pytest.FixtureRequest) -> Iterator[tuple[ApiServer, Database]]:
    """An API on either kind of store, and the store."""
    if request.param == "postgresql":
        yield request.getfixturevalue("server"), request.getfixturevalue("database")
        return
    api_server: ApiServer = request.getfixturevalue("api_server")
    with closing(Database(f"sqlite:///{api_server.data / 'symadj.sqlite'}")) as store:
        yield api_server, store


def test_ranks_that_send_the_same_metrics_in_opposite_orders_each_batch_twice_wait_for_each_other(
    either: tuple[ApiServer, Database], threads: ThreadPoolExecutor
) -> None:
    server, database = either
    job_id = submit(database)
    headers = {"Authorization": f"Bearer {claim(database, job_id).token}"}
    names = [f"metric_{number}" for number in range(8)]

    def send(rank: int) -> set[int]:
        order = names if rank == 0 else names[::-1]
        found = set()
        with httpx.Client(base_url=server.url, timeout=60, headers=headers) as client:
            for first in range(1, 31, 5):
                records = [step(number) | {"metrics": dict.fromkeys(order, rank)} for number in range(first, first + 5)]
                batch = {"source": f"rank-{rank}", "first_seq": first, "records": records}
                found |= {client.post("/api/v1/ingest/batches", json=batch).status_code for _ in range(2)}
        return found

    assert [*threads.map(send, (0, 1))] == [{200}, {200}]
    series = get(server, f"/api/v1/jobs/{job_id}/metrics").json()["items"]
    assert {item["name"]: item["points"] for item in series} == dict.fromkeys(names, 30)
    for name in names:
        points = get(server, f"/api/v1/jobs/{job_id}/metrics/{name}").json()["points"]
        assert sorted(point["step"] for point in points) == [*range(1, 31)]
