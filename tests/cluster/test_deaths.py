"""What a team relies on when containers die: on a real engine, with real deaths.

The tests share one cluster and run in the order in which they stand.
"""

from __future__ import annotations

import time
from typing import Any

from tests.cluster.cluster import Cluster

STEPS = 400


def spec(**changes: Any) -> dict[str, Any]:
    """Return a job of two workers with one CPU each, so one in each container."""
    return {
        "name": "across two hosts",
        "data": {"kind": "builtin", "name": "flow_cytometry", "batch_size": 500},
        "flow": {"kind": "cnf", "blocks": 2, "field": {"kind": "mlp", "hidden": [64, 64]}},
        "solver": {"kind": "adaptive", "method": "dopri5", "rtol": 1e-3, "atol": 1e-4},
        "checkpoints": {"every_steps": 50},
        "stop": {"kind": "steps", "max_steps": STEPS},
        "evaluation": None,
        "resources": {"kind": "cpu", "workers": 2},
    } | changes


def assert_whole(cluster: Cluster, job_id: str) -> None:
    """Assert that a job succeeded with every step in the store, once."""
    job = cluster.job(job_id)
    assert job["state"] == "succeeded", job["failure"]
    assert sorted(cluster.steps(job_id)) == list(range(1, job["progress"]["max_steps"] + 1))


def resumed_from(cluster: Cluster, job_id: str, attempt: int) -> int | None:
    (found,) = (a["resumed_from_step"] for a in cluster.attempts(job_id) if a["number"] == attempt)
    step: int | None = found
    return step


def assert_stopped(cluster: Cluster, job_id: str, reason: str) -> None:
    """Assert that the first attempt was stopped, not lost, and that the last went on from its last step."""
    first = cluster.attempts(job_id)[0]
    assert (first["outcome"], first["reason"]) == ("stopped", reason)
    assert cluster.job(job_id)["attempts_lost"] == 0
    (stopped,) = (event for event in cluster.events(job_id) if event["name"] == "attempt_stopped")
    assert resumed_from(cluster, job_id, cluster.job(job_id)["attempt"]) == stopped["data"]["step"]


def test_one_up_and_one_submit_train_across_two_containers(cluster: Cluster) -> None:
    job_id = cluster.submit(spec(stop={"kind": "steps", "max_steps": 40}))
    cluster.wait_for_step(job_id, 1)
    cluster.wait_for_state(job_id, "succeeded")
    assert_whole(cluster, job_id)
    # Every rank wrote its log in the container that it ran in.
    for container in cluster.containers("worker"):
        logs = cluster.docker("exec", container, "sh", "-c", "ls /tmp/ray/session_latest/logs/train | wc -l")
        assert int(logs) > 0


def test_no_service_but_the_api_can_be_reached_from_outside(cluster: Cluster) -> None:
    published = cluster.docker(
        "ps", "--filter", f"label=com.docker.compose.project={cluster.project}", "--format", "{{.Ports}}"
    )
    assert [line for line in published.splitlines() if "->" in line] == ["127.0.0.1:18000->8000/tcp"]


def test_the_api_runs_without_torch_and_ray_and_nobody_is_root(cluster: Cluster) -> None:
    (api,) = cluster.containers("api")
    loaded = cluster.docker("exec", api, "sh", "-c", "cat /proc/[0-9]*/maps | grep -cE 'torch|ray/_raylet' || true")
    assert loaded == "0"
    for service in ("api", "dispatcher", "head", "worker"):
        for container in cluster.containers(service):
            assert cluster.docker("exec", container, "id", "-u") == "10001"


def test_ray_answers_nobody_without_its_token(cluster: Cluster) -> None:
    (head,) = cluster.containers("head")
    ask = "import urllib.request as u; u.urlopen('http://localhost:8265/api/jobs/')"
    assert "401" in cluster.docker("exec", head, "sh", "-c", f'python -c "{ask}" 2>&1 || true').splitlines()[-1]


def test_a_killed_worker_container_costs_the_steps_since_the_last_checkpoint(cluster: Cluster) -> None:
    job_id = cluster.submit(spec())
    cluster.wait_for_step(job_id, 120)
    cluster.kill(cluster.containers("worker")[1])
    cluster.say("a worker container was killed")
    cluster.wait_until("attempt 2", lambda: cluster.job(job_id)["attempt"] == 2)
    cluster.wait_until("resumed", lambda: resumed_from(cluster, job_id, 2))
    cluster.wait_for_state(job_id, "succeeded")
    assert cluster.attempts(job_id)[0]["reason"] in {"worker_lost", "cluster_lost"}
    assert (resumed_from(cluster, job_id, 2) or 0) >= 100
    assert_whole(cluster, job_id)


def test_a_stopped_worker_container_costs_no_step_and_no_attempt(cluster: Cluster) -> None:
    job_id = cluster.submit(spec(checkpoints={"every_steps": 100_000}))
    cluster.wait_for_step(job_id, 60)
    cluster.docker("stop", "--time", "45", cluster.containers("worker")[1])
    cluster.say("a worker container was stopped")
    cluster.up(workers=2)
    cluster.wait_for_state(job_id, "succeeded")
    assert_stopped(cluster, job_id, "node_drained")
    assert_whole(cluster, job_id)


def test_deaths_of_api_dispatcher_and_postgresql_do_not_disturb_training(cluster: Cluster) -> None:
    job_id = cluster.submit(spec())
    cluster.wait_for_step(job_id, 40)
    for service in ("api", "dispatcher", "postgres"):
        (container,) = cluster.containers(service)
        before = cluster.started_at(container)
        cluster.kill(container)
        cluster.say(f"{service} was killed")
        cluster.wait_until(
            f"{service} started again",
            lambda c=container, b=before: cluster.started_at(c) != b,  # type: ignore[misc]
        )
        cluster.wait_until("the API answers", lambda: cluster.job(job_id))
    cluster.wait_for_state(job_id, "succeeded")
    assert cluster.job(job_id)["attempt"] == 1
    assert_whole(cluster, job_id)


def test_a_killed_head_costs_an_attempt_and_not_the_job(cluster: Cluster) -> None:
    job_id = cluster.submit(spec())
    cluster.wait_for_step(job_id, 120)
    cluster.kill(cluster.containers("head")[0])
    cluster.say("the head was killed")
    cluster.wait_until("attempt 2", lambda: cluster.job(job_id)["attempt"] == 2)
    cluster.wait_for_state(job_id, "succeeded")
    assert (resumed_from(cluster, job_id, cluster.job(job_id)["attempt"]) or 0) >= 100
    assert_whole(cluster, job_id)


def test_a_worker_host_cut_off_for_30_seconds_corrupts_nothing(cluster: Cluster) -> None:
    job_id = cluster.submit(spec())
    cluster.wait_for_step(job_id, 120)
    container = cluster.containers("worker")[0]
    network = f"{cluster.project}_default"
    cluster.docker("network", "disconnect", network, container)
    cluster.say("a worker host was cut off")
    time.sleep(30)  # the length of the cut is what the test is about
    cluster.docker("network", "connect", network, container)
    cluster.say("it was connected again")
    cluster.wait_for_state(job_id, "succeeded")
    assert_whole(cluster, job_id)


def test_down_and_up_keep_jobs_metrics_and_artifacts_and_a_job_goes_on_from_its_last_step(cluster: Cluster) -> None:
    ended = cluster.request("GET", "/api/v1/jobs?state=succeeded")["items"][0]["id"]
    steps = cluster.steps(ended)
    job_id = cluster.submit(spec(checkpoints={"every_steps": 100_000}))
    cluster.wait_for_step(job_id, 120)
    cluster.run("down")
    cluster.say("down")
    cluster.up(workers=2)
    cluster.say("up")
    assert cluster.steps(ended) == steps
    names = [item["name"] for item in cluster.request("GET", f"/api/v1/jobs/{ended}/artifacts")["items"]]
    assert "weights.safetensors" in names
    cluster.wait_for_state(job_id, "succeeded")
    assert_stopped(cluster, job_id, "service_stopped")
    assert_whole(cluster, job_id)
