"""A client of the HTTP API: typed answers, errors that say what the server said."""

from __future__ import annotations

import re
import uuid
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

import httpx
from pydantic import BaseModel

from api.schemas import ArtifactList, EventList, JobList, JobRead, MemorySummary, MetricList, MetricSeriesRead

__all__ = ["ApiProblem", "ApiUnreachable", "BadRequest", "Client"]

Model = TypeVar("Model", bound=BaseModel)


class ApiProblem(Exception):
    """The server answered with an error.

    Attributes: ``status`` (HTTP), ``title``, ``detail``, and ``errors``: (pointer, detail) of each wrong field.
    """

    def __init__(self, status: int, title: str, detail: str, errors: list[tuple[str, str]]) -> None:
        super().__init__(f"{title}: {detail}")
        self.status = status
        self.title = title
        self.detail = detail
        self.errors = errors


class BadRequest(ValueError):
    """What was asked for can't be sent: an address, a job id or a key that can't be one."""


class ApiUnreachable(Exception):
    """No answer from the server."""


class Client:
    """One server. Use as a context manager, or call :meth:`close`."""

    def __init__(self, url: str, *, timeout: float = 60.0) -> None:
        self.url = url.rstrip("/")
        # Two tries of the connection alone: what a server may have seen is repeated only where that is safe.
        try:
            self._http = httpx.Client(base_url=self.url, timeout=timeout, transport=httpx.HTTPTransport(retries=2))
        except httpx.InvalidURL as error:
            raise BadRequest(f"{url!r} is no address of a server ({error}): write http://host:port") from error

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def _request(self, method: str, path: str, **arguments: Any) -> httpx.Response:
        try:
            response = self._http.request(method, path, **arguments)
        except httpx.UnsupportedProtocol as error:
            raise BadRequest(f"{self.url!r} is no address of a server: write http://host:port") from error
        except httpx.TransportError as error:
            raise ApiUnreachable(
                f"no answer from {self.url} ({error or type(error).__name__}): is the service running there? "
                "`symadj serve` starts one, --url names another"
            ) from error
        if response.is_error:
            raise _problem(response)
        return response

    def _read(self, model: type[Model], method: str, path: str, **arguments: Any) -> Model:
        return model.model_validate_json(self._request(method, path, **arguments).content)

    def submit(self, spec: dict[str, Any], *, idempotency_key: str | None = None) -> JobRead:
        """Submit a job spec. Without a key of the caller's, one is made up, so that a lost answer doubles nothing.

        Raises:
            ApiProblem: the spec is not valid (422), its ``errors`` name the fields.
            ApiUnreachable: no answer, twice.
        """
        if idempotency_key is not None and re.fullmatch(r"[\x21-\x7e]{1,255}", idempotency_key) is None:
            raise BadRequest(f"{idempotency_key!r} is no Idempotency-Key: 1 to 255 visible ASCII characters")
        headers = {"Idempotency-Key": idempotency_key or str(uuid.uuid4())}
        try:
            return self._read(JobRead, "POST", "/api/v1/jobs", json=spec, headers=headers)
        except ApiUnreachable:
            return self._read(JobRead, "POST", "/api/v1/jobs", json=spec, headers=headers)

    def job(self, job_id: str) -> JobRead:
        """Read a job."""
        return self._read(JobRead, "GET", _job_path(job_id))

    def jobs(self, **filters: Any) -> JobList:
        """List jobs, newest first; filters: state, name, label, limit, after."""
        return self._read(JobList, "GET", "/api/v1/jobs", params=_given(filters))

    def cancel(self, job_id: str) -> JobRead:
        """Cancel a job."""
        return self._read(JobRead, "POST", f"{_job_path(job_id)}/cancel")

    def delete(self, job_id: str) -> None:
        """Delete an ended job with all that it left."""
        self._request("DELETE", _job_path(job_id))

    def events(self, job_id: str, *, after_seq: int = 0) -> EventList:
        """List events with numbers above ``after_seq``."""
        return self._read(EventList, "GET", f"{_job_path(job_id)}/events", params={"after_seq": after_seq})

    def metrics(self, job_id: str) -> MetricList:
        """List a job's metrics."""
        return self._read(MetricList, "GET", f"{_job_path(job_id)}/metrics")

    def metric(self, job_id: str, name: str, **parameters: Any) -> MetricSeriesRead:
        """Read values of one metric; parameters: after_seq, limit, points, wait (seconds)."""
        return self._read(MetricSeriesRead, "GET", f"{_job_path(job_id)}/metrics/{name}", params=_given(parameters))

    def metric_pages(self, job_id: str, name: str) -> Iterator[MetricSeriesRead]:
        """Read all values of one metric that are stored now, page by page."""
        after_seq = 0
        while True:
            page = self.metric(job_id, name, after_seq=after_seq)
            if not page.points:
                return
            yield page
            after_seq = page.next_after_seq

    def memory(self, job_id: str, *, first_step: int | None = None, last_step: int | None = None) -> MemorySummary:
        """Read the memory peaks of a job by rank and phase."""
        bounds = _given({"first_step": first_step, "last_step": last_step})
        return self._read(MemorySummary, "GET", f"{_job_path(job_id)}/memory", params=bounds)

    def artifacts(self, job_id: str) -> ArtifactList:
        """List a job's files."""
        return self._read(ArtifactList, "GET", f"{_job_path(job_id)}/artifacts")

    def download(self, job_id: str, name: str, target: Path) -> None:
        """Write one of a job's files to ``target``."""
        target.write_bytes(self._request("GET", f"{_job_path(job_id)}/artifacts/{name}").content)


def _job_path(job_id: str) -> str:
    """Return the path of a job; an id that would lead elsewhere is refused."""
    if re.fullmatch(r"[A-Za-z0-9_-]{1,64}", job_id) is None:
        raise BadRequest(f"{job_id!r} is no job's id; `symadj list` shows them")
    return f"/api/v1/jobs/{job_id}"


def _given(parameters: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in parameters.items() if value is not None}


def _problem(response: httpx.Response) -> ApiProblem:
    try:
        body = response.json()
        errors = [(str(item["pointer"]), str(item["detail"])) for item in body.get("errors", [])]
        return ApiProblem(response.status_code, body["title"], body["detail"], errors)
    except (ValueError, KeyError, TypeError, AttributeError):
        # Not from us: a proxy in between, perhaps.
        return ApiProblem(response.status_code, response.reason_phrase, response.text[:500], [])
