"""Alerts, as the list, a job and its events show them."""

from __future__ import annotations

from symadj.api.cli import render
from symadj.api.schemas.jobs import JobRead
from symadj.service.dispatcher.alerting import Alerter
from tests.api.conftest import NOW, Run


def test_the_list_the_job_and_the_command_line_show_an_alert(run: Run) -> None:
    run.send({"kind": "step", "time": NOW, "step": 1, "metrics": {"loss": "NaN"}})
    assert run.get("").json()["alerts"] == []
    Alerter(run.database).look()
    read = JobRead.model_validate(run.get("").json())
    (listed,) = [item for item in run.api.get("/api/v1/jobs").json()["items"] if item["id"] == run.job_id]
    assert read.alerts == listed["alerts"] == ["diverged"]
    assert "alert: diverged" in str(render._standing(read))
    assert run.get("/events").json()["items"][-1]["data"] == {"rule": "diverged", "step": 1, "metric": "loss"}
