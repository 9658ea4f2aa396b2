"""Ray dies, in whole or in part."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.deaths.aftermath import check_aftermath
from tests.deaths.cluster import Cluster, two_nodes
from tests.deaths.conftest import STEPS, Measure
from tests.deaths.world import World, now, toy, wait_until, world

pytestmark = [pytest.mark.ray, pytest.mark.deaths]


def test_a_job_outlives_rays_head(shared: World, undisturbed: str, measure: Measure) -> None:
    job_id = shared.submit(toy(STEPS))
    shared.at_step(job_id, 500)
    (head,) = [
        p for p in psutil.Process(shared.service.child("--temp-dir=").pid).children() if p.name() == "gcs_server"
    ]
    died_at = now()
    head.kill()
    seconds = shared.recovered(job_id, died_at, attempt=2)
    weights = check_aftermath(shared, job_id, weights=undisturbed, attempts=2)
    followed = "Ray is started again; attempt 2 goes on from the last checkpoint"
    measure("kill -9 of Ray's head (gcs_server)", followed, seconds, weights)
    assert shared.client.attempts(job_id).items[0].reason == "cluster_lost"


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """Two nodes for the tests of this module."""
    with two_nodes() as running:
        yield running


@pytest.fixture(scope="module")
def on_two_nodes(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """A service that uses them."""
    data: Path = tmp_path_factory.mktemp("two-nodes")
    with world(data, options=("--ray-address", cluster.url), SYMADJ_RAY_TOKEN=cluster.token) as running:
        yield running


def test_a_job_waits_for_a_node_that_comes_back(
    on_two_nodes: World, cluster: Cluster, undisturbed: str, measure: Measure
) -> None:
    job_id = on_two_nodes.submit(toy(STEPS))
    on_two_nodes.at_step(job_id, 500)
    died_at = now()
    cluster.kill_second()
    on_two_nodes.follow(job_id, lambda job: job.attempts_lost == 1)
    lost = (now() - died_at).total_seconds()
    cluster.start_second()
    back_at = now()
    seconds = on_two_nodes.recovered(job_id, back_at, attempt=2)
    followed = f"noticed after {lost:.1f} s; two workers again (seconds: from the start of the new node)"
    weights = check_aftermath(on_two_nodes, job_id, weights=undisturbed)
    assert on_two_nodes.client.job(job_id).attempts_lost == 1
    measure("kill -9 of a node, and it comes back", followed, seconds, weights)


def test_a_node_that_is_drained_costs_no_step_and_no_attempt(on_two_nodes: World, cluster: Cluster) -> None:
    spec = toy(STEPS, resources={"kind": "cpu", "workers": 2, "min_workers": 1}, checkpoints={"every_steps": 100_000})
    job_id = on_two_nodes.submit(spec)
    on_two_nodes.at_step(job_id, 100)
    cluster.stop_second()
    on_two_nodes.ended(job_id)
    first, *_, last = on_two_nodes.client.attempts(job_id).items
    assert (first.outcome, first.reason) == ("stopped", "node_drained"), on_two_nodes.tale(job_id)
    stopped = [item for item in on_two_nodes.client.events(job_id).items if item.name == "attempt_stopped"]
    assert [item.data["step"] for item in stopped] == [last.resumed_from_step]
    assert (last.workers, on_two_nodes.client.job(job_id).attempts_lost) == (1, 0)
    check_aftermath(on_two_nodes, job_id, workers=1)
    cluster.start_second()
    wait_until(lambda: cluster.nodes() == 2, "the second node is back")


def test_an_elastic_job_goes_on_with_the_workers_that_are_left(
    on_two_nodes: World, cluster: Cluster, measure: Measure
) -> None:
    job_id = on_two_nodes.submit(toy(STEPS, resources={"kind": "cpu", "workers": 2, "min_workers": 1}))
    on_two_nodes.at_step(job_id, 500)
    died_at = now()
    cluster.kill_second()
    seconds = on_two_nodes.recovered(job_id, died_at, attempt=2)
    # Rank 1 was last measured in the steps before its death; the steps after the checkpoint have one rank.
    weights = check_aftermath(on_two_nodes, job_id, workers=1)
    measure(
        "kill -9 of a node under an elastic job",
        "the next attempt has one worker, whose sums are others",
        seconds,
        weights,
    )
    tried = on_two_nodes.client.attempts(job_id).items
    assert (tried[0].workers, tried[0].outcome) == (2, "lost")
    assert (tried[-1].workers, tried[-1].outcome) == (1, "succeeded")
    # Ray may take the dead node for alive for some seconds; what it is given meanwhile is put back.
    assert {(item.workers, item.outcome) for item in tried[1:-1]} <= {(2, "not_started")}
    assert on_two_nodes.client.job(job_id).attempts_lost == 1
