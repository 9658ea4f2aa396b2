"""Answers that have not changed are not sent again."""

from __future__ import annotations

from collections.abc import Callable

import httpx
import pytest

from tests.api.conftest import NOW, Run, checkpoint
from tests.api.routes import Endpoint, endpoints

READS = [item for item in endpoints() if item.method == "GET" and item.path.startswith("/api/v1/jobs/{job_id}")]


@pytest.mark.parametrize("endpoint", READS, ids=str)
def test_a_read_of_a_job_is_answered_304_until_something_changes(
    new_run: Callable[..., Run], endpoint: Endpoint
) -> None:
    run = new_run()
    run.send({"kind": "step", "time": NOW, "step": 1, "metrics": {"loss": 1.0}}, checkpoint(1))
    path = endpoint.at(run.job_id)
    answer = run.api.get(path)
    if answer.headers["content-type"] != "application/json":
        return  # a file has its sum as ETag, and a stream has none
    etag = answer.headers["etag"]
    for given in (etag, f'"other", W/{etag}', "*"):
        unchanged = run.api.get(path, headers={"If-None-Match": given})
        assert (unchanged.status_code, unchanged.content, unchanged.headers["etag"]) == (304, b"", etag)
    assert run.api.get(path, headers={"If-None-Match": '"other"'}).content == answer.content
    assert run.api.head(path).headers["etag"] == etag


def test_a_job_and_the_list_are_sent_again_when_they_have_changed(run: Run, api: httpx.Client) -> None:
    for path in (f"/api/v1/jobs/{run.job_id}", "/api/v1/jobs"):
        headers = {"If-None-Match": api.get(path).headers["etag"]}
        assert api.get(path, headers=headers).status_code == 304
        api.patch(f"/api/v1/jobs/{run.job_id}", json={"name": f"name-{len(path)}"})
        assert api.get(path, headers=headers).status_code == 200
