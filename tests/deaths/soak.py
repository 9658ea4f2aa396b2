"""Thirty short jobs and a random death every twenty seconds: ``make soak``.

Prints what died, and at the end the counts of what was lost, doubled and stuck; the exit status is 1 if there was any.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import psutil

from symadj.api.schemas.jobs import JobRead
from symadj.service.contract.states import TERMINAL, JobState
from symadj.service.settings import Settings
from tests.deaths.aftermath import left_over_files, missing_and_doubled, placement_groups, stuck
from tests.deaths.world import World, run_processes, toy, wait_until, world

JOBS = 30
STEPS = 300
SECONDS_BETWEEN_DEATHS = 20.0
# Nothing is killed any more in the last minutes: what has not ended then is stuck.
SECONDS_OF_DEATHS = 11 * 60.0
MOST_SECONDS = 15 * 60.0
# Ray's head takes all running jobs with it, and is long in coming back: now and then.
SECONDS_BETWEEN_HEADS = 180.0
VICTIMS = {"driver": 2, "controller": 1, "worker": 4, "API": 3, "dispatcher": 3, "Ray's head": 1}


class NotThereError(Exception):
    """What was to be killed is not there now."""


def main() -> int:
    """Run the soak; return the exit status."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--seed", type=int, default=None, help="of what dies when; default: drawn")
    seed = arguments.parse_args().seed
    seed = random.SystemRandom().randrange(10**6) if seed is None else seed
    print(f"seed {seed}", flush=True)
    with (
        tempfile.TemporaryDirectory(prefix="symadj-soak-") as folder,
        world(Path(folder)) as soaked,
    ):
        return _soak(soaked, random.Random(seed))


def _soak(soaked: World, chance: random.Random) -> int:
    # Two specs, so that all weights of a number of workers are to be the same.
    workers = [chance.choice([1, 1, 2]) for _ in range(JOBS)]
    changes = {"checkpoints": {"every_steps": 100}, "max_attempts": 100}
    job_ids = [soaked.submit(toy(STEPS, workers=count, **changes)) for count in workers]
    started = time.monotonic()
    deaths = Counter[str]()
    no_head_until = 0.0
    with soaked.client.patience(lambda _: None):
        while _waiting(soaked, job_ids) and time.monotonic() - started < MOST_SECONDS:
            time.sleep(SECONDS_BETWEEN_DEATHS)
            if time.monotonic() - started > SECONDS_OF_DEATHS:
                continue
            victim = _kill_something(
                soaked, chance, spared={"Ray's head"} if time.monotonic() < no_head_until else set()
            )
            if victim == "Ray's head":
                no_head_until = time.monotonic() + SECONDS_BETWEEN_HEADS
            deaths[victim] += 1
            left = len(_waiting(soaked, job_ids))
            print(f"{time.monotonic() - started:5.0f} s: {victim} killed; {left} jobs have not ended", flush=True)
        seconds = time.monotonic() - started
        _settle(soaked)
        jobs = [soaked.client.job(job_id) for job_id in job_ids]
        return _report(soaked, jobs, workers, deaths, seconds)


def _waiting(soaked: World, job_ids: list[str]) -> list[str]:
    return [job_id for job_id in job_ids if soaked.client.job(job_id).state not in TERMINAL]


def _kill_something(soaked: World, chance: random.Random, *, spared: set[str]) -> str:
    """Kill a part of those that are there now; return what it was."""
    kinds = {kind: weight for kind, weight in VICTIMS.items() if kind not in spared}
    while kinds:
        (kind,) = chance.choices(list(kinds), weights=list(kinds.values()))
        del kinds[kind]
        try:
            _victim(soaked, kind, chance).kill()
            return kind
        except (NotThereError, psutil.NoSuchProcess):
            continue
    return "nothing"


def _victim(soaked: World, kind: str, chance: random.Random) -> psutil.Process:
    children = psutil.Process(soaked.service.process.pid).children()
    words = {"API": "-m symadj.api", "dispatcher": "symadj.service.dispatcher", "Ray's head": "--temp-dir="}
    if kind in words:
        found = [child for child in children if words[kind] in " ".join(child.cmdline())]
        if kind == "Ray's head":
            found = [process for ray in found for process in ray.children() if process.name() == "gcs_server"]
    else:
        word = {
            "driver": "-m symadj.workers.run",
            "controller": "ray::TrainController",
            "worker": "ray::RayTrainWorker",
        }[kind]
        # A shell stands before the driver.
        runs = [process for process in run_processes(soaked.service.data) if process.name() != "sh"]
        found = [process for process in runs if word in " ".join(process.cmdline())]
    if not found:
        raise NotThereError(kind)
    return chance.choice(found)


def _settle(soaked: World) -> None:
    """Give what follows a job's end its time: processes end, spools are delivered."""
    spool = soaked.service.data / "spool"
    try:
        wait_until(lambda: not run_processes(soaked.service.data), "no process of a run is left")
        wait_until(lambda: not placement_groups(soaked), "no placement group is left")
        wait_until(lambda: not any(spool.iterdir()), "all spools are delivered")
    except AssertionError as error:
        print(error)


def _report(soaked: World, jobs: list[JobRead], workers: list[int], deaths: Counter[str], seconds: float) -> int:
    data = soaked.service.data
    url = Settings(data=data).resolved_store_url()
    lost, doubled, others = [], [], []
    weights: dict[int, Counter[str]] = {1: Counter(), 2: Counter()}
    for job, count in zip(jobs, workers, strict=True):
        if job.state in TERMINAL and job.state is not JobState.SUCCEEDED:
            lost.append(f"{job.id} is {job.state}: {job.failure and job.failure.message}\n{soaked.tale(job.id)}")
        if job.state is JobState.SUCCEEDED:
            weights[count][soaked.weights(job.id)] += 1
            for fault in missing_and_doubled(url, job.id, STEPS, count):
                (doubled if "doubled" in fault or "beyond" in fault else lost).append(f"{job.id}: {fault}")
        names = Counter(event.name for event in soaked.client.events(job.id).items)
        doubled += [f"{job.id}: succeeded {names['succeeded']} times"] if names["succeeded"] > 1 else []
    if len(soaked.client.jobs(limit=2 * JOBS).items) != JOBS:
        doubled.append("there are other jobs than those that were submitted")
    for kinds in weights.values():
        others += [f"{count} jobs have weights of their own" for _, count in kinds.most_common()[1:]]
    hung = stuck(url)
    hung += [f"process {process.pid} is left" for process in run_processes(data)]
    hung += [f"placement group {group} is left" for group in placement_groups(soaked)]
    hung += [f"{path} is left" for job in jobs for path in left_over_files(data, job.id)]
    hung += [f"{path} is left" for path in (data / "spool").iterdir()]

    print(f"{len(jobs)} jobs in {seconds:.0f} s, {sum(job.attempt for job in jobs)} attempts")
    print("deaths: " + ", ".join(f"{name} {count}" for name, count in deaths.most_common()))
    for name, faults in {"lost": lost, "doubled": doubled, "stuck": hung, "different weights": others}.items():
        print(f"{name}: {len(faults)}")
        for fault in faults:
            print(f"  {fault}")
    return 1 if lost or doubled or hung or others else 0


if __name__ == "__main__":
    sys.exit(main())
