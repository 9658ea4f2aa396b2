"""Trackers beside the cluster, by their profile."""

from __future__ import annotations

from pathlib import Path

from tests.cluster.cluster import Cluster
from tests.cluster.test_deaths import spec
from tests.service.test_sinks import scalars

SINKS = ("--profile", "sinks")
STEPS = 40


def test_a_runs_metrics_are_in_tensorboards_files_on_the_shared_volume(cluster: Cluster, tmp_path: Path) -> None:
    cluster.run(*SINKS, "up", "--detach", "--scale", "worker=2")
    job_id = cluster.submit(spec(stop={"kind": "steps", "max_steps": STEPS}))
    cluster.wait_for_state(job_id, "succeeded")
    (feeder,) = cluster.run(*SINKS, "ps", "-q", "sinks").split()

    def fed() -> bool:
        cluster.docker("cp", f"{feeder}:/var/lib/symadj/tensorboard/{job_id}", str(tmp_path), check=False)
        return len(scalars(tmp_path / job_id, "loss")) == STEPS

    cluster.wait_until("TensorBoard has every step's loss", fed, 60)
    points = cluster.request("GET", f"/api/v1/jobs/{job_id}/metrics/loss")["points"]
    assert [step for step, _ in scalars(tmp_path / job_id, "loss")] == [point["step"] for point in points]
    cluster.run(*SINKS, "rm", "--stop", "--force", "sinks")
