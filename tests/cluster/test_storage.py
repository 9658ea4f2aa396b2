"""A bucket in the place of the shared volume, for the jobs' files and for data."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator

import numpy as np
import pytest

from symadj.service.contract.storage import open_storage
from tests.buckets import BucketServer
from tests.cluster.cluster import Cluster
from tests.cluster.test_deaths import assert_whole, resumed_from, spec


@pytest.fixture
def server(cluster: Cluster) -> Iterator[BucketServer]:
    """An S3-compatible server at this machine's address in the containers' network, where they reach it."""
    gateway = cluster.docker(
        "network", "inspect", "--format", "{{(index .IPAM.Config 0).Gateway}}", f"{cluster.project}_default"
    )
    with pytest.MonkeyPatch.context() as environment:
        server = BucketServer(environment, gateway)
        yield server
        server.stop()


def test_data_checkpoints_and_weights_lie_in_a_bucket_and_a_killed_worker_goes_on_from_there(
    cluster: Cluster, server: BucketServer
) -> None:
    place, roots = server.new_bucket(), server.new_bucket()
    rows = io.BytesIO()
    np.save(rows, np.random.default_rng(0).standard_normal((4000, 3)))
    open_storage(roots).write("rows.npy", rows.getvalue())
    # The keys go on from the environment of `docker compose up`, as a user's would.
    cluster.up(workers=2, SYMADJ_STORAGE=place, SYMADJ_DATA_ROOTS=f"/data:{roots}")
    cluster.say(f"up with {place}")
    data = {"kind": "file", "path": "rows.npy", "batch_size": 500}
    undisturbed = cluster.submit(spec(data=data))
    cluster.wait_for_state(undisturbed, "succeeded")
    disturbed = cluster.submit(spec(data=data))
    cluster.wait_for_step(disturbed, 120)
    cluster.kill(cluster.containers("worker")[1])
    cluster.say("a worker container was killed")
    cluster.wait_for_state(disturbed, "succeeded")
    assert (resumed_from(cluster, disturbed, cluster.job(disturbed)["attempt"]) or 0) >= 100
    for job_id in (undisturbed, disturbed):
        assert_whole(cluster, job_id)
    assert cluster.weights(disturbed) == cluster.weights(undisturbed)
    assert sorted(open_storage(place).sizes()) == sorted([undisturbed, disturbed])
    assert os.environ["AWS_SECRET_ACCESS_KEY"] not in cluster.run("logs", "--no-color")
    cluster.up(workers=2)
