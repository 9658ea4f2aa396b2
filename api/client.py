"""A client of the HTTP API: typed answers, errors that say what the server said."""

from __future__ import annotations

import hashlib
import os
import re
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, NoReturn, Self, TypeVar

import httpx
import tenacity
from pydantic import BaseModel

from symadj.api.schemas.comparisons import ComparisonRead
from symadj.api.schemas.jobs import (
    AttemptList,
    CheckpointList,
    DataRead,
    EventList,
    EventRead,
    JobList,
    JobRead,
    JobSubmitted,
    SpecCheck,
)
from symadj.api.schemas.service import ClusterRead, FieldList, UsageRead
from symadj.api.schemas.telemetry import (
    ArtifactList,
    ArtifactRead,
    LogPage,
    MemorySummary,
    MetricList,
    MetricSeriesRead,
    SeriesList,
)
from symadj.service.contract.flow_question import ENDINGS, MediaType, Operation
from symadj.service.contract.plan import Plan
from symadj.service.contract.records import Stream
from symadj.service.contract.states import JobState

__all__ = ["ApiProblemError", "ApiUnreachableError", "BadRequestError", "Client", "DownloadError"]

Model = TypeVar("Model", bound=BaseModel)

# How long a submission whose answer was lost is repeated: a killed API is back after some seconds.
SUBMIT_SECONDS = 60.0
PAUSE_SECONDS = 1.0
# For how long a request is repeated that a server refuses for now and says when to come again.
BUSY_SECONDS = 60.0
# How long an answer of a flow is waited for: others may be computed before it, and torch must be loaded once.
FLOW_SECONDS = 300.0
# How long a download that broke off is asked for again while nothing of it comes.
RESUME_SECONDS = 60.0
# How long a request for what is new waits for it.
_FOLLOW_SECONDS = 30.0
PIECE_BYTES = 2**18
# Of one request for the lines to come of a job's logs.
FOLLOW_SECONDS = 20.0


class ApiProblemError(Exception):
    """The server answered with an error.

    Attributes: ``status`` (HTTP), ``title``, ``detail``, ``errors``: (pointer, detail) of each wrong field, and
    ``retry_after``: the seconds after which the server wants to be asked again, where it says so.
    """

    def __init__(
        self,
        status: int,
        title: str,
        detail: str,
        errors: list[tuple[str, str]],
        retry_after: float | None = None,
    ) -> None:
        super().__init__(f"{title}: {detail}")
        self.status = status
        self.title = title
        self.detail = detail
        self.errors = errors
        self.retry_after = retry_after


class BadRequestError(ValueError):
    """What was asked for can't be sent: an address, a job id, an API key or a repeatable key that can't be one."""


class DownloadError(Exception):
    """What was downloaded is not what the run stored."""


class ApiUnreachableError(Exception):
    """No answer from the server.

    Attributes: ``sent``: whether the request may have reached it.
    """

    def __init__(self, message: str, *, sent: bool) -> None:
        super().__init__(message)
        self.sent = sent


class Client:
    """One server. Use as a context manager, or call :meth:`close`.

    ``api_key`` is for a server that asks for one; default: the environment's ``SYMADJ_API_KEY``. A request that the
    server is too busy for is repeated after the seconds that it says (Retry-After), for a minute at most.
    """

    def __init__(self, url: str, *, api_key: str | None = None, timeout: float = 60.0) -> None:
        self.url = url.rstrip("/")
        self._on_silence: Callable[[str], None] | None = None
        headers = _headers(api_key or os.environ.get("SYMADJ_API_KEY"))
        self.has_key = bool(headers)
        # Two tries of the connection alone: what a server may have seen is repeated only where that is safe.
        try:
            transport = httpx.HTTPTransport(retries=2)
            self._http = httpx.Client(base_url=self.url, headers=headers, timeout=timeout, transport=transport)
        except httpx.InvalidURL as error:
            raise BadRequestError(
                f"{url!r} is not the address of a server ({error}): write http://host:port"
            ) from error

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    @contextmanager
    def patience(self, tell: Callable[[str], None]) -> Iterator[None]:
        """Let reads wait for a server that is away, however long; ``tell`` gets a sentence when one begins and ends."""
        self._on_silence = tell
        try:
            yield
        finally:
            self._on_silence = None

    def _request(self, method: str, path: str, **arguments: Any) -> httpx.Response:
        report = self._on_silence
        if method != "GET" or report is None:
            return self._send(method, path, **arguments)

        def report_once(state: tenacity.RetryCallState) -> None:
            if state.attempt_number == 1 and state.outcome is not None:
                error = state.outcome.exception()
                cause = f"status {error.status}" if isinstance(error, ApiProblemError) else "no connection"
                report(f"the API does not answer ({cause}); asking again until it does, jobs run on")

        retrying = tenacity.Retrying(retry=tenacity.retry_if_exception(_is_away), wait=_pause, before_sleep=report_once)
        response = retrying(self._send_once, method, path, **arguments)
        if retrying.statistics["attempt_number"] > 1:
            report("the API answers again")
        return response

    def _send(self, method: str, path: str, **arguments: Any) -> httpx.Response:
        retrying = tenacity.Retrying(
            retry=tenacity.retry_if_exception(_is_busy),
            stop=tenacity.stop_before_delay(BUSY_SECONDS),
            wait=_pause,
            reraise=True,
        )
        return retrying(self._send_once, method, path, **arguments)

    def _send_once(self, method: str, path: str, **arguments: Any) -> httpx.Response:
        with self._sending():
            response = self._http.request(method, path, **arguments)
        if response.is_error:
            raise _problem(response)
        return response

    @contextmanager
    def _sending(self) -> Iterator[None]:
        """Say in our words what goes wrong with a request within the block."""
        try:
            yield
        except httpx.UnsupportedProtocol as error:
            raise BadRequestError(f"{self.url!r} is not the address of a server: write http://host:port") from error
        except httpx.TransportError as error:
            raise ApiUnreachableError(
                f"no answer from {self.url} ({error or type(error).__name__}): is the service running there? "
                "`symadj serve` starts one, --url names another",
                sent=not isinstance(error, httpx.ConnectError | httpx.ConnectTimeout),
            ) from error

    def _read(self, model: type[Model], method: str, path: str, **arguments: Any) -> Model:
        return model.model_validate_json(self._request(method, path, **arguments).content)

    def submit(
        self, spec: dict[str, Any], *, strict: bool | None = None, idempotency_key: str | None = None
    ) -> JobSubmitted:
        """Submit a job spec. Without a key of the caller's, one is made up, so that a lost answer doubles nothing.

        A request that may have arrived is repeated under its key until there is an answer.

        Args:
            spec: of the job.
            strict: whether to refuse a job that would fail if it started now (422); by default its ``findings`` say so.
            idempotency_key: as above.

        Raises:
            ApiProblemError: the spec is not valid (422), its ``errors`` name the fields; or too many jobs wait (429).
            ApiUnreachableError: no server is there, or none answered for a minute; then the message names the key.
        """
        parameters = _given({"strict": strict})
        timeout = FLOW_SECONDS if strict else httpx.USE_CLIENT_DEFAULT
        return self._submit(
            JobSubmitted, "/api/v1/jobs", idempotency_key, {}, json=spec, params=parameters, timeout=timeout
        )

    def clone(
        self, job_id: str, patch: dict[str, Any] | None = None, *, idempotency_key: str | None = None
    ) -> JobSubmitted:
        """Submit the spec of a job again; the new job trains from the start.

        Args:
            job_id: of the job.
            patch: a JSON merge patch (RFC 7396) of the stored spec; null removes a field, which then has its default.
            idempotency_key: as for `submit`.

        Raises:
            ApiProblemError: the job scores rows (409), or the changed spec is not valid (422).
            ApiUnreachableError: as for `submit`.
        """
        return self._submit(JobSubmitted, f"{_job_path(job_id)}/clone", idempotency_key, {}, json=patch or {})

    def retry(self, job_id: str, *, idempotency_key: str | None = None) -> JobSubmitted:
        """Submit the spec of a failed or cancelled job again; the new job trains from the start.

        Raises:
            ApiProblemError: the job is in another state, or scores rows (409).
            ApiUnreachableError: as for `submit`.
        """
        return self._submit(JobSubmitted, f"{_job_path(job_id)}/retry", idempotency_key, {})

    def change(self, job_id: str, *, name: str | None = None, labels: dict[str, str | None] | None = None) -> JobRead:
        """Change the name of a job, and the labels that are named; None removes a label."""
        patch = _given({"name": name, "labels": labels})
        return self._read(JobRead, "PATCH", _job_path(job_id), json=patch)

    def validate(self, spec: dict[str, Any]) -> SpecCheck:
        """Find out what speaks against a job, its data, memory and nodes included, without submitting it.

        Raises:
            ApiProblemError: the spec is not valid (422), its ``errors`` name the fields.
        """
        arguments: dict[str, Any] = {"params": {"dry_run": True}, "timeout": FLOW_SECONDS}
        return self._read(SpecCheck, "POST", "/api/v1/jobs", json=spec, **arguments)

    def compare(
        self,
        spec: dict[str, Any],
        gradients: Sequence[dict[str, Any]] | None = None,
        *,
        max_steps: int | None = None,
        idempotency_key: str | None = None,
    ) -> ComparisonRead:
        """Submit a job for each of several gradients, with the same spec otherwise.

        Args:
            spec: a job spec.
            gradients: as in a spec, `{"kind": "aca"}`; None: every kind.
            max_steps: of each training; None: as the spec says.
            idempotency_key: as for `submit`.

        Raises:
            ApiProblemError, ApiUnreachableError: as for `submit`.
        """
        body = _given({"spec": spec, "gradients": None if gradients is None else list(gradients)})
        body |= _given({"max_steps": max_steps})
        return self._submit(ComparisonRead, "/api/v1/comparisons", idempotency_key, {}, json=body)

    def comparison(self, comparison_id: str) -> ComparisonRead:
        """Read what each gradient of a comparison took and gave so far."""
        if re.fullmatch(r"[A-Za-z0-9_-]{1,64}", comparison_id) is None:
            raise BadRequestError(f"{comparison_id!r} is not a comparison's id, which `symadj compare` prints")
        return self._read(ComparisonRead, "GET", f"/api/v1/comparisons/{comparison_id}")

    def score(
        self,
        job_id: str,
        rows: Path | dict[str, Any],
        *,
        workers: int | None = None,
        units: str | None = None,
        settings: str | None = None,
        name: str | None = None,
        idempotency_key: str | None = None,
    ) -> JobRead:
        """Submit a job that scores rows by the trained flow of another: its file `scores.parquet` has a row for each.

        Args:
            job_id: of the job with the flow.
            rows: a file here (.csv, .npy, .parquet), which is sent; or the section `data` of the request, which says
                where the workers find them: `{"kind": "file", "path": "cells.csv"}`.
            workers: that share the rows.
            units: "original", those of the data, or "transformed".
            settings: of the solver: "tested" or "trained".
            name: of the job.
            idempotency_key: as for `submit`.

        Raises:
            ApiProblemError: the job has no weights (409), the file is too large (413), or a field is wrong (422).
            ApiUnreachableError: as for `submit`.
            BadRequestError: the file's name does not say what it is.
            OSError: the file can't be read.
        """
        path, given = f"{_job_path(job_id)}/scores", _given({"units": units, "settings": settings, "name": name})
        if isinstance(rows, Path):
            size = str(rows.stat().st_size)
            headers = {"Content-Type": str(_media_type_of(rows)), "Content-Length": size}
            given |= _given({"workers": workers})
            return self._submit(JobRead, path, idempotency_key, headers, content=_FileContent(rows), params=given)
        given |= {} if workers is None else {"resources": {"kind": "cpu", "workers": workers}}
        return self._submit(JobRead, path, idempotency_key, {}, json={"data": rows} | given)

    def _submit(
        self,
        model: type[Model],
        path: str,
        idempotency_key: str | None,
        more_headers: dict[str, str],
        **arguments: Any,
    ) -> Model:
        """Send what makes a job, until there is an answer."""
        if idempotency_key is not None and re.fullmatch(r"[\x21-\x7e]{1,255}", idempotency_key) is None:
            raise BadRequestError(f"{idempotency_key!r} is not an Idempotency-Key: 1 to 255 visible ASCII characters")
        key = idempotency_key or str(uuid.uuid4())
        sent = False

        def may_have_arrived(error: BaseException) -> bool:
            nonlocal sent
            behind_a_proxy = isinstance(error, ApiProblemError) and error.status in {502, 503, 504}
            sent = sent or behind_a_proxy or (isinstance(error, ApiUnreachableError) and error.sent)
            return behind_a_proxy or (sent and isinstance(error, ApiUnreachableError))

        retrying = tenacity.Retrying(
            retry=tenacity.retry_if_exception(may_have_arrived),
            stop=tenacity.stop_after_delay(SUBMIT_SECONDS),
            wait=_pause,
            reraise=True,
        )
        headers = {"Idempotency-Key": key} | more_headers
        try:
            made: Model = retrying(self._read, model, "POST", path, headers=headers, **arguments)
            return made
        except ApiUnreachableError as error:
            if not sent:
                raise
            raise ApiUnreachableError(
                f"{error}. The job may have been accepted: repeat the same request under the Idempotency-Key {key}, "
                "and there is one job in any case",
                sent=True,
            ) from error

    def plan(
        self,
        spec: dict[str, Any],
        *,
        columns: int | None = None,
        context_columns: int | None = None,
        image: Sequence[int] | None = None,
    ) -> Plan:
        """Plan a job without submitting it: what a worker would hold, by every gradient and number of solver steps.

        Args:
            spec: of the job.
            columns: that the flow models; None: the spec says it, or the server reads the data for it.
            context_columns: beside these.
            image: channels, height and width of the image in a row, instead of ``columns``.

        Raises:
            ApiProblemError: the spec is not valid, its data can't be read, or its flow does not fit them (422).
        """
        parameters = _given({"columns": columns, "context_columns": context_columns, "image": image})
        return self._read(Plan, "POST", "/api/v1/plans", json=spec, params=parameters, timeout=FLOW_SECONDS)

    def job(self, job_id: str) -> JobRead:
        """Read a job."""
        return self._read(JobRead, "GET", _job_path(job_id))

    def jobs(
        self,
        *,
        state: JobState | str | Sequence[JobState | str] | None = None,
        name: str | None = None,
        owner: str | None = None,
        text: str | None = None,
        label: str | Sequence[str] | None = None,
        limit: int | None = None,
        after: str | None = None,
    ) -> JobList:
        """List jobs, newest first.

        Args:
            state: one of these.
            name: of the job.
            owner: who submitted it.
            text: a part of the name or of the id.
            label: ``name=value``; of several, a job has all.
            limit: jobs of one answer, at most.
            after: ``next_after`` of the page before.
        """
        filters: dict[str, Any] = {"state": state, "name": name, "owner": owner, "text": text, "label": label}
        filters |= {"limit": limit, "after": after}
        return self._read(JobList, "GET", "/api/v1/jobs", params=_given(filters))

    def cancel(self, job_id: str) -> JobRead:
        """Cancel a job."""
        return self._read(JobRead, "POST", f"{_job_path(job_id)}/cancel")

    def pause(self, job_id: str) -> JobRead:
        """Pause a job."""
        return self._read(JobRead, "POST", f"{_job_path(job_id)}/pause")

    def resume(self, job_id: str) -> JobRead:
        """Put a paused job back into the queue."""
        return self._read(JobRead, "POST", f"{_job_path(job_id)}/resume")

    def ask_checkpoint(self, job_id: str) -> JobRead:
        """Ask a running job for a checkpoint."""
        return self._read(JobRead, "POST", f"{_job_path(job_id)}/checkpoint")

    def attempts(self, job_id: str) -> AttemptList:
        """List the tries at a job."""
        return self._read(AttemptList, "GET", f"{_job_path(job_id)}/attempts")

    def checkpoints(self, job_id: str) -> CheckpointList:
        """List the checkpoints of a job that are kept."""
        return self._read(CheckpointList, "GET", f"{_job_path(job_id)}/checkpoints")

    def data(self, job_id: str) -> DataRead:
        """Read what a job's runs have read: rows, columns and their values."""
        return self._read(DataRead, "GET", f"{_job_path(job_id)}/data")

    def fields(self) -> FieldList:
        """List the vector fields that a spec may name, those of installed packages among them."""
        return self._read(FieldList, "GET", "/api/v1/fields")

    def cluster(self) -> ClusterRead:
        """Read what the cluster has, what active jobs hold of it, and who waits for what."""
        return self._read(ClusterRead, "GET", "/api/v1/cluster")

    def usage(self) -> UsageRead:
        """Read what the service takes of disk and rows."""
        return self._read(UsageRead, "GET", "/api/v1/usage")

    def delete(self, job_id: str) -> None:
        """Delete an ended job with all that it left."""
        self._request("DELETE", _job_path(job_id))

    def events(self, job_id: str, *, after_seq: int = 0) -> EventList:
        """List events with numbers above ``after_seq``."""
        return self._read(EventList, "GET", f"{_job_path(job_id)}/events", params={"after_seq": after_seq})

    def follow(self, job_id: str, *, wait: float = 600.0) -> Iterator[EventRead | MetricList]:
        """Yield what happens to a job as it happens: its events, and the metrics with new values, until it has ended.

        A stream that breaks off, or has lasted for ``wait`` seconds, is begun again where it was.

        Raises:
            ApiProblemError: there is no such job.
            ApiUnreachableError: no server is there, or none answered for a minute.
        """
        place: str | None = None
        since = time.monotonic()
        while True:
            try:
                before = place
                for kind, came, data in self._streamed(job_id, before, wait):
                    place, since = came, time.monotonic()
                    if kind == "end":
                        return
                    read: type[EventRead] | type[MetricList] = EventRead if kind == "event" else MetricList
                    yield read.model_validate_json(data)
                if place == before:
                    time.sleep(PAUSE_SECONDS)
            except (ApiUnreachableError, ApiProblemError) as error:
                if not _is_away(error) or time.monotonic() - since > RESUME_SECONDS:
                    raise
                time.sleep(PAUSE_SECONDS)

    def _streamed(self, job_id: str, place: str | None, wait: float) -> Iterator[tuple[str, str, str]]:
        """Yield kind, id and data of server-sent events; an ``end`` where there is nothing more."""
        path, headers = f"{_job_path(job_id)}/stream", _given({"Last-Event-ID": place})
        with self._sending(), self._http.stream("GET", path, headers=headers, params={"wait": wait}) as response:
            if response.is_error:
                response.read()
                raise _problem(response)
            if response.status_code == 204:
                yield "end", "", ""
            fields: dict[str, str] = {}
            for line in response.iter_lines():
                name, _, value = line.partition(": ")
                if name:
                    fields[name] = value
                elif "data" in fields:
                    yield fields["event"], fields["id"], fields["data"]
                    fields = {}

    def metrics(self, job_id: str) -> MetricList:
        """List a job's metrics."""
        return self._read(MetricList, "GET", f"{_job_path(job_id)}/metrics")

    def metric(
        self,
        job_id: str,
        name: str,
        *,
        after_seq: int | None = None,
        limit: int | None = None,
        points: int | None = None,
        wait: float | None = None,
    ) -> MetricSeriesRead:
        """Read values of one metric: those after ``after_seq``, for which the server waits ``wait`` seconds at most.

        Args:
            job_id: of the job.
            name: of the metric.
            after_seq: only values with a higher sequence number.
            limit: values of one answer, at most.
            points: the whole series instead, downsampled to so many buckets at most.
            wait: seconds.
        """
        parameters = {"after_seq": after_seq, "limit": limit, "points": points, "wait": wait}
        return self._read(MetricSeriesRead, "GET", f"{_job_path(job_id)}/metrics/{name}", params=_given(parameters))

    def metric_pages(self, job_id: str, name: str, *, follow: bool = False) -> Iterator[MetricSeriesRead]:
        """Read all values of one metric that are stored now, page by page; ``follow``: until the job has ended."""
        after_seq = 0
        while True:
            page = self.metric(job_id, name, after_seq=after_seq, wait=_FOLLOW_SECONDS if follow else None)
            if page.points:
                yield page
            if page.complete or not (page.points or follow):
                return
            after_seq = page.next_after_seq

    def series(
        self,
        job_id: str,
        names: Sequence[str] | None = None,
        *,
        points: int | None = None,
        first_step: int | None = None,
        last_step: int | None = None,
    ) -> SeriesList:
        """Read several metrics (None: all) in one answer, each downsampled to so many buckets at most.

        The buckets are of all steps, or of those from ``first_step`` to ``last_step``.
        """
        parameters = _given({"name": names, "points": points, "first_step": first_step, "last_step": last_step})
        return self._read(SeriesList, "GET", f"{_job_path(job_id)}/series", params=parameters)

    def write_series(self, job_id: str, target: BinaryIO, names: Sequence[str] | None = None) -> None:
        """Write every value of several metrics (None: all) as csv: a line a step, a column a metric."""
        self._write_csv(f"{_job_path(job_id)}/series", target, _given({"name": names}))

    def write_memory(self, job_id: str, target: BinaryIO) -> None:
        """Write every memory record of a job as csv: a line for each step, rank and phase; sizes in bytes."""
        self._write_csv(f"{_job_path(job_id)}/memory/steps", target, {})

    def _write_csv(self, path: str, target: BinaryIO, parameters: dict[str, Any]) -> None:
        headers = {"Accept": MediaType.CSV}
        with self._sending(), self._http.stream("GET", path, headers=headers, params=parameters) as response:
            if response.is_error:
                response.read()
                raise _problem(response)
            for piece in response.iter_bytes(PIECE_BYTES):
                target.write(piece)

    def memory(self, job_id: str, *, first_step: int | None = None, last_step: int | None = None) -> MemorySummary:
        """Read the memory peaks of a job by rank and phase."""
        bounds = _given({"first_step": first_step, "last_step": last_step})
        return self._read(MemorySummary, "GET", f"{_job_path(job_id)}/memory", params=bounds)

    def logs(
        self,
        job_id: str,
        *,
        attempt: int | None = None,
        rank: int | str | None = None,
        stream: Stream | None = None,
        after: int | None = None,
        limit: int | None = None,
        tail: int | None = None,
        wait: float | None = None,
    ) -> LogPage:
        """Read what the driver and the ranks of a job printed.

        Args:
            job_id: of the job.
            attempt: of this attempt alone; None: of all.
            rank: of this rank alone, or of the ``"driver"``; None: of all.
            stream: what was printed to it alone; None: all.
            after: only lines with a higher number.
            limit: lines of one answer, at most.
            tail: only the newest, so many at most.
            wait: seconds that the server waits for lines after ``after``.
        """
        parameters: dict[str, Any] = {"attempt": attempt, "rank": rank, "stream": stream, "after": after}
        parameters |= {"limit": limit, "tail": tail, "wait": wait}
        return self._read(LogPage, "GET", f"{_job_path(job_id)}/logs", params=_given(parameters))

    def log_pages(self, job_id: str, *, after: int = 0, follow: bool = False, **filters: Any) -> Iterator[LogPage]:
        """Read all lines after a number, page by page, filtered as by :meth:`logs`.

        With ``follow``, those that come until the job has ended are waited for.
        """
        while True:
            page = self.logs(job_id, after=after, wait=FOLLOW_SECONDS if follow else None, **filters)
            if page.items:
                yield page
            if page.complete or not (follow or page.items):
                return
            after = page.next_after

    def artifacts(self, job_id: str) -> ArtifactList:
        """List a job's files."""
        return self._read(ArtifactList, "GET", f"{_job_path(job_id)}/artifacts")

    def flow(
        self,
        job_id: str,
        operation: Operation,
        table: bytes = b"",
        *,
        sent: MediaType | None = None,
        wanted: MediaType = MediaType.JSON,
        n: int | None = None,
        seed: int | None = None,
        t: Sequence[float] | None = None,
    ) -> bytes:
        """Ask a job's trained flow for densities, samples or trajectories.

        Args:
            job_id: of the job.
            operation: what to compute.
            table: rows, or for samples contexts, in the format ``sent``.
            sent: None: there is no table.
            wanted: format of the answer.
            n: samples, of each context.
            seed: of the samples.
            t: times of the trajectories.

        Raises:
            ApiProblemError: the table does not fit the flow (422), is too large (413), or takes too long (504).
        """
        headers = {"Accept": wanted} | ({} if sent is None else {"Content-Type": sent})
        parameters = _given({"n": n, "seed": seed, "t": t})
        path = f"{_job_path(job_id)}/flow/{operation}"
        answer = self._request("POST", path, content=table, headers=headers, params=parameters, timeout=FLOW_SECONDS)
        return answer.content

    def download(
        self,
        job_id: str,
        artifact: ArtifactRead | str,
        target: Path,
        *,
        advance: Callable[[int], None] = lambda _count: None,
    ) -> None:
        """Write one of a job's files to ``target``; where it is there already, nothing is done.

        It is received into a file beside it, ``NAME.SUM.part``, and a download that broke off goes on from where it
        was, now or at the next call. When its SHA-256 is the one that the run stored, the file gets its name.

        Args:
            job_id: of the job.
            artifact: one of :meth:`artifacts`, or its name.
            target: the file to write.
            advance: gets the number of bytes that have come, again and again.

        Raises:
            ApiProblemError: there is no such file.
            ApiUnreachableError: nothing has come for a minute, however often it was asked for.
            DownloadError: what came is not what the run stored.
        """
        if isinstance(artifact, str):
            named = {item.name: item for item in self.artifacts(job_id).items}
            # A name that is not there is told by the server.
            artifact = named[artifact] if artifact in named else self._absent(job_id, artifact)
        if target.is_file() and target.stat().st_size == artifact.bytes and _sha256(target) == artifact.sha256:
            advance(artifact.bytes)
            return
        part = target.with_name(f"{target.name}.{artifact.sha256[:16]}.part")
        held = most = part.stat().st_size if part.is_file() else 0
        advance(held)
        came = time.monotonic()

        def note(count: int) -> None:
            nonlocal came, held, most
            held += count
            if held > most:  # what comes for a second time, from a server that serves no parts, is no progress
                most, came = held, time.monotonic()
            advance(count)

        retrying = tenacity.Retrying(
            retry=tenacity.retry_if_exception(_is_away),
            stop=lambda _state: time.monotonic() - came > RESUME_SECONDS,
            wait=_pause,
            reraise=True,
        )
        retrying(self._receive, job_id, artifact, part, note)
        found = _sha256(part)
        if found != artifact.sha256:
            part.unlink()
            raise DownloadError(
                f"{artifact.name} of {job_id} came with the SHA-256 {found}, and the run stored {artifact.sha256}: it "
                "was removed. Download it again; if that does not help, the file on the server is damaged"
            )
        part.replace(target)

    def _receive(self, job_id: str, artifact: ArtifactRead, part: Path, note: Callable[[int], None]) -> None:
        """Add to ``part`` what it lacks of a file."""
        held = part.stat().st_size if part.is_file() else 0
        if held == artifact.bytes and held:
            return
        headers = {"Accept-Encoding": "identity"}
        if 0 < held < artifact.bytes:
            headers |= {"Range": f"bytes={held}-", "If-Range": f'"{artifact.sha256}"'}
        with self._sending():
            path = f"{_job_path(job_id)}/artifacts/{artifact.name}"
            with self._http.stream("GET", path, headers=headers) as response:
                if response.is_error:
                    response.read()
                    raise _problem(response)
                more = response.status_code == 206
                if held and not more:
                    note(-held)  # it comes from its beginning
                with part.open("ab" if more else "wb") as file:
                    for piece in response.iter_raw(PIECE_BYTES):
                        file.write(piece)
                        note(len(piece))

    def _absent(self, job_id: str, name: str) -> NoReturn:
        self._request("GET", f"{_job_path(job_id)}/artifacts/{name}")
        raise DownloadError(f"{name} of {job_id} has just been stored: download it again")


class _FileContent:
    """The content of a file, read again whenever it is sent again."""

    def __init__(self, file: Path) -> None:
        self._file = file

    def __iter__(self) -> Iterator[bytes]:
        with self._file.open("rb") as stream:
            while piece := stream.read(PIECE_BYTES):
                yield piece


def _media_type_of(file: Path) -> MediaType:
    if (known := ENDINGS.get(file.suffix.lower())) is None:
        raise BadRequestError(f"{file} must end with one of {', '.join(ENDINGS)}, which says its format")
    return known


def _sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _is_away(error: BaseException) -> bool:
    return isinstance(error, ApiUnreachableError) or (isinstance(error, ApiProblemError) and error.status >= 500)


def _is_busy(error: BaseException) -> bool:
    # Nothing was changed, so whatever it was may be sent again.
    return isinstance(error, ApiProblemError) and error.status == 503 and error.retry_after is not None


def _pause(state: tenacity.RetryCallState) -> float:
    """Return how long to wait for the next try: as the server says, where it does."""
    error = state.outcome.exception() if state.outcome is not None else None
    told = error.retry_after if isinstance(error, ApiProblemError) else None
    return told if told is not None else PAUSE_SECONDS


def _headers(api_key: str | None) -> dict[str, str]:
    if not api_key:
        return {}
    if re.fullmatch(r"[\x21-\x7e]+", api_key) is None:
        raise BadRequestError("what was given as the API key is none: it is one word that begins with symadj_")
    return {"Authorization": f"Bearer {api_key}"}


def _job_path(job_id: str) -> str:
    """Return the path of a job; an id that would lead elsewhere is refused."""
    if re.fullmatch(r"[A-Za-z0-9_-]{1,64}", job_id) is None:
        raise BadRequestError(f"{job_id!r} is not a job's id; `symadj list` shows them")
    return f"/api/v1/jobs/{job_id}"


def _given(parameters: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in parameters.items() if value is not None}


def _problem(response: httpx.Response) -> ApiProblemError:
    told = response.headers.get("Retry-After", "")
    retry_after = float(told) if told.isdecimal() else None
    try:
        body = response.json()
        errors = [(str(item["pointer"]), str(item["detail"])) for item in body.get("errors", [])]
        return ApiProblemError(response.status_code, body["title"], body["detail"], errors, retry_after)
    except (ValueError, KeyError, TypeError, AttributeError):
        # Not from us: a proxy in between, perhaps.
        return ApiProblemError(response.status_code, response.reason_phrase, response.text[:500], [], retry_after)
