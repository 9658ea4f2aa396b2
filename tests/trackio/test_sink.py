"""The Trackio sink beside a real Trackio: what a team finds there of a job, whatever died while it was fed."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from symadj.service.sinks import following
from symadj.service.sinks.following import Follower
from symadj.service.sinks.sink import SinkError
from symadj.service.sinks.trackio import TOKEN_VARIABLE, TrackioSink
from symadj.service.store import Database, sinks
from symadj.service.store.tables import SinkPosition
from tests.service.lives import end
from tests.service.test_alerts import Training

pytestmark = pytest.mark.parametrize("backend", ["sqlite"], indirect=True)


def follower(database: Database, trackio: httpx.Client, project: str = "flows") -> Follower:
    """A process that feeds the sink, as it is when it has just begun."""
    return Follower(database, "trackio", TrackioSink(f"{trackio.base_url}#{project}"), api_url="http://host:8000")


def asked(trackio: httpx.Client, name: str, **arguments: Any) -> Any:
    """What Trackio's interface answers."""
    answer = trackio.post(f"/api/{name}", json={"kwargs": arguments}).raise_for_status().json()
    assert "error" not in answer, answer
    return answer["data"]


def history(trackio: httpx.Client, job_id: str, metric: str, project: str = "flows") -> list[tuple[int, float]]:
    """The steps and values that Trackio has of a metric."""
    rows = asked(trackio, "get_metric_values", project=project, run=None, run_id=job_id, metric_name=metric)
    return [(row["step"], row["value"]) for row in rows]


def test_a_team_finds_the_spec_every_value_the_result_and_the_end_of_a_job(
    database: Database, trackio: httpx.Client
) -> None:
    training, feeding = Training(database, name="moons"), follower(database, trackio)
    training.steps(600, nfe_forward=30)  # more steps than one request has
    feeding.look()
    training.steps(1, loss="NaN")
    end(database, training.job_id, "succeeded", result={"test_nll": 2.5, "baselines": {"gaussian": 3.25}})
    feeding.look()
    (run,) = (item for item in asked(trackio, "get_runs_for_project", project="flows") if item["name"] == "moons")
    assert run["id"] == training.job_id
    config = asked(trackio, "get_run_configs", project="flows")[training.job_id]
    assert (config["flow.field.kind"], config["symadj.state"]) == ("mlp", "succeeded")
    assert history(trackio, training.job_id, "nfe_forward") == [(step, 30.0) for step in range(1, 601)]
    assert history(trackio, training.job_id, "result.baselines.gaussian") == [(0, 3.25)]
    assert history(trackio, training.job_id, "loss")[599:] == [(600, 1.0), (601, None)]


def test_what_was_given_before_a_death_is_there_once_and_the_run_goes_on(
    database: Database, trackio: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(following, "PIECE", 50)
    training = Training(database)
    training.steps(20)
    follower(database, trackio).look()
    with database.session() as session:  # it died before it had noted what Trackio has
        sinks.put(session, SinkPosition(sink="trackio", job_id=training.job_id, metric_seq=0, ended=False))
    training.steps(20)
    end(database, training.job_id, "failed", reason="diverged", message="nan")
    follower(database, trackio).look()
    assert history(trackio, training.job_id, "loss") == [(step, 1.0) for step in range(1, 41)]
    config = asked(trackio, "get_run_configs", project="flows")[training.job_id]
    assert (config["symadj.state"], config["symadj.reason"]) == ("failed", "diverged")


def test_a_server_that_is_away_or_wants_another_token_is_named_and_fed_later(
    database: Database, trackio: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    training = Training(database)
    training.steps(3)
    with pytest.raises(SinkError, match="no answer"):
        Follower(database, "trackio", TrackioSink("http://127.0.0.1:9#away"), api_url="").look()
    monkeypatch.setenv(TOKEN_VARIABLE, "another")
    with pytest.raises(SinkError, match=f"set {TOKEN_VARIABLE}"):
        follower(database, trackio, "away").look()
    monkeypatch.undo()
    monkeypatch.setenv(TOKEN_VARIABLE, "of-this-test")
    follower(database, trackio, "away").look()
    assert len(history(trackio, training.job_id, "loss", "away")) == 3
