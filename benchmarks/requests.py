"""The API's CPU for a request, by kind of request, beside an earlier build (`make bench-requests`).

Each build's API runs alone on a store of its own (SQLite, unless --store names PostgreSQL's address) with a running job
that has logs, memory and four metrics of some thousand steps. The requests are those of followers, open pages and runs.
A round is so many requests of a kind, of each build in turn; counted is what the API's process takes of the CPU in user
and kernel mode (not the time that passes, which other processes change), and what the client takes, of httpx. Medians
of the rounds, in milliseconds a request.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from benchmarks.api import TIME, Ours, create, memory_records, one_metric, service, step_record
from benchmarks.servers import compared

CURVES = ["loss", "nfe_forward", "nfe_backward", "step_seconds"]
STEPS = 3000
# What comes new of a small training while a follower waits.
NEW = 50


def cpu_seconds(build: Ours) -> float:
    """Return what the API's process has taken of the CPU so far."""
    # Linux's number of the clock (clock_getcpuclockid): /proc tells hundredths of a second alone.
    return time.clock_gettime(~build.process.pid << 3 | 2)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--before", default="1c95834", help="a commit, or none")
    parser.add_argument("--store", help="PostgreSQL's address; two empty databases there, `now` and `before`, are used")
    parser.add_argument("--requests", type=int, default=50, help="of a kind in a round")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--only", default="", help="kinds whose names have this in them")
    options = parser.parse_args()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="symadj-bench-")))
        trees = stack.enter_context(compared(options.before, folder))
        builds = {}
        for name, tree in trees.items():
            builds[name] = stack.enter_context(service(tree, folder / f"{name}-data", name, options.store))
            fill(builds[name])
        print(f"CPU of a request in ms, medians of {options.rounds} rounds of {options.requests}", flush=True)
        print(f"\n| request | {' | '.join(builds)} | to before | client |")
        print("| --- |" + " ---: |" * (len(builds) + 2))
        for kind in kinds(next(iter(builds.values()))):
            if options.only not in kind:
                continue
            taken: dict[str, list[float]] = {name: [] for name in builds}
            own: list[float] = []
            asks = {name: kinds(build)[kind] for name, build in builds.items()}
            for turn in range(options.rounds + 1):
                for name, build in builds.items():
                    server, client = cpu_seconds(build), time.process_time()
                    for _ in range(options.requests if turn else 5):
                        asks[name]()
                    if turn:
                        taken[name].append((cpu_seconds(build) - server) / options.requests * 1000)
                        own.append((time.process_time() - client) / options.requests * 1000)
            middle = {name: statistics.median(values) for name, values in taken.items()}
            ratio = f"{middle['now'] / middle['before']:.2f}" if "before" in middle else ""
            cells = " | ".join(f"{value:.2f}" for value in middle.values())
            print(f"| {kind} | {cells} | {ratio} | {statistics.median(own):.2f} |", flush=True)


def fill(ours: Ours) -> None:
    """Send what a small training has sent after some minutes."""
    for start in range(1, STEPS + 1, 250):
        steps = range(start, start + 250)
        ours.send([step_record(step, dict.fromkeys(CURVES, 1 / step)) for step in steps])
        ours.send([record for step in steps for record in memory_records(step)])
    lines = [f"step {number} of a training: loss 1.234" for number in range(200)]
    ours.send([{"kind": "log", "time": TIME.isoformat(), "stream": "stdout", "lines": lines, "end": 8000}])


def kinds(ours: Ours) -> dict[str, Callable[[], object]]:
    """Return what makes a request, by its kind."""
    newest = STEPS * len(CURVES)
    return {
        "healthz": lambda: ours.client.get("/healthz").raise_for_status(),
        "job": lambda: ours.get(""),
        "job, nothing new": unchanged(ours, ""),
        "page of 50 jobs": lambda: ours.client.get("/api/v1/jobs", params={"limit": 50}).raise_for_status(),
        "memory": lambda: pace(ours.get("/memory")),
        f"metric, {NEW} new values": lambda: ours.get(
            "/metrics/loss", after_seq=newest - 3 * STEPS - NEW, limit=NEW, wait=10
        ),
        f"curves, {NEW} new values of each": lambda: ours.get(
            "/series", name=CURVES, after_seq=newest - 4 * NEW, limit=4 * NEW, wait=10
        ),
        f"logs, {NEW} new lines": lambda: ours.get("/logs", after=100, limit=NEW, wait=10),
        "stream, read once": lambda: ours.client.get(
            f"/api/v1/jobs/{ours.job_id}/stream", headers={"Last-Event-ID": "2-0"}
        ).raise_for_status(),
        "batch without a record": lambda: ours.send([]),
        f"batch of {NEW} steps of 4 metrics": steps_of(ours, NEW),
        "batch of 1,000 values": one_metric(ours),
        "a job created": create(ours),
    }


def pace(_answer: object) -> None:
    """Leave costly answers, of which 20 are given a second, their time."""
    time.sleep(0.045)


def unchanged(ours: Ours, path: str) -> Callable[[], object]:
    """Return what asks again for an answer that it has."""
    url = f"/api/v1/jobs/{ours.job_id}{path}"
    etag = ours.client.get(url).headers["ETag"]

    def ask() -> None:
        assert ours.client.get(url, headers={"If-None-Match": etag}).status_code == 304

    return ask


def steps_of(ours: Ours, count: int) -> Callable[[], object]:
    """Return a sender of so many new steps of four metrics."""

    def send() -> None:
        first = ours.sent + 1
        records: list[dict[str, Any]] = [
            step_record(step, dict.fromkeys(CURVES, 1 / step)) for step in range(first, first + count)
        ]
        ours.send(records)

    return send


if __name__ == "__main__":
    main()
