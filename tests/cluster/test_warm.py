"""Warm starts in containers: a run's processes on a node are copies of one there that has imported what they need."""

from __future__ import annotations

import statistics
import time

from tests.cluster.cluster import Cluster
from tests.cluster.test_deaths import spec

SUBMITS = 3
# Prints the id of the process that runs are copies of, and how many of its copies are ranks.
TEMPLATE = """
import psutil
for process in psutil.process_iter():
    if "symadj.workers.warm.template" in process.cmdline():
        print(process.pid, sum("RayTrainWorker" in " ".join(copy.cmdline()) for copy in process.children()))
"""


def template(cluster: Cluster, container: str) -> tuple[int, int] | None:
    """Return what ``TEMPLATE`` prints in a container, None where there is none."""
    said = cluster.docker("exec", container, "python", "-c", TEMPLATE).split()
    return (int(said[0]), int(said[1])) if said else None


def seconds_to_the_first_step(cluster: Cluster) -> tuple[float, str]:
    """Return the median of some submits, one after the other, and the id of the last job."""
    seconds = []
    for _ in range(SUBMITS):
        began = time.monotonic()
        job_id = cluster.submit(spec(stop={"kind": "steps", "max_steps": 20}))
        cluster.wait_for_step(job_id, 1)
        seconds.append(time.monotonic() - began)
        cluster.wait_for_state(job_id, "succeeded")
    return statistics.median(seconds), job_id


def test_runs_start_warm_in_containers_and_train_the_same_weights_as_cold_ones(cluster: Cluster) -> None:
    cluster.up(workers=2, SYMADJ_WARM_RUNS="0")
    assert [template(cluster, container) for container in cluster.containers("worker")] == [None, None]
    cold, cold_job = seconds_to_the_first_step(cluster)
    cluster.up(workers=2)
    nodes = [*cluster.containers("head"), *cluster.containers("worker")]
    cluster.wait_until("a process to copy on each node", lambda: all(template(cluster, node) for node in nodes))
    warm, warm_job = seconds_to_the_first_step(cluster)
    cluster.say(f"submit to the first step, medians of {SUBMITS}: cold {cold:.1f} s, warm {warm:.1f} s")
    assert cluster.weights(warm_job) == cluster.weights(cold_job)


def test_the_death_of_what_runs_are_copied_from_costs_no_run_and_it_is_there_again(cluster: Cluster) -> None:
    node, other = cluster.containers("worker")
    cluster.wait_until("a process to copy", lambda: template(cluster, node) and template(cluster, other))
    job_id = cluster.submit(spec(stop={"kind": "steps", "max_steps": 300}))
    cluster.wait_for_step(job_id, 20)
    before = template(cluster, node)
    assert before is not None
    assert before[1] == 1, "its rank is a copy"
    cluster.docker("exec", node, "sh", "-c", f"kill -9 {before[0]}")
    cluster.wait_until(
        "another process to copy", lambda: (now := template(cluster, node)) is not None and now[0] != before[0]
    )
    cluster.wait_for_state(job_id, "succeeded")
    assert len(cluster.attempts(job_id)) == 1
