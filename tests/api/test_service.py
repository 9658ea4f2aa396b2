"""Health, documentation, figures for Prometheus, data sets."""

from __future__ import annotations

import resource
import shutil
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest
import sqlalchemy as sa
from typer.testing import CliRunner

from symadj.api.cli import main
from symadj.service import usage
from symadj.service.contract.records import StepRecord
from symadj.service.settings import Settings
from symadj.workers.delivery.sender import Sender
from symadj.workers.delivery.spool import Spool
from tests.api.conftest import runs_of
from tests.conftest import ApiServer, running_api


def test_without_ray_the_api_is_ready_for_requests_and_says_what_is_missing(api: httpx.Client) -> None:
    assert api.get("/healthz").json()["status"] == "ok"
    readiness = api.get("/readyz")
    assert readiness.status_code == 200
    assert readiness.json()["store"] == "ok"
    assert "does not answer" in readiness.json()["ray"], "no Ray runs beside this API"
    assert "127.0.0.1" not in readiness.text, "where Ray is concerns nobody who may ask here"


@pytest.fixture(scope="module")
def confined(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApiServer]:
    """An API whose disk is full while a test says so."""
    with running_api(tmp_path_factory.mktemp("confined")) as server:
        yield server


def test_readiness_says_when_the_store_answers_and_stores_nothing(confined: ApiServer) -> None:
    with httpx.Client(base_url=confined.url, timeout=60) as api:
        assert api.get("/readyz").json()["store"] == "ok"
        # No file of the process may grow: to SQLite it is as a full disk.
        limits = resource.prlimit(confined.process.pid, resource.RLIMIT_FSIZE, (1, resource.RLIM_INFINITY))
        readiness = api.get("/readyz")
        assert readiness.status_code == 503
        assert "the database answers and stores nothing" in readiness.json()["store"]
        assert api.get("/healthz").status_code == 200
        assert api.get("/api/v1/jobs").status_code == 200
        resource.prlimit(confined.process.pid, resource.RLIMIT_FSIZE, limits)
        assert api.get("/readyz").json()["store"] == "ok"


def test_while_the_stores_disk_is_full_a_run_goes_on_and_what_its_spool_takes_is_stored_later(
    confined: ApiServer, tmp_path: Path
) -> None:
    with httpx.Client(base_url=confined.url, timeout=60) as api, runs_of(confined, api) as new_run:
        run = new_run()
        with closing(Sender(Spool(tmp_path / "rank-0.jsonl"), confined.url, run.token, "rank-0")) as sender:
            limits = resource.prlimit(confined.process.pid, resource.RLIMIT_FSIZE, (1, resource.RLIM_INFINITY))
            for number in range(1, 51):
                sender.put(StepRecord(time=datetime.now(UTC), step=number, metrics={"loss": float(number)}))
            assert not sender.flush(0.3), "the store took records without room"
            sender.raise_if_stopped()
            resource.prlimit(confined.process.pid, resource.RLIMIT_FSIZE, limits)
            assert sender.flush(60)
        points = run.get("/metrics/loss").json()["points"]
        assert [point["step"] for point in points] == [*range(1, 51)]


def test_prometheus_is_told_how_full_the_disk_of_each_folder_is(api_server: ApiServer, api: httpx.Client) -> None:
    lines = api.get("/metrics").text.splitlines()
    told = dict(line.rsplit(" ", 1) for line in lines if line.startswith("symadj_disk_"))
    total = shutil.disk_usage(api_server.data).total
    for folder in usage.folders(Settings(data=api_server.data)):
        assert float(told[f'symadj_disk_bytes{{folder="{folder}"}}']) == total
        assert 0 < float(told[f'symadj_disk_free_bytes{{folder="{folder}"}}']) < total


@pytest.mark.parametrize("backend", ["postgresql"])
def test_readiness_says_when_the_database_may_only_be_read(store_url: str, tmp_path: Path) -> None:
    only_read = sa.make_url(store_url).update_query_dict({"options": "-c default_transaction_read_only=on"})
    url = only_read.render_as_string(hide_password=False)
    with running_api(tmp_path, SYMADJ_STORE_URL=url) as server, httpx.Client(base_url=server.url, timeout=60) as api:
        readiness = api.get("/readyz")
        assert readiness.status_code == 503
        assert "stores nothing" in readiness.json()["store"]
        assert api.get("/api/v1/jobs").status_code == 200


def test_the_api_describes_itself_with_its_problems(api: httpx.Client) -> None:
    document = api.get("/openapi.json").json()
    assert {"Problem", "FieldError", "JobSpec"} <= document["components"]["schemas"].keys()
    assert "HTTPValidationError" not in str(document)
    for path, operations in document["paths"].items():
        if path.startswith("/api/v1/"):
            for operation in operations.values():
                for status in ("405", "422", "503"):
                    assert list(operation["responses"][status]["content"]) == ["application/problem+json"]
    assert api.get("/docs").status_code == 200


def test_prometheus_reads_jobs_by_state_and_requests(api: httpx.Client) -> None:
    api.get("/api/v1/nothing/here")
    text = api.get("/metrics").text
    assert 'symadj_jobs{state="running"} ' in text
    assert 'symadj_http_requests_total{method="GET",route="none",status="404"}' in text


def test_the_data_sets_are_listed_with_their_references(api: httpx.Client) -> None:
    items = {item["name"]: item for item in api.get("/api/v1/datasets").json()["items"]}
    assert (items["flow_cytometry"]["rows"], items["flow_cytometry"]["dim"]) == (110_000, 10)
    assert items["flow_cytometry"]["reference_test_nll"]["gaussian_mixture_10"] == 3.48


def test_the_command_line_lists_the_data_sets(api_server: ApiServer) -> None:
    shown = CliRunner().invoke(main.app, ["datasets"], env={"SYMADJ_URL": api_server.url}).output
    (line,) = [line for line in shown.splitlines() if "flow_cytometry" in line]
    assert line.split()[:4] == ["builtin", "flow_cytometry", "110,000", "10"]


@pytest.mark.slow
def test_jobs_outlive_a_killed_api(tmp_path: Path) -> None:
    with running_api(tmp_path) as first:
        job = httpx.post(f"{first.url}/api/v1/jobs", json={"data": {"kind": "toy", "name": "moons"}}).json()
        del job["findings"]
    with running_api(tmp_path) as second:
        assert httpx.get(f"{second.url}/api/v1/jobs/{job['id']}").json() == job


def test_the_api_process_loads_neither_torch_nor_ray(api_server: ApiServer, api: httpx.Client) -> None:
    for path in ("/api/v1/jobs", "/api/v1/datasets", "/metrics", "/readyz", "/openapi.json"):
        api.get(path)
    mapped = Path(f"/proc/{api_server.process.pid}/maps").read_text()
    assert "pydantic_core" in mapped, "the list names what the process has loaded"
    for library in ("libtorch", "_raylet"):
        assert library not in mapped


def test_what_tells_the_kinds_of_a_union_apart_is_required_where_the_interface_says_so(api: httpx.Client) -> None:
    """As OpenAPI asks for: else a document without it fits the schema and is refused, or the reverse."""
    schemas = api.get("/openapi.json").json()["components"]["schemas"]
    told_apart = 0
    for part in parts_of(schemas):
        if "oneOf" in part and "discriminator" in part:
            told_apart += 1
            for member in part["oneOf"]:
                section = schemas[member["$ref"].rpartition("/")[2]]
                assert part["discriminator"]["propertyName"] in section["required"], member
    assert told_apart, "of data, transforms and records, at least"


def test_names_that_would_be_refused_are_none_that_the_schema_takes(api: httpx.Client) -> None:
    mappings = [part for part in parts_of(api.get("/openapi.json").json()) if "patternProperties" in part]
    assert mappings, "labels and metrics, at least"
    assert all(part["additionalProperties"] is False for part in mappings)


def test_a_body_of_json_has_a_schema_by_whatever_name_of_json_it_is_sent(api: httpx.Client) -> None:
    bodies = [part["content"] for part in parts_of(api.get("/openapi.json").json()) if "content" in part]
    of_json = [media for content in bodies for name, media in content.items() if name.endswith("json")]
    assert any("application/merge-patch+json" in content for content in bodies)
    assert all("schema" in media for media in of_json)


def test_of_kinds_that_may_be_left_out_the_schema_asks_for_no_single_one(api: httpx.Client) -> None:
    document = api.get("/openapi.json").json()
    schemas = document["components"]["schemas"]
    for part in parts_of(document):
        sections = [schemas[member["$ref"].rpartition("/")[2]] for member in part.get("oneOf", ()) if "$ref" in member]
        without = [one for one in sections if "kind" in one["properties"] and "kind" not in one.get("required", ())]
        assert len(without) <= 1, part


def parts_of(document: Any) -> Iterator[dict[str, Any]]:
    waiting = [document]
    while waiting:
        part = waiting.pop()
        if isinstance(part, dict):
            yield part
        if isinstance(part, dict | list):
            waiting += part.values() if isinstance(part, dict) else part
