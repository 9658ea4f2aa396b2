"""Prometheus beside the cluster, by its profile."""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import quote

from tests.cluster.cluster import Cluster
from tests.cluster.test_deaths import spec

PROMETHEUS = ("--profile", "prometheus")


def ask(cluster: Cluster, query: str) -> list[dict[str, Any]]:
    """Ask Prometheus, whose port is not published, from within a container beside it."""
    (api,) = cluster.containers("api")
    url = f"http://prometheus:9090/api/v1/query?query={quote(query)}"
    answer = cluster.docker(
        "exec",
        api,
        "python",
        "-c",
        f"import urllib.request as u; print(u.urlopen('{url}').read().decode())",
        check=False,
    )
    found: list[dict[str, Any]] = json.loads(answer)["data"]["result"] if answer.startswith("{") else []
    return found


def test_prometheus_draws_a_job_while_it_runs(cluster: Cluster) -> None:
    cluster.run(*PROMETHEUS, "up", "--detach", "--scale", "worker=2")
    job_id = cluster.submit(spec(stop={"kind": "steps", "max_steps": 100_000}))
    cluster.wait_for_step(job_id, 1)
    # It looks every 15 s.
    (loss,) = cluster.wait_until("Prometheus knows the loss", lambda: ask(cluster, "symadj_job_metric{metric='loss'}"))
    assert (loss["metric"]["job_id"], float(loss["value"][1]) > 0) == (job_id, True)
    (step,) = ask(cluster, "symadj_job_step")
    assert (step["metric"]["job_id"], int(step["value"][1]) >= 1) == (job_id, True)
    (peak,) = cluster.wait_until("and its peak of memory", lambda: ask(cluster, "symadj_job_host_peak_bytes"))
    # It grows still, and the API has it first.
    assert 100e6 < float(peak["value"][1]) <= cluster.job(job_id)["progress"]["host_peak_bytes"]
    cluster.request("POST", f"/api/v1/jobs/{job_id}/cancel")
    cluster.wait_for_state(job_id, "cancelled")
    cluster.run(*PROMETHEUS, "rm", "--stop", "--force", "prometheus")
