"""Telemetry and jobs over HTTP, beside an earlier build and MLflow's server (`make bench-api`).

Each service runs alone on a store of its own (SQLite, unless --store names PostgreSQL's address), and the same is asked
of all of them in turn: batches of 1,000 values of a metric, a series of a million steps downsampled to 1,000 points for
the first time and again, a part of it, the summary of its memory, new jobs, a page of 50 of many jobs, what the API
holds after all that, what a deletion takes, and how long another job's batch waits meanwhile. MLflow is asked for the
interval query of a series of 10,000 steps, and for runs. Medians; the table has ratios. The earlier build is a commit
of this repository, checked out beside it.

The whole of it takes less than ten minutes, so what takes the others too long is left out: the earlier build has a
tenth of the steps (`--before-steps`) of two of the metrics, which makes it look better than it is; and of the many jobs
only the first are made over HTTP, the others by each version's own code, and MLflow's as copies of a run in its tables.
No job is planned meanwhile (`SYMADJ_PLAN_SUBMITTED`): neither of the others plans any, and it takes a core for seconds.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import psutil
import sqlalchemy as sa

from benchmarks.servers import answering, compared, mlflow_server

BATCH = 1000
WIDTH = 1000
THEIR_STEPS = 10_000  # of MLflow's series
MOST_BEFORE = 2  # metrics of the earlier build
SPEC = {"data": {"kind": "toy", "name": "moons"}}
TIME = datetime(2026, 1, 1, tzinfo=UTC)


@dataclass
class Ours:
    """A version of this service: its API, the API's process, and a job whose run is this benchmark."""

    client: httpx.Client
    process: psutil.Process
    store: str
    job_id: str
    token: str
    sent: int = 0

    def send(self, records: list[dict[str, Any]]) -> None:
        """Send a batch as rank 0 does."""
        self.post(self.batch(records))

    def batch(self, records: list[dict[str, Any]]) -> bytes:
        """Return the next batch of rank 0 as it is sent."""
        first, self.sent = self.sent + 1, self.sent + len(records)
        return json.dumps({"source": "rank-0", "first_seq": first, "records": records}).encode()

    def post(self, batch: bytes) -> None:
        """Send a batch; they must be sent in their order."""
        headers = {"Authorization": f"Bearer {self.token}", "Content-Type": "application/json"}
        answer = self.client.post("/api/v1/ingest/batches", content=batch, headers=headers)
        assert answer.status_code == 200, answer.text

    def get(self, path: str, **query: Any) -> dict[str, Any]:
        """Read something of the job."""
        answer = self.client.get(f"/api/v1/jobs/{self.job_id}{path}", params=query)
        assert answer.status_code == 200, answer.text
        found: dict[str, Any] = answer.json()
        return found


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--before", default="6a79a12", help="a commit, or none")
    parser.add_argument("--mlflow", type=Path, help="the command `mlflow` of another environment; default: without it")
    parser.add_argument("--store", help="PostgreSQL's address; two empty databases there, `now` and `before`, are used")
    parser.add_argument("--steps", type=int, default=1_000_000)
    parser.add_argument("--before-steps", type=int, default=100_000, help="steps of the earlier build, at most")
    parser.add_argument("--series", type=int, default=10)
    parser.add_argument("--jobs", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=40)
    options = parser.parse_args()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="symadj-bench-")))
        trees = stack.enter_context(compared(options.before, folder))
        ours = {
            name: stack.enter_context(service(tree, folder / f"{name}-data", name, options.store))
            for name, tree in trees.items()
        }
        names = [f"metric_{number}" for number in range(options.series)]
        steps = {"now": options.steps, "before": min(options.steps, options.before_steps)}
        named = {"now": names, "before": names[:MOST_BEFORE]}
        print(f"{options.jobs:,} jobs; medians of {options.rounds}")
        heads = [f"{name}, {steps[name]:,} steps of {len(named[name])} metrics" for name in ours]
        print(f"\n| what | {' | '.join(heads)} | MLflow 3.18.0, {THEIR_STEPS:,} steps of one | to before | to MLflow |")
        print("| --- |" + " ---: |" * (len(ours) + 3))
        mlflow = None
        if options.mlflow is not None:
            (folder / "mlflow").mkdir()
            url = stack.enter_context(mlflow_server(folder / "mlflow", options.mlflow))
            mlflow = Mlflow(stack.enter_context(client_of(url)))

        ingest = in_turn(
            {name: prepared(build, options.rounds + 1) for name, build in ours.items()}
            | ({"mlflow": mlflow.prepared(options.rounds + 1)} if mlflow is not None else {}),
            options.rounds,
        )
        row("a batch of 1,000 values stored, ms", ours, ingest)
        row(
            "a job created, ms",
            ours,
            in_turn(
                {name: create(build) for name, build in ours.items()}
                | ({"mlflow": mlflow.create} if mlflow is not None else {}),
                options.rounds * 3,
            ),
        )
        more = options.jobs - options.rounds * 3
        for name, build in ours.items():
            run_by(trees[name], "many_jobs.py", build.store, str(more))
        if mlflow is not None:
            mlflow.copy(folder / "mlflow" / "mlflow.db", more)
        row(
            "a page of 50 jobs, ms",
            ours,
            in_turn(
                {name: page(build) for name, build in ours.items()}
                | ({"mlflow": mlflow.search} if mlflow is not None else {}),
                options.rounds,
            ),
        )

        sizes = {}
        for name, build in ours.items():
            before = stored_bytes(build)
            fill(build, named[name], steps[name])
            sizes[name] = [(stored_bytes(build) - before) / (steps[name] * len(named[name]))]
        row("bytes a value", ours, sizes)
        if mlflow is not None:
            mlflow.fill(THEIR_STEPS)
        theirs = {"mlflow": mlflow.interval} if mlflow is not None else {}
        drawn: dict[str, list[float]] = {name: [] for name in (*ours, *theirs)}
        for metric in names:
            for name, build in ours.items():
                if metric in named[name]:
                    drawn[name].append(seconds(picture(build, metric)))
            for name, ask in theirs.items():
                drawn[name].append(seconds(ask))
        row(f"a series in {WIDTH} points, first time, ms", ours, scaled(drawn))
        again = in_turn({name: pictures(build, names[0]) for name, build in ours.items()} | theirs, options.rounds)
        row("again, in another width, ms", ours, again)
        parts = in_turn({"now": parts_of(ours["now"], names[0], options.steps)} | theirs, options.rounds)
        if "before" in ours:  # which can draw the whole alone
            parts["before"] = again["before"]
        row("a hundredth of the steps, ms", ours, parts)
        row(
            "memory summed up, first time, ms",
            ours,
            scaled({name: [seconds(memory(b, 0))] for name, b in ours.items()}),
        )
        later = {name: [seconds(memory(build, turn)) for turn in (1, 2, 3)] for name, build in ours.items()}
        row("again, of other steps, ms", ours, scaled(later))
        row("the API's resident MiB", ours, {name: [resident(build)] for name, build in ours.items()})
        took, waits = {}, {}
        for name, build in ours.items():
            took[name], waits[name] = deleted(build, trees[name])
        row("the job deleted, s", ours, took)
        row("longest wait of another job's batch, s", ours, waits)


def row(what: str, ours: dict[str, Ours], measured: dict[str, list[float]]) -> None:
    """Print a line of medians and ratios; more is worse in all of them."""
    middle = {name: statistics.median(values) for name, values in measured.items()}
    cells = [f"{middle[name]:.3g}" if name in middle else "" for name in (*ours, "mlflow")]
    ratios = [f"{middle['now'] / middle[name]:.3f}" if name in middle else "" for name in ("before", "mlflow")]
    print(f"| {what} | {' | '.join(cells + ratios)} |", flush=True)


def scaled(measured: dict[str, list[float]]) -> dict[str, list[float]]:
    """Return seconds as milliseconds."""
    return {name: [value * 1000 for value in values] for name, values in measured.items()}


def in_turn(asked: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """Return the milliseconds of each, asked in turn; the first round is not counted."""
    measured: dict[str, list[float]] = {name: [] for name in asked}
    for turn in range(rounds + 1):
        for name, ask in asked.items():
            value = seconds(ask) * 1000
            if turn:
                measured[name].append(value)
    return measured


def seconds(ask: Callable[[], object]) -> float:
    """Return what something takes."""
    start = time.perf_counter()
    ask()
    return time.perf_counter() - start


def step_record(step: int, metrics: dict[str, float]) -> dict[str, Any]:
    """Return the record of a step that took some milliseconds."""
    time_of = TIME + timedelta(microseconds=step * 8300 + step * 7919 % 997)
    return {"kind": "step", "time": time_of.isoformat(), "step": step, "metrics": metrics}


def memory_records(step: int) -> list[dict[str, Any]]:
    """Return the records of memory of a step."""
    record = {"kind": "memory", "time": TIME.isoformat(), "step": step, "rank": 0, "host_idle_bytes": 2**29}
    record |= {"device_idle_bytes": None, "device_peak_bytes": None}
    return [
        record | {"phase": phase, "host_peak_bytes": 2**29 + 4096 * (step * 7919 % 1013)}
        for phase in ("forward", "backward", "optimizer")
    ]


def one_metric(build: Ours) -> Callable[[], None]:
    """Return a sender of 1,000 new values of one metric."""
    return lambda: build.post(next_values(build))


def prepared(build: Ours, count: int) -> Callable[[], None]:
    """Return the same of so many batches that are written already: what that takes is the client's, not the server's.

    Nothing else may be sent before the last of them.
    """
    batches = iter([next_values(build) for _ in range(count)])
    return lambda: build.post(next(batches))


def next_values(build: Ours) -> bytes:
    """Return the batch with the next 1,000 values of one metric."""
    first = build.sent + 1
    return build.batch([step_record(step, {"loss": 1 / step}) for step in range(first, first + BATCH)])


def create(build: Ours) -> Callable[[], None]:
    """Return what submits a job."""

    def submit() -> None:
        answer = build.client.post("/api/v1/jobs", json=SPEC)
        assert answer.status_code == 201, answer.text

    return submit


def page(build: Ours) -> Callable[[], None]:
    """Return what reads the newest 50 jobs."""

    def read() -> None:
        answer = build.client.get("/api/v1/jobs", params={"limit": 50})
        assert len(answer.json()["items"]) == 50, answer.text

    return read


def fill(build: Ours, names: list[str], steps: int) -> None:
    """Send all series, and the memory of every step."""
    values = np.random.default_rng(0).normal(size=(len(names), steps))
    for start in range(0, steps, BATCH):
        build.send(
            [
                step_record(step + 1, {name: values[place, step] for place, name in enumerate(names)})
                for step in range(start, min(start + BATCH, steps))
            ]
        )
    for start in range(0, steps, 300):
        build.send([record for step in range(start, min(start + 300, steps)) for record in memory_records(step + 1)])


def stored_bytes(build: Ours) -> float:
    """Return what the store takes, by the service's own word."""
    answer = build.client.get("/api/v1/usage", timeout=600)
    return float(answer.json()["store_bytes"])


def picture(build: Ours, metric: str, points: int = WIDTH) -> Callable[[], object]:
    """Return what downsamples a series."""
    return lambda: build.get(f"/metrics/{metric}", points=points)


def pictures(build: Ours, metric: str) -> Callable[[], object]:
    """Return what downsamples a series, to other points each time."""
    widths = itertools.count(WIDTH - 1, -1)
    return lambda: build.get(f"/metrics/{metric}", points=next(widths))


def parts_of(build: Ours, metric: str, steps: int) -> Callable[[], object]:
    """Return what downsamples a hundredth of a series, another one each time."""
    firsts = itertools.cycle(range(1, steps, steps // 100))

    def read() -> object:
        first = next(firsts)
        return build.get("/series", name=metric, points=WIDTH, first_step=first, last_step=first + steps // 100)

    return read


def memory(build: Ours, turn: int) -> Callable[[], object]:
    """Return what sums up the memory of a job."""
    return lambda: build.get("/memory", first_step=turn + 1)


def resident(build: Ours) -> float:
    """Return the MiB that the API's process holds."""
    return float(build.process.memory_info().rss) / 2**20


def deleted(build: Ours, tree: Path) -> tuple[list[float], list[float]]:
    """Delete the job; return the seconds that took, and the longest that another job's batch waited meanwhile."""
    outcome = {"source": "driver", "first_seq": 1, "records": [{"kind": "outcome", "state": "succeeded"}]}
    outcome["records"][0]["time"] = TIME.isoformat()  # type: ignore[index]
    headers = {"Authorization": f"Bearer {build.token}"}
    assert build.client.post("/api/v1/ingest/batches", json=outcome, headers=headers).status_code == 200
    other = Ours(build.client, build.process, build.store, *claimed(build.client, tree, build.store))
    waits: list[float] = []
    done = threading.Event()

    def keep_sending() -> None:
        send = one_metric(other)
        while not done.is_set():
            waits.append(seconds(send))

    sender = threading.Thread(target=keep_sending)
    sender.start()
    while not waits:
        time.sleep(0.01)
    took = seconds(lambda: build.client.delete(f"/api/v1/jobs/{build.job_id}").raise_for_status())
    done.set()
    sender.join()
    return [took], [max(waits)]


class Mlflow:
    """MLflow's server, by its REST interface."""

    def __init__(self, client: httpx.Client) -> None:
        self._client = client
        self._run_id = self.create()
        self._steps = 0

    def _ask(self, path: str, **body: Any) -> dict[str, Any]:
        answer = self._client.post(f"/api/2.0/mlflow/{path}", json=body)
        assert answer.status_code == 200, answer.text
        found: dict[str, Any] = answer.json()
        return found

    def create(self) -> str:
        """Create a run."""
        return str(self._ask("runs/create", experiment_id="0", start_time=0)["run"]["info"]["run_id"])

    def copy(self, file: Path, count: int) -> None:
        """Copy a run so many times, in the tables: by its interface, each takes as long as the first."""
        with closing(sqlite3.connect(file, timeout=60)) as tables, tables:
            for table in ("runs", "tags"):
                columns = [str(row[1]) for row in tables.execute(f"PRAGMA table_info({table})")]
                rows = tables.execute(f"SELECT * FROM {table} WHERE run_uuid = ?", [self._run_id]).fetchall()
                place = columns.index("run_uuid")
                copies = (
                    [*row[:place], f"{number:032x}", *row[place + 1 :]] for number in range(count) for row in rows
                )
                tables.executemany(f"INSERT INTO {table} VALUES ({', '.join('?' * len(columns))})", copies)

    def prepared(self, count: int) -> Callable[[], None]:
        """Return what sends the next 1,000 values of one metric, so many times, written already."""
        batches = iter([self._next_values() for _ in range(count)])
        return lambda: self._post(next(batches))

    def fill(self, steps: int) -> None:
        """Send more values of one metric."""
        for _ in range(0, steps, BATCH):
            self._post(self._next_values())

    def _next_values(self) -> bytes:
        first, self._steps = self._steps, self._steps + BATCH
        points = [{"key": "loss", "value": 1 / (n + 1), "timestamp": n, "step": n} for n in range(first, self._steps)]
        return json.dumps({"run_id": self._run_id, "metrics": points}).encode()

    def _post(self, batch: bytes) -> None:
        headers = {"Content-Type": "application/json"}
        answer = self._client.post("/api/2.0/mlflow/runs/log-batch", content=batch, headers=headers)
        assert answer.status_code == 200, answer.text

    def search(self) -> None:
        """Read the newest 50 runs."""
        assert len(self._ask("runs/search", experiment_ids=["0"], max_results=50)["runs"]) == 50

    def interval(self) -> None:
        """Read a series as its page does: at most so many of its points."""
        query: dict[str, Any] = {"run_ids": self._run_id, "metric_key": "loss", "max_results": WIDTH}
        answer = self._client.get("/ajax-api/2.0/mlflow/metrics/get-history-bulk-interval", params=query)
        assert len(answer.json()["metrics"]) > WIDTH // 2, answer.text


@contextmanager
def service(tree: Path, data: Path, name: str, store: str | None) -> Iterator[Ours]:
    """Run the API of a version on a new store."""
    data.mkdir()
    if store is None:
        store = f"sqlite:///{data}/symadj.sqlite"
    else:  # a socket's address has more behind the database's name
        store = sa.make_url(store).set(database=name).render_as_string(hide_password=False)
    package = "symadj.api" if (tree / "symadj").exists() else "api"
    environment = os.environ | {"SYMADJ_DATA": str(data), "SYMADJ_STORE_URL": store, "PYTHONPATH": str(tree)}
    environment["SYMADJ_PLAN_SUBMITTED"] = "false"
    command = [sys.executable, "-m", package]
    known = set(psutil.Process().children())
    with answering(command, "/healthz", environment, tree) as url, client_of(url) as client:
        (process,) = set(psutil.Process().children()) - known
        yield Ours(client, process, store, *claimed(client, tree, store))


def client_of(url: str) -> httpx.Client:
    """Return a client of a server, which waits as long as an old build takes."""
    return httpx.Client(base_url=url, timeout=600, trust_env=False)


def claimed(client: httpx.Client, tree: Path, store: str) -> tuple[str, str]:
    """Submit a job; return its id and the token of its run, by the code of a version."""
    answer = client.post("/api/v1/jobs", json=SPEC)
    assert answer.status_code == 201, answer.text
    job_id = answer.json()["id"]
    return job_id, run_by(tree, "claimed_job.py", store, job_id)


def run_by(tree: Path, script: str, *arguments: str) -> str:
    """Run a script of ``peers`` by the code of a version; return what it prints."""
    command = [sys.executable, "-P", Path(__file__).with_name("peers") / script, *arguments]
    environment = os.environ | {"PYTHONPATH": str(tree)}
    made = subprocess.run(command, env=environment, cwd=tree, stdout=subprocess.PIPE, check=True, text=True)
    return made.stdout.strip()


if __name__ == "__main__":
    main()
