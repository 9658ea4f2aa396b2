"""Metrics, memory and artifacts over HTTP: sent as a worker sends them, read as a user reads them."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable
from datetime import timedelta
from typing import Any

from typer.testing import CliRunner

from symadj.api.cli import main
from symadj.service.store import jobs, retention
from tests.api.conftest import NOW, Run
from tests.command import symadj
from tests.service.lives import plan


def step(number: int, **metrics: Any) -> dict[str, Any]:
    return {"kind": "step", "time": NOW, "step": number, "metrics": {"loss": float(number)} | metrics}


def memory(number: int, rank: int, phase: str, idle: int, peak: int) -> dict[str, Any]:
    record = {"kind": "memory", "time": NOW, "step": number, "rank": rank, "phase": phase, "host_idle_bytes": idle}
    return record | {"host_peak_bytes": peak, "device_idle_bytes": None, "device_peak_bytes": None}


def test_polling_by_after_seq_sees_every_value_once(run: Run) -> None:
    run.send(*(step(number) for number in range(1, 8)))
    seen, after_seq = [], 0
    while True:
        page = run.get("/metrics/loss", params={"after_seq": after_seq, "limit": 3}).json()
        if not page["points"]:
            break
        seen += [(point["step"], point["value"]) for point in page["points"]]
        after_seq = page["next_after_seq"]
    assert seen == [(number, float(number)) for number in range(1, 8)]


def test_the_names_of_metrics_come_with_their_newest_values(run: Run) -> None:
    run.send(step(1, nfe_forward=14.0), step(2, nfe_forward=20.0))
    items = {
        item["name"]: (item["points"], item["last_step"], item["last_value"])
        for item in run.get("/metrics").json()["items"]
    }
    assert items == {"loss": (2, 2, 2.0), "nfe_forward": (2, 2, 20.0)}
    progress = run.get("").json()["progress"]
    assert (progress["step"], progress["latest"]) == (2, {"loss": 2.0, "nfe_forward": 20.0})


def test_prometheus_reads_how_far_an_active_job_is_and_forgets_it_at_its_end(run: Run) -> None:
    run.send(step(1), step(2, validation_nll="nan"), memory(2, 0, "backward", 100, 250))
    text = run.api.get("/metrics").text
    assert f'symadj_job_step{{job_id="{run.job_id}"}} 2.0' in text
    assert f'symadj_job_metric{{job_id="{run.job_id}",metric="loss"}} 2.0' in text
    assert f'symadj_job_metric{{job_id="{run.job_id}",metric="validation_nll"}} NaN' in text
    assert f'symadj_job_attempts_lost{{job_id="{run.job_id}"}} 0.0' in text
    assert f'symadj_job_host_peak_bytes{{job_id="{run.job_id}"}} 250.0' in text
    assert f'symadj_job_device_peak_bytes{{job_id="{run.job_id}"}}' not in text, "there is none"
    run.end("succeeded", result={})
    assert run.job_id not in run.api.get("/metrics").text


def test_a_job_shows_its_plan_beside_what_was_measured_and_prometheus_how_far_it_is_off(run: Run) -> None:
    assert run.get("").json()["plan"] is None
    run.send({"kind": "plan", "time": NOW, "plan": plan().stored()})
    assert run.get("").json()["plan"]["planned_bytes"] is None, "how many steps a solve takes is not known yet"
    run.send(step(1, steps_accepted=40.0), memory(1, 0, "backward", 900, 1120))
    read = run.get("").json()["plan"]
    assert (read["steps"], read["planned_bytes"], read["measured_bytes"], read["error"]) == (40.0, 1400, 1120, 0.25)
    text = run.api.get("/metrics").text
    assert f'symadj_job_planned_bytes{{job_id="{run.job_id}"}} 1400.0' in text
    assert f'symadj_job_plan_error_ratio{{job_id="{run.job_id}"}} 0.25' in text
    shown = CliRunner().invoke(main.app, ["show", run.job_id, "--url", run.server.url]).stdout
    assert "for 40 steps of a block: 1.4 KiB in the pass backward through block 0; measured 1.1 KiB" in shown
    assert "(the plan is off by +25.0%)" in shown


def test_an_unchanged_series_answers_304(run: Run) -> None:
    run.send(step(1))
    etag = run.get("/metrics/loss").headers["etag"]
    assert run.get("/metrics/loss", headers={"If-None-Match": etag}).status_code == 304
    run.send(step(2))
    assert run.get("/metrics/loss", headers={"If-None-Match": etag}).status_code == 200


def test_a_waiting_request_is_answered_when_a_value_comes(run: Run) -> None:
    sender = threading.Timer(0.3, run.send, [step(1)])
    sender.start()
    answer = run.get("/metrics/loss", params={"wait": 20}).json()
    sender.join()
    assert [point["step"] for point in answer["points"]] == [1]


def test_a_series_is_downsampled_to_as_many_buckets_as_asked_for(run: Run) -> None:
    run.send(*(step(number) for number in range(1, 101)))
    answer = run.get("/metrics/loss", params={"points": 10}).json()
    assert [(b["first_step"], b["last_step"], b["mean"]) for b in answer["buckets"]][:2] == [
        (1, 10, 5.5),
        (11, 20, 15.5),
    ]
    assert len(answer["buckets"]) == 10
    assert answer["points"] == []


def test_numbers_that_json_does_not_have_travel_as_strings(run: Run) -> None:
    run.send(step(1, loss="NaN"), step(2, loss="Infinity"))
    assert [point["value"] for point in run.get("/metrics/loss").json()["points"]] == ["NaN", "Infinity"]


def test_memory_is_told_by_rank_and_phase_and_by_step(run: Run) -> None:
    run.send(
        *(
            memory(number, rank, phase, idle=1000, peak=1000 + 10 * number + rank + bonus)
            for number in (1, 2)
            for rank in (0, 1)
            for phase, bonus in (("forward", 0), ("backward", 5), ("optimizer", 0))
        )
    )
    summary = run.get("/memory").json()
    assert (summary["ranks"], summary["gradient"]) == (2, "symplectic")
    rows = [(p["rank"], p["phase"], p["host_peak_bytes"], p["host_above_idle_bytes"]) for p in summary["phases"]]
    assert rows[:3] == [(0, "forward", 1020, 20), (0, "backward", 1025, 25), (0, "optimizer", 1020, 20)]
    assert rows[3][0] == 1
    first = run.get("/memory", params={"last_step": 1}).json()["phases"][0]
    assert (first["steps"], first["host_peak_bytes"]) == (1, 1010)
    steps = run.get("/memory/steps", params={"rank": 1, "phase": "backward"}).json()["items"]
    assert [(point["step"], point["host_peak_bytes"]) for point in steps] == [(1, 1016), (2, 1026)]


SHARES = {"forward": 1, "backward": 5}  # of a step's memory


def test_the_memory_of_many_jobs_is_a_line_each_in_a_narrow_window(new_run: Callable[..., Run]) -> None:
    runs = [new_run(name=f"width-{number}") for number in range(5)]
    for number, run in enumerate(runs, 1):
        taken = [(rank, phase, (rank + 1) * part * number) for rank in (0, 1) for phase, part in SHARES.items()]
        taken.append((0, "evaluation", 50))  # the same whatever the steps need
        sent = run.send(step(1), *(memory(1, rank, phase, 2**30, 2**30 + mib * 2**20) for rank, phase, mib in taken))
        assert sent.status_code == 200, sent.text
    ids = [run.job_id for run in runs]
    shown = symadj(runs[0].server, "memory", *ids).stdout
    lines = [line for line in shown.splitlines() if "width-" in line]
    assert all(len(line) <= 80 for line in lines)
    cells = [line.split() for line in lines]
    assert [line[0] for line in cells] == [run.get("").json()["name"] for run in runs]
    assert cells[2] == ["width-2", "symplectic", "6.0", "MiB", "30.0", "MiB", "50.0", "MiB", "1.05", "GiB", "3.0"]


def test_what_is_set_up_once_in_the_first_step_is_not_taken_for_what_a_step_needs(run: Run) -> None:
    needs = {1: 900, 2: 30, 3: 40}
    run.send(*(memory(number, 0, "forward", idle=1000, peak=1000 + need) for number, need in needs.items()))
    (phase,) = run.get("/memory").json()["phases"]
    assert (phase["host_peak_bytes"], phase["host_above_idle_bytes"]) == (1900, 40)
    (alone,) = run.get("/memory", params={"last_step": 1}).json()["phases"]
    assert alone["host_above_idle_bytes"] == 900


def test_a_batch_with_a_hole_before_it_is_told_where_to_go_on(run: Run) -> None:
    run.send(step(1))
    response = run.send(step(5), first_seq=5)
    assert response.status_code == 409
    assert response.headers["content-type"] == "application/problem+json"
    assert response.json()["next_seq"] == 2


def test_without_its_token_nothing_is_stored(run: Run) -> None:
    for headers in ({}, {"Authorization": "Bearer stolen"}):
        body = {"source": "rank-0", "first_seq": 1, "records": [step(1)]}
        response = run.api.post("/api/v1/ingest/batches", json=body, headers=headers)
        assert response.status_code == 401
        assert response.headers["www-authenticate"] == "Bearer"
    assert run.get("/metrics").json()["items"] == []


def test_a_token_that_was_taken_before_is_refused_once_its_job_is_deleted(run: Run) -> None:
    assert run.send(step(1)).status_code == 200
    run.end("succeeded")
    assert run.api.delete(f"/api/v1/jobs/{run.job_id}").status_code == 204
    response = run.send(step(2), first_seq=2)
    assert (response.status_code, "deleted" in response.json()["detail"]) == (401, True)


def test_an_artifact_is_listed_and_downloaded_as_it_was_written(run: Run) -> None:
    content = b"weights" * 1000
    digest = hashlib.sha256(content).hexdigest()
    folder = run.server.data / "jobs" / run.job_id / "artifacts" / "1"
    folder.mkdir(parents=True)
    (folder / "weights.safetensors").write_bytes(content)
    record = {"kind": "artifact", "time": NOW, "name": "weights.safetensors", "media_type": "application/octet-stream"}
    run.send(record | {"bytes": len(content), "sha256": digest})
    (item,) = run.get("/artifacts").json()["items"]
    assert (item["bytes"], item["sha256"]) == (len(content), digest)
    download = run.api.get(item["url"])
    assert download.content == content
    assert download.headers["etag"] == f'"{digest}"'
    assert run.get("/artifacts/../../../symadj.sqlite").status_code == 404
    missing = run.get("/artifacts/curve.png")
    assert missing.status_code == 404
    assert "weights.safetensors" in missing.json()["detail"]


def test_events_tell_the_history(run: Run) -> None:
    run.send({"kind": "event", "time": NOW, "name": "training_started", "message": "go", "data": {"ranks": 2}})
    events = run.get("/events").json()
    assert [event["name"] for event in events["items"]] == ["queued", "starting", "running", "training_started"]
    assert events["items"][-1]["data"] == {"ranks": 2}
    assert run.get("/events", params={"after_seq": events["next_after_seq"]}).json()["items"] == []


def test_answers_say_that_records_were_thinned_and_none_of_before_is_given(run: Run) -> None:
    run.send(*(step(number) for number in range(1, 301)), *(memory(n, 0, "forward", 1, n) for n in range(1, 301)))
    run.end("failed", reason="internal", message="x")
    asked = ("/metrics/loss", "/metrics/loss?points=300", "/series?points=300", "/memory", "/memory/steps")
    before = {path: run.get(path) for path in asked}
    assert not any(answer.json().get("thinned") for answer in before.values())
    policy = retention.Policy(keep=None, thin=timedelta(days=7), thin_records=100, keep_last=0)
    with run.database.session() as session:
        job = jobs.lock(session, run.job_id)
        for _ in range(3):
            retention.thin_some(session, job, policy)
    for path in asked:
        answer = run.get(path, headers={"If-None-Match": before[path].headers["etag"]})
        assert answer.status_code == 200, path
        found = answer.json()
        assert found.get("thinned", found.get("items", [{}])[0].get("thinned")) is True, path
        assert 0 < len(answer.content) < len(before[path].content) or path == "/memory"
    (series,) = run.get("/series?points=300").json()["items"]
    assert sum(bucket["points"] for bucket in series["buckets"]) <= 100
    assert run.get("").json()["telemetry"] == "thinned"
    shown = CliRunner().invoke(main.app, ["show", run.job_id, "--url", run.server.url]).stdout
    assert "thinned by the server's retention" in shown
