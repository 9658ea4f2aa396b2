"""The MLflow sink beside a real MLflow: what a team finds there of a job, whatever died while it was fed."""

from __future__ import annotations

import math
from typing import Any

import httpx
import pytest

from symadj.service.sinks import following
from symadj.service.sinks.following import Follower
from symadj.service.sinks.mlflow import MlflowSink
from symadj.service.store import Database, jobs, sinks
from symadj.service.store.tables import SinkPosition
from tests.service.lives import end
from tests.service.test_alerts import Training

API = "/api/2.0/mlflow"
pytestmark = pytest.mark.parametrize("backend", ["sqlite"], indirect=True)


def follower(database: Database, mlflow: httpx.Client, experiment: str = "flows") -> Follower:
    """A process that feeds the sink, as it is when it has just begun."""
    return Follower(database, "mlflow", MlflowSink(f"{mlflow.base_url}#{experiment}"), api_url="http://host:8000")


def runs_of(mlflow: httpx.Client, job_id: str, experiment: str = "flows") -> list[dict[str, Any]]:
    """The runs that MLflow has of a job."""
    found = mlflow.get(f"{API}/experiments/get-by-name", params={"experiment_name": experiment}).raise_for_status()
    wanted = {"experiment_ids": [found.json()["experiment"]["experiment_id"]]}
    wanted |= {"filter": f"tags.`symadj.job` = '{job_id}'"}
    runs: list[dict[str, Any]] = (
        mlflow.post(f"{API}/runs/search", json=wanted).raise_for_status().json().get("runs", [])
    )
    return runs


def history(mlflow: httpx.Client, run: dict[str, Any], metric: str) -> list[tuple[int, float]]:
    """The steps and values that MLflow has of a metric."""
    wanted = {"run_id": run["info"]["run_id"], "metric_key": metric}
    read = mlflow.get(f"{API}/metrics/get-history", params=wanted).raise_for_status().json()
    return sorted((int(point.get("step", 0)), float(point["value"])) for point in read.get("metrics", []))


def named(pairs: list[dict[str, Any]]) -> dict[str, Any]:
    return {pair["key"]: pair["value"] for pair in pairs}


def test_a_team_finds_the_spec_every_value_the_result_and_the_end_of_a_job(
    database: Database, mlflow: httpx.Client
) -> None:
    training, feeding = Training(database, name="moons"), follower(database, mlflow)
    for _ in range(2):  # more values than one request of MLflow's may have
        training.steps(600, nfe_forward=30)
    feeding.look()
    (run,) = runs_of(mlflow, training.job_id)
    assert (run["info"]["status"], run["info"]["run_name"]) == ("RUNNING", "moons")
    training.steps(1, loss="NaN")
    training.steps(1, loss="Infinity")
    end(database, training.job_id, "succeeded", result={"test_nll": 2.5, "baselines": {"gaussian": 3.25}})
    feeding.look()
    (run,) = runs_of(mlflow, training.job_id)
    assert run["info"]["status"] == "FINISHED"
    with database.read_session() as session:
        assert int(run["info"]["end_time"]) == int(jobs.get(session, training.job_id).finished_at.timestamp() * 1000)
    assert named(run["data"]["params"])["flow.field.kind"] == "mlp"
    assert named(run["data"]["tags"])["symadj.state"] == "succeeded"
    metrics = named(run["data"]["metrics"])
    assert (metrics["result.test_nll"], metrics["result.baselines.gaussian"]) == (2.5, 3.25)
    assert history(mlflow, run, "nfe_forward") == [(step, 30.0) for step in range(1, 1201)]
    *_, (_, lost), (_, infinite) = history(mlflow, run, "loss")
    assert math.isnan(lost)
    assert infinite > 1e308, "the largest number that there is, as MLflow stores it in SQLite"


def test_what_was_given_before_a_death_is_there_once_and_the_run_goes_on(
    database: Database, mlflow: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(following, "PIECE", 50)
    training = Training(database)
    training.steps(20)
    follower(database, mlflow).look()
    with database.session() as session:  # it died before it had noted what MLflow has
        sinks.put(session, SinkPosition(sink="mlflow", job_id=training.job_id, metric_seq=0, ended=False))
    training.steps(20)
    end(database, training.job_id, "failed", reason="diverged", message="nan")
    follower(database, mlflow).look()
    (run,) = runs_of(mlflow, training.job_id)
    assert history(mlflow, run, "loss") == [(step, 1.0) for step in range(1, 41)]
    assert (run["info"]["status"], named(run["data"]["tags"])["symadj.reason"]) == ("FAILED", "diverged")


def test_a_sink_whose_server_is_away_says_so_and_is_fed_later(database: Database, mlflow: httpx.Client) -> None:
    training = Training(database)
    training.steps(3)
    away = Follower(database, "mlflow", MlflowSink("http://127.0.0.1:9#away"), api_url="")
    with pytest.raises(Exception, match="no answer"):
        away.look()
    follower(database, mlflow, "away").look()
    (run,) = runs_of(mlflow, training.job_id, "away")
    assert len(history(mlflow, run, "loss")) == 3
