"""MLflow: a run a job, over its REST interface (``/api/2.0/mlflow``)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import datetime
from typing import Any

import httpx

from symadj.service.contract.states import JobState
from symadj.service.sinks.sink import Point, SinkError, content_of, figures, flattened
from symadj.service.store.tables import Job

__all__ = ["MlflowSink"]

# Of one request.
_MOST_METRICS, _MOST_PARAMS = 1000, 100
_LONGEST = 500
_JOB = "symadj.job"
_STATUS = {JobState.SUCCEEDED: "FINISHED", JobState.FAILED: "FAILED", JobState.CANCELLED: "KILLED"}


class MlflowSink:
    """Feeds a tracking server. A run is found again by its tag ``symadj.job``; MLflow keeps equal values once.

    Args:
        url: of the server, and after ``#`` the name of the experiment (default: symadj).
    """

    def __init__(self, url: str) -> None:
        address, _, experiment = url.partition("#")
        try:
            self._http = httpx.Client(base_url=f"{address.rstrip('/')}/api/2.0/mlflow", timeout=30.0)
        except httpx.InvalidURL as error:
            raise SinkError(f"not the address of a server: {error}") from error
        self._name = experiment or "symadj"
        self._experiment: str | None = None
        self._runs: dict[str, str] = {}

    def begin(self, job: Job, after_seq: int) -> None:
        """Find the job's run, or make it, with the spec as its parameters."""
        experiment = self._experiment = self._experiment or self._find_experiment()
        wanted: dict[str, Any] = {
            "experiment_ids": [experiment],
            "filter": f"tags.`{_JOB}` = '{job.id}'",
            "max_results": 1,
        }
        runs = self._ask("POST", "runs/search", json=wanted).get("runs", [])
        if runs:
            self._runs[job.id] = runs[0]["info"]["run_id"]
        else:
            tags = {_JOB: job.id, "mlflow.user": job.owner, "mlflow.source.name": "symadj"}
            made: dict[str, Any] = {"experiment_id": experiment, "run_name": job.name, "tags": _pairs(tags)}
            made |= {"start_time": _milliseconds(job.started_at or job.created_at), "user_id": job.owner}
            self._runs[job.id] = self._ask("POST", "runs/create", json=made)["run"]["info"]["run_id"]
        params = _pairs({name: str(value)[:_LONGEST] for name, value in flattened(job.spec)})
        for place in range(0, len(params), _MOST_PARAMS):
            self._log(job, params=params[place : place + _MOST_PARAMS])

    def take(self, job: Job, points: Sequence[Point]) -> None:
        """Log values of metrics."""
        values = [_metric(name, point.value, point.step, point.time) for name, point in points]
        for place in range(0, len(values), _MOST_METRICS):
            self._log(job, metrics=values[place : place + _MOST_METRICS])

    def end(self, job: Job, files: Sequence[str]) -> None:
        """Log the result and the files' addresses, and end the run."""
        at = job.finished_at or job.updated_at
        result = [_metric(f"result.{name}", value, 0, at) for name, value in figures(job)]
        tags = {"symadj.state": job.state, "symadj.reason": job.reason or "", "symadj.files": "\n".join(files)[:5000]}
        self._log(job, metrics=result[:_MOST_METRICS], tags=_pairs(tags))
        ended = {"run_id": self._runs.pop(job.id), "status": _STATUS[JobState(job.state)]}
        self._ask("POST", "runs/update", json=ended | {"end_time": _milliseconds(at)})

    def _find_experiment(self) -> str:
        found = self._http_answer("GET", "experiments/get-by-name", params={"experiment_name": self._name})
        if found.status_code == httpx.codes.NOT_FOUND:
            return str(self._ask("POST", "experiments/create", json={"name": self._name})["experiment_id"])
        return str(content_of(found)["experiment"]["experiment_id"])

    def _log(self, job: Job, **what: Any) -> None:
        self._ask("POST", "runs/log-batch", json={"run_id": self._runs[job.id]} | what)

    def _ask(self, method: str, path: str, **arguments: Any) -> dict[str, Any]:
        return content_of(self._http_answer(method, path, **arguments))

    def _http_answer(self, method: str, path: str, **arguments: Any) -> httpx.Response:
        try:
            return self._http.request(method, path, **arguments)
        except httpx.HTTPError as error:
            raise SinkError(f"no answer ({error or type(error).__name__})") from error


def _pairs(values: dict[str, str]) -> list[dict[str, str]]:
    return [{"key": name, "value": value} for name, value in values.items()]


def _metric(name: str, value: float, step: int, time: datetime) -> dict[str, Any]:
    # As protobuf writes numbers that JSON has not.
    written = value if math.isfinite(value) else {math.inf: "Infinity", -math.inf: "-Infinity"}.get(value, "NaN")
    return {"key": name, "value": written, "step": step, "timestamp": _milliseconds(time)}


def _milliseconds(time: datetime) -> int:
    return int(time.timestamp() * 1000)
