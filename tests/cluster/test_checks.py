"""What is said of a spec on a cluster before its turn comes, by a look at the data on a worker's node."""

from __future__ import annotations

import json

from tests.cluster.cluster import Cluster
from tests.cluster.test_deaths import spec

NOT_THERE = {"kind": "file", "path": "absent.csv", "batch_size": 10}
WRONG_COLUMN = {"kind": "file", "path": "cells.csv", "columns": ["a", "c"], "batch_size": 10}


def test_a_wrong_column_is_found_out_on_a_workers_node_while_the_queue_is_full(cluster: Cluster) -> None:
    rows = "a,b\n" + "".join(f"{row},{row * row % 7}\n" for row in range(500))
    volume = f"{cluster.project}_datasets:/data"
    write = ["--user", "0", "--entrypoint", "sh", "--volume", volume, "symadj:local"]
    cluster.docker("run", "--rm", *write, "-c", f"printf '{rows}' >/data/cells.csv".replace("\n", "\\n"))
    busy = cluster.submit(spec(stop={"kind": "steps", "max_steps": 100_000}))
    cluster.wait_for_step(busy, 1)

    cluster.say("every worker has a rank: the checks begin")
    dry = cluster.request("POST", "/api/v1/jobs?dry_run=true", json=spec(data=WRONG_COLUMN))["findings"]
    cluster.say(f"a wrong column: {json.dumps(dry)}")
    (found,) = [item for item in dry if item["pointer"].startswith("/data")]
    assert (found["pointer"], found["severity"]) == ("/data/columns", "error")
    assert "'c'" in found["detail"]
    right = spec(data=WRONG_COLUMN | {"columns": ["a", "b"]})
    assert cluster.request("POST", "/api/v1/jobs?dry_run=true", json=right)["findings"] == []
    cluster.say("the right columns")
    looks = [
        cluster.docker(
            "exec", container, "sh", "-c", "ls /tmp/ray/session_latest/logs | grep -c -- '-check.log' || true"
        )
        for container in cluster.containers("worker")
    ]
    assert sum(map(int, looks)) == 2, "on nodes for workers"

    told = cluster.request("POST", "/api/v1/jobs", json=spec(data=NOT_THERE))
    assert [item["pointer"] for item in told["findings"]] == ["/data/path"], "without waiting for a look"
    assert cluster.job(busy)["state"] == "running"
