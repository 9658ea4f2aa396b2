"""Readers beside a training: what they cost it, and how the API answers them meanwhile (`make bench-load`).

It starts `symadj serve` on a folder of its own with a small training, and a series of a million points of an ended
job. A load is, for so many seconds: readers who downsample that series over and over, long polls on the training,
followers (a third each of its stream, its logs and a metric, as `symadj events -f`, `logs -f` and `metrics -f`), and
open pages of the training, with the requests of `api/page/job.js`. All of them wait as long as Retry-After says, as the
Python client does.
Clients, server and training share the machine's cores: with few of them, that alone slows the training down. What the
cores allow is therefore measured, too: beside the same clients of a server that only gives stored answers of the same
sizes, at the same pace; or, where there is none of these, beside a process that only computes, for as much of a core
as API and clients took more (as the API alone, if clients give way). Undisturbed is the mean of before and after. Of
everything the seconds of CPU are told, of the API also what it holds.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import reduce
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import psutil

from benchmarks import stored_answers
from benchmarks.servers import serving
from benchmarks.stored_answers import StoredAnswers
from symadj.api.children import MARK
from symadj.api.client import Client
from symadj.api.long_polls import ANSWERS_PER_SECOND, LOOK_SECONDS
from symadj.service.contract.records import StepRecord
from symadj.service.store import Database, jobs, metrics

SYMADJ = Path(sys.executable).with_name("symadj")
TRAINING = {
    "name": "beside readers",
    "data": {"kind": "toy", "name": "moons", "rows": 2000, "batch_size": 100},
    "flow": {"kind": "cnf", "blocks": 1, "field": {"hidden": [16]}},
    "solver": {"kind": "fixed", "method": "euler", "steps": 2},
    "stop": {"kind": "steps", "max_steps": 100_000_000},
    "resources": {"kind": "cpu", "workers": 1},
    "evaluation": None,
}
# The metrics of such a training that the page shows at first.
CURVES = ["loss", "nfe_forward", "nfe_backward", "step_seconds"]
# Seconds; what has no answer counts by the name of its error.
TIMEOUT_S = 60.0


@dataclass
class Seen:
    """What the clients of a load saw: answers by kind of request and status, the seconds of ``GET /jobs/{id}``, and the
    seconds of CPU that they took themselves."""

    statuses: dict[str, Counter[str]] = field(default_factory=dict)
    job_seconds: list[float] = field(default_factory=list)
    cpu_seconds: float = 0.0

    def __add__(self, other: Seen) -> Seen:
        return Seen(
            self.statuses | other.statuses,
            self.job_seconds + other.job_seconds,
            self.cpu_seconds + other.cpu_seconds,
        )


@contextmanager
def service(data: Path, store_url: str | None, symadj: Path = SYMADJ) -> Iterator[str]:
    """Run ``symadj serve`` with one CPU for training until the block ends; yield its URL."""
    environment = os.environ | ({"SYMADJ_STORE_URL": store_url} if store_url else {})
    command = [str(symadj), "serve", "--port", "0", "--data", str(data), "--cpus", "1"]
    with serving(command, environment) as (url, _):
        yield url


def make_long_series(database: Database, client: Client, points: int) -> str:
    """Return the id of an ended job whose metric ``loss`` has so many points."""
    job_id = client.submit(TRAINING | {"priority": -100}).id
    client.cancel(job_id)
    values = np.random.default_rng(0).normal(size=points)
    for start in range(0, points, 50_000):
        numbers = range(start + 1, min(start + 50_000, points) + 1)
        steps = [StepRecord(step=number, metrics={"loss": values[number - 1]}) for number in numbers]
        with database.session() as session:
            metrics.append(session, jobs.lock(session, job_id), 1, steps)
    return job_id


def stored_steps(database: Database, job_id: str) -> int:
    """Return the last step of a job that is in the store; asked of the store itself, whatever the API does."""
    with database.read_session() as session:
        series = metrics.one_series(session, job_id, "loss")
        return series.last_step if series is not None else 0


def attempts_lost(database: Database, job_id: str) -> int:
    """Return how many attempts of a job were lost."""
    with database.read_session() as session:
        return jobs.get(session, job_id).attempts_lost


def wait_for_training(database: Database, job_id: str) -> None:
    """Return when so many steps are stored that the training is under way.

    Raises:
        TimeoutError: it does not begin within five minutes.
    """
    deadline = time.monotonic() + 300
    while stored_steps(database, job_id) < 100:
        if time.monotonic() > deadline:
            raise TimeoutError("the training has not begun within 300 s")
        time.sleep(0.5)


def give_way() -> None:
    """Let this process have what of the cores no other wants.

    Linux may weigh whole sessions first (autogroup): to be nice among one's own session alone changes nothing then.
    """
    with suppress(PermissionError):  # It is the first of its session already.
        os.setsid()
        os.nice(19)
        with suppress(FileNotFoundError):  # this Linux weighs none
            Path("/proc/self/autogroup").write_text("19", encoding="ascii")


@dataclass
class Load:
    """Clients of one load: so many of each kind, for so many seconds."""

    url: str
    training: str
    newest: int
    long_series: str
    seconds: float
    readers: int = 0
    long_polls: int = 0
    pages: int = 0
    followers: int = 0
    polite: bool = False

    def send(self) -> Seen:
        """Send requests until the time is over."""
        if self.polite:
            give_way()
        self.seen = Seen()
        self._until, before = time.monotonic() + self.seconds, time.process_time()
        asyncio.run(self._send())
        self.seen.cpu_seconds = time.process_time() - before
        return self.seen

    @property
    def clients(self) -> int:
        """How many there are; without any, the training is undisturbed."""
        return self.readers + self.long_polls + self.pages + self.followers

    def parts(self) -> list[Load]:
        """Return the same clients, process by process: pages by themselves, as it is their time that is measured."""
        return [replace(self, pages=0), replace(self, readers=0, long_polls=0, followers=0)]

    async def _send(self) -> None:
        await asyncio.sleep(0 if self.clients else self.seconds)
        kinds = (
            (self.readers, self._reader),
            (self.long_polls, self._long_poll),
            (self.followers, self._follower),
            (self.pages, self._page),
        )
        async with asyncio.TaskGroup() as tasks:
            for count, kind in kinds:
                for number in range(count):
                    tasks.create_task(self._as_one(kind, number))

    async def _as_one(self, kind: Callable[[httpx.AsyncClient, int], Coroutine[Any, Any, None]], number: int) -> None:
        # A client each: a pool of many connections takes longer to choose one than the server to answer.
        async with httpx.AsyncClient(base_url=self.url, timeout=TIMEOUT_S, trust_env=False, verify=False) as client:
            await kind(client, number)

    @property
    def _on(self) -> bool:
        return time.monotonic() < self._until

    async def _get(
        self, client: httpx.AsyncClient, kind: str, path: str, etag: str = "", **parameters: Any
    ) -> httpx.Response | None:
        counter = self.seen.statuses.setdefault(kind, Counter())
        try:
            headers = {"If-None-Match": etag} if etag else {}
            answer = await client.get(f"/api/v1/jobs{path}", params=parameters, headers=headers)
        except httpx.HTTPError as error:
            counter[type(error).__name__] += 1
            if isinstance(error, httpx.ConnectError):
                await asyncio.sleep(1.0)
            return None
        counter[str(answer.status_code)] += 1
        pause = float(answer.headers.get("Retry-After", 0))
        if pause:
            await self._rest(pause)
        return answer

    async def _rest(self, seconds: float) -> None:
        await asyncio.sleep(max(0.0, min(seconds, self._until - time.monotonic())))

    async def _reader(self, client: httpx.AsyncClient, number: int) -> None:
        # Not all of them draw the same picture.
        while self._on:
            await self._get(client, "downsampled", f"/{self.long_series}/metrics/loss", points=1000 - number % 10)

    async def _long_poll(self, client: httpx.AsyncClient, _number: int) -> None:
        path = f"/{self.training}/metrics/loss"
        after = self.newest
        while self._on:
            answer = await self._get(client, "long poll", path, after_seq=after, wait=20, limit=1000)
            if answer is not None and answer.status_code == 200:
                after = answer.json()["next_after_seq"]

    async def _follower(self, client: httpx.AsyncClient, number: int) -> None:
        path = f"/{self.training}"
        if number % 3 == 0:
            await self._stream(client, f"{path}/stream")
        elif number % 3 == 1:
            await self._polls(client, "follow logs", f"{path}/logs", "after", "next_after", tail=1000)
        else:
            await self._polls(client, "follow a metric", f"{path}/metrics/loss", "after_seq", "next_after_seq")

    async def _stream(self, client: httpx.AsyncClient, path: str) -> None:
        counter = self.seen.statuses.setdefault("follow the stream", Counter())
        while self._on:
            left = max(1.0, min(600.0, self._until - time.monotonic()))
            async with client.stream("GET", f"/api/v1/jobs{path}", params={"wait": left}) as answer:
                counter[str(answer.status_code)] += 1
                async for line in answer.aiter_lines():
                    counter["events"] += line.startswith("event:")
                    if not self._on:
                        break

    async def _polls(
        self, client: httpx.AsyncClient, kind: str, path: str, parameter: str, field: str, **first: Any
    ) -> None:
        after, more = self.newest if parameter == "after_seq" else 0, first
        while self._on:
            answer = await self._get(client, kind, path, **{parameter: after, "wait": 20} | more)
            if answer is not None and answer.status_code == 200:
                after, more = answer.json()[field], {}

    async def _page(self, client: httpx.AsyncClient, number: int) -> None:
        await asyncio.sleep(number % 10 / 10)
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._repeat(client, "page: job", "", 3.0))
            tasks.create_task(self._repeat(client, "page: memory", "/memory", 10.0))
            tasks.create_task(self._curves(client))

    async def _repeat(self, client: httpx.AsyncClient, kind: str, path: str, seconds: float) -> None:
        etag = ""
        while self._on:
            began = time.monotonic()
            answer = await self._get(client, kind, f"/{self.training}{path}", etag)
            etag = answer.headers.get("ETag", "") if answer is not None else ""
            if not path:
                self.seen.job_seconds.append(time.monotonic() - began)
            await self._rest(seconds)

    async def _curves(self, client: httpx.AsyncClient) -> None:
        path, after = f"/{self.training}/series", self.newest
        while self._on:
            answer = await self._get(client, "page: curves", path, name=CURVES, after_seq=after, wait=25)
            if answer is not None and answer.status_code == 200:
                after = answer.json()["items"][0]["next_after_seq"]
            await self._rest(2.0)


def cpu_seconds(data: Path) -> Counter[str]:
    """Return the seconds of CPU that the processes of the service on a folder took so far, by what they are."""
    taken: Counter[str] = Counter()
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            name, _, folder = process.environ().get(MARK, "").partition(":")
            if folder == str(data):
                taken[name] += sum(process.cpu_times()[:2])
    return taken


def api_bytes(data: Path) -> int:
    """Return the resident bytes of the API on a folder."""
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if process.environ().get(MARK, "") == f"api:{data}":
                return process.memory_info().rss
    raise LookupError(f"no API runs on {data}")


def compute(share: float, seconds: float) -> float:
    """Compute for a share of the time, in turns of 20 ms; return the seconds of CPU that it took."""
    began, cpu = time.monotonic(), time.process_time()
    while (now := time.monotonic()) < began + seconds:
        while time.monotonic() < now + 0.02 * share:
            pass
        time.sleep(0.02 * (1 - share))
    return time.process_time() - cpu


@dataclass
class Measured:
    """What came of some seconds: the steps stored per second, and the seconds of CPU per second by process."""

    steps: float
    cores: dict[str, float]
    seen: Seen

    def and_then(self, later: Measured) -> Measured:
        """Return the mean of this and a later one."""
        cores = {name: (share + later.cores.get(name, share)) / 2 for name, share in self.cores.items()}
        return Measured((self.steps + later.steps) / 2, cores, self.seen + later.seen)

    @property
    def told(self) -> str:
        """Cores by process."""
        return ", ".join(f"{name} {share:.2f}" for name, share in sorted(self.cores.items()))


def measure_beside(database: Database, data: Path, training: str, share: float, seconds: float) -> Measured:
    """Compute for a share of a core, and return what that did to the training."""
    with ProcessPoolExecutor(1, get_context("spawn")) as processes:
        processes.submit(compute, 0.0, 0.1).result()
        first, began = stored_steps(database, training), time.monotonic()
        taken = processes.submit(compute, share, seconds).result()
        took, steps = time.monotonic() - began, stored_steps(database, training) - first
    return Measured(steps / took, {"computing": taken / took}, Seen())


def measure(database: Database, data: Path, load: Load) -> Measured:
    """Send a load from processes of its own, and return what it did to the training."""
    parts, spawn = load.parts(), get_context("spawn")
    ready = spawn.Barrier(len(parts) + 1)
    with ProcessPoolExecutor(len(parts), spawn, initializer=ready.wait) as processes:
        answers = processes.map(Load.send, parts)
        ready.wait()
        first, cpu, began = stored_steps(database, load.training), cpu_seconds(data), time.monotonic()
        seen = reduce(Seen.__add__, answers)
        took, steps = time.monotonic() - began, stored_steps(database, load.training) - first
        # A process that has ended meanwhile takes its seconds with it.
        cores = {name: max(0.0, seconds - cpu[name]) / took for name, seconds in cpu_seconds(data).items()}
    return Measured(steps / took, cores | {"clients": seen.cpu_seconds / took}, seen)


def main() -> None:
    """Print a block of lines for every load."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--loads", type=int, default=10)
    parser.add_argument("--seconds", type=float, default=60.0, help="of one load")
    parser.add_argument("--quiet", type=float, default=20.0, help="seconds without readers before and after each load")
    parser.add_argument("--stored", type=float, default=20.0, help="seconds beside a server of stored answers; 0: none")
    parser.add_argument("--readers", type=int, default=50)
    parser.add_argument("--long-polls", type=int, default=200)
    parser.add_argument("--pages", type=int, default=20)
    parser.add_argument("--followers", type=int, default=0)
    parser.add_argument("--points", type=int, default=1_000_000, help="of the long series")
    parser.add_argument("--polite-clients", action="store_true", help="at nice 19, as users' own machines take no core")
    parser.add_argument("--symadj", type=Path, default=SYMADJ, help="another version's command, to compare with")
    parser.add_argument("--store-url", help="of an empty PostgreSQL database; default: SQLite")
    arguments = parser.parse_args()
    if arguments.followers and arguments.stored:
        parser.error("the server of stored answers has none for followers: give --stored 0")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("stopped"))
    with tempfile.TemporaryDirectory(prefix="symadj-load-") as folder:
        data = Path(folder).resolve()
        with service(data, arguments.store_url, arguments.symadj) as url, Client(url) as client:
            database = Database(arguments.store_url or f"sqlite:///{data / 'symadj.sqlite'}")
            training = client.submit(TRAINING).id
            long_series = make_long_series(database, client, arguments.points)
            print(
                f"{os.cpu_count()} cores; {arguments.readers} readers of a series of {arguments.points} points, "
                f"{arguments.long_polls} long polls, {arguments.followers} followers, {arguments.pages} pages"
                f"{', all of them at nice 19' if arguments.polite_clients else ''}",
                flush=True,
            )
            load = Load(
                url,
                training,
                0,
                long_series,
                arguments.seconds,
                arguments.readers,
                arguments.long_polls,
                arguments.pages,
                arguments.followers,
                arguments.polite_clients,
            )
            nobody = replace(load, seconds=arguments.quiet, readers=0, long_polls=0, pages=0, followers=0)
            ratios: dict[str, list[float]] = {}
            for number in range(1, arguments.loads + 1):
                wait_for_training(database, training)
                lost = attempts_lost(database, training)
                before = measure(database, data, nobody)
                load.newest = next(item.last_seq for item in client.metric_list(training).items if item.name == "loss")
                if arguments.stored:
                    values = 1 + int(before.steps * max(LOOK_SECONDS, arguments.long_polls / ANSWERS_PER_SECOND))
                    answers = StoredAnswers.taken_from(url, training, load.newest, long_series, min(values, 1000))
                    with stored_answers.serve(answers) as other:
                        control = measure(database, data, replace(load, url=other, seconds=arguments.stored))
                    beside, before = before, measure(database, data, nobody)
                    what = "stored answers"
                    undisturbed = beside.and_then(before)
                    ratios.setdefault(what, []).append(report(f"load {number}, beside {what}", undisturbed, control))
                during = measure(database, data, load)
                after = measure(database, data, nobody)
                undisturbed = before.and_then(after)
                ratios.setdefault("the API", []).append(report(f"load {number}, beside the API", undisturbed, during))
                if not arguments.stored:
                    share = during.cores["api"] - undisturbed.cores["api"]
                    if not arguments.polite_clients:
                        share += during.cores["clients"]
                    control = measure_beside(database, data, training, share, arguments.seconds)
                    undisturbed = after.and_then(measure(database, data, nobody))
                    what = "a process that computes as much"
                    ratios.setdefault(what, []).append(report(f"load {number}, beside {what}", undisturbed, control))
                print(
                    f"    attempts lost: {attempts_lost(database, training) - lost}; "
                    f"the API holds {api_bytes(data) / 2**20:.0f} MiB",
                    flush=True,
                )
            for what, found in ratios.items():
                low, median, high = np.percentile(found, [25, 50, 75])
                print(
                    f"steps/s beside {what}, to undisturbed: median {median:.2f}, half of them {low:.2f} to {high:.2f}"
                )
            client.cancel(training)
            database.close()


def report(what: str, undisturbed: Measured, measured: Measured) -> float:
    """Print what came of one load; return its steps beside the undisturbed ones."""
    seen = measured.seen
    median, worst = np.percentile(seen.job_seconds, [50, 99]) if seen.job_seconds else (np.nan, np.nan)
    ratio = measured.steps / undisturbed.steps if undisturbed.steps else np.nan
    asked = f"; GET /jobs/{{id}} p50 {median:.3f} s, p99 {worst:.3f} s" if seen.job_seconds else ""
    print(
        f"{what}: steps/s {undisturbed.steps:.1f} undisturbed, {measured.steps:.1f} ({ratio:.2f}){asked}\n"
        f"    cores: {undisturbed.told} undisturbed; {measured.told}",
        flush=True,
    )
    for kind, counter in sorted(seen.statuses.items()):
        told = ", ".join(f"{count} x {status}" for status, count in sorted(counter.items()))
        print(f"    {kind}: {told}", flush=True)
    return ratio


if __name__ == "__main__":
    main()
