"""Trackio: a run a job, over the interface of its server, which its own clients use (``/api/bulk_log``)."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Sequence
from typing import Any

import httpx

from symadj.service.sinks.sink import Point, SinkError, content_of, figures, flattened
from symadj.service.store.tables import Job

__all__ = ["TrackioSink"]

TOKEN_VARIABLE = "TRACKIO_WRITE_TOKEN"
# Entries of one request, each of the metrics of one step.
_MOST_ENTRIES = 500


class TrackioSink:
    """Feeds a Trackio server. An entry has an id of its own, of which the server keeps the first.

    The server's token is that of the environment variable ``TRACKIO_WRITE_TOKEN``, as for the server itself: this
    sink's address is stored and logged.

    Args:
        url: of the server, and after ``#`` the name of the project (default: symadj).
    """

    def __init__(self, url: str) -> None:
        address, _, project = url.partition("#")
        headers = {"x-trackio-write-token": token} if (token := os.environ.get(TOKEN_VARIABLE)) else {}
        try:
            self._http = httpx.Client(base_url=f"{address.rstrip('/')}/api", headers=headers, timeout=30.0)
        except httpx.InvalidURL as error:
            raise SinkError(f"not the address of a server: {error}") from error
        self._project = project or "symadj"

    def begin(self, job: Job, after_seq: int) -> None:
        """Nothing is to be told before the first values: a run is made by them."""

    def take(self, job: Job, points: Sequence[Point]) -> None:
        """Log values of metrics, those of a step together."""
        entries = list(_entries(points))
        for place in range(0, len(entries), _MOST_ENTRIES):
            self._log(job, entries[place : place + _MOST_ENTRIES])

    def end(self, job: Job, files: Sequence[str]) -> None:
        """Log the result, and how the job ended and its files' addresses beside the spec."""
        result = {f"result.{name}": _written(value) for name, value in figures(job)}
        self._log(
            job,
            [{"metrics": result, "step": 0, "log_id": "end"}],
            state=job.state,
            reason=job.reason,
            files=list(files),
        )

    def _log(self, job: Job, entries: Sequence[dict[str, Any]], **told: Any) -> None:
        spec = dict(flattened(job.spec)) | {"symadj.owner": job.owner}
        config = spec | {f"symadj.{name}": value for name, value in told.items()}
        run = {"project": self._project, "run": job.name, "run_id": job.id}
        logs = [run | entry | {"log_id": f"{job.id}/{entry['log_id']}"} for entry in entries]
        logs[0]["config"] = config
        try:
            answer = self._http.post("/bulk_log", json={"kwargs": {"logs": logs, "hf_token": None}})
        except httpx.HTTPError as error:
            raise SinkError(f"no answer ({error or type(error).__name__})") from error
        if not answer.is_success or "error" in content_of(answer):
            hint = f"; set {TOKEN_VARIABLE}" if "write_token" in answer.text else ""
            raise SinkError(f"status {answer.status_code}: {answer.text[:500]}{hint}")


def _entries(points: Sequence[Point]) -> Iterator[dict[str, Any]]:
    """Yield what is logged at once: values of different metrics at one step, in the order of the store."""
    metrics: dict[str, Any] = {}
    for place, (name, point) in enumerate(points):
        metrics[name] = _written(point.value)
        following = points[place + 1] if place + 1 < len(points) else None
        if following is None or following[1].step != point.step or following[0] in metrics:
            first = points[place + 1 - len(metrics)][1]
            # Both ends: what is given again after a death may end elsewhere.
            yield {"metrics": metrics, "step": point.step, "log_id": f"{first.seq}-{point.seq}"}
            metrics = {}


def _written(value: float) -> float | str:
    # As Trackio writes numbers that JSON has not.
    return value if math.isfinite(value) else {math.inf: "Infinity", -math.inf: "-Infinity"}.get(value, "NaN")
