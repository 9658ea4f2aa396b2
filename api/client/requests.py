"""What can be asked of the API: a method for each endpoint, which both clients have."""

from __future__ import annotations

import re
import unicodedata
import uuid
from collections.abc import Callable, Generator, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, Generic, TypeVar

from pydantic import BaseModel

from symadj.api.client.errors import BadRequestError
from symadj.api.client.metrics import Metrics
from symadj.api.client.request import Request, asks, asks_in_pages
from symadj.api.schemas.audit import AuditList
from symadj.api.schemas.comparisons import ComparisonRead
from symadj.api.schemas.jobs import (
    AttemptList,
    CheckpointList,
    DataRead,
    EventList,
    JobPage,
    JobSubmitted,
    SpecCheck,
)
from symadj.api.schemas.keys import Identity
from symadj.api.schemas.service import ClusterRead, DatasetList, FieldList, Health, Readiness, UsageRead
from symadj.api.schemas.sweeps import SweepCheck, SweepList, SweepRead, SweepSubmitted
from symadj.api.schemas.telemetry import (
    ArtifactList,
    ArtifactRead,
    LogPage,
    MemorySummary,
    MetricList,
    MetricSeriesRead,
    SeriesList,
)
from symadj.api.schemas.uploads import UploadList, UploadRead
from symadj.api.schemas.webhooks import DeliveryList, DeliveryRead, WebhookCreated, WebhookList, WebhookRead
from symadj.service.contract.flow_question import ENDINGS, MediaType, Operation
from symadj.service.contract.notices import Notice
from symadj.service.contract.plan import Plan
from symadj.service.contract.records import Stream
from symadj.service.contract.states import JobState, SweepState

__all__ = ["Requests"]

Model = TypeVar("Model", bound=BaseModel)
JobT = TypeVar("JobT", bound=JobSubmitted)
JobsT = TypeVar("JobsT", bound="JobPage[Any]")

# How long an answer of a flow is waited for: others may be computed before it, and torch must be loaded once.
FLOW_SECONDS = 300.0
# How long a request for what is new waits for it.
FOLLOW_SECONDS = 20.0


class Requests(Generic[JobT, JobsT]):
    """The requests; the clients say what a job, and a page of jobs, is to their callers."""

    _job: type[JobT]
    _jobs: type[JobsT]

    def _read_job(self, content: bytes) -> JobT:
        return self._job.model_validate_json(content, context=self)

    def _read_jobs(self, content: bytes) -> JobsT:
        return self._jobs.model_validate_json(content, context=self)

    @asks
    def submit(
        self, spec: dict[str, Any], *, strict: bool | None = None, idempotency_key: str | None = None
    ) -> Request[JobT]:
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
        more: dict[str, Any] = {"params": _given({"strict": strict}), "timeout": FLOW_SECONDS if strict else None}
        return _making_a_job("/api/v1/jobs", self._read_job, idempotency_key, json=spec, **more)

    @asks
    def clone(
        self, job_id: str, patch: dict[str, Any] | None = None, *, idempotency_key: str | None = None
    ) -> Request[JobT]:
        """Submit the spec of a job again; the new job trains from the start.

        Args:
            job_id: of the job.
            patch: a JSON merge patch (RFC 7396) of the stored spec; null removes a field, which then has its default.
            idempotency_key: as for `submit`.

        Raises:
            ApiProblemError: the job scores rows (409), or the changed spec is not valid (422).
            ApiUnreachableError: as for `submit`.
        """
        return _making_a_job(f"{job_path(job_id)}/clone", self._read_job, idempotency_key, json=patch or {})

    @asks
    def retry(self, job_id: str, *, idempotency_key: str | None = None) -> Request[JobT]:
        """Submit the spec of a failed or cancelled job again; the new job trains from the start.

        Raises:
            ApiProblemError: the job is in another state, or scores rows (409).
            ApiUnreachableError: as for `submit`.
        """
        return _making_a_job(f"{job_path(job_id)}/retry", self._read_job, idempotency_key)

    @asks
    def change(
        self, job_id: str, *, name: str | None = None, labels: dict[str, str | None] | None = None
    ) -> Request[JobT]:
        """Change the name of a job, and the labels that are named; None removes a label."""
        patch = _given({"name": name, "labels": labels})
        return Request("PATCH", job_path(job_id), self._read_job, json=patch)

    @asks
    def validate(self, spec: dict[str, Any]) -> Request[SpecCheck]:
        """Find out what speaks against a job, its data, memory and nodes included, without submitting it.

        Raises:
            ApiProblemError: the spec is not valid (422), its ``errors`` name the fields.
        """
        more: dict[str, Any] = {"params": {"dry_run": True}, "timeout": FLOW_SECONDS}
        return Request("POST", "/api/v1/jobs", answer(SpecCheck), json=spec, **more)

    @asks
    def compare(
        self,
        spec: dict[str, Any],
        gradients: Sequence[dict[str, Any]] | None = None,
        *,
        max_steps: int | None = None,
        idempotency_key: str | None = None,
    ) -> Request[ComparisonRead]:
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
        return _making_a_job("/api/v1/comparisons", answer(ComparisonRead), idempotency_key, json=body)

    @asks
    def comparison(self, comparison_id: str) -> Request[ComparisonRead]:
        """Read what each gradient of a comparison took and gave so far."""
        if re.fullmatch(r"[A-Za-z0-9_-]{1,64}", comparison_id) is None:
            raise BadRequestError(f"{comparison_id!r} is not a comparison's id, which `symadj compare` prints")
        return Request("GET", f"/api/v1/comparisons/{comparison_id}", answer(ComparisonRead))

    @asks
    def submit_sweep(self, spec: dict[str, Any], *, idempotency_key: str | None = None) -> Request[SweepSubmitted]:
        """Begin a sweep, whose trials are jobs.

        Args:
            spec: of the sweep.
            idempotency_key: as for `submit`.

        Raises:
            ApiProblemError, ApiUnreachableError: as for `submit`.
        """
        return _making_a_job("/api/v1/sweeps", answer(SweepSubmitted), idempotency_key, json=spec)

    @asks
    def validate_sweep(self, spec: dict[str, Any]) -> Request[SweepCheck]:
        """Find out what speaks against a sweep, the data of its jobs, memory and nodes included; begin none.

        Raises:
            ApiProblemError: the spec is not valid (422), its ``errors`` name the fields.
        """
        more: dict[str, Any] = {"params": {"dry_run": True}, "timeout": 2 * FLOW_SECONDS}
        return Request("POST", "/api/v1/sweeps", answer(SweepCheck), json=spec, **more)

    @asks
    def sweep(self, sweep_id: str) -> Request[SweepRead]:
        """Read a sweep with its trials."""
        return Request("GET", _sweep_path(sweep_id), answer(SweepRead))

    @asks
    def sweeps(
        self,
        *,
        state: SweepState | str | Sequence[SweepState | str] | None = None,
        owner: str | None = None,
        limit: int | None = None,
        after: str | None = None,
    ) -> Request[SweepList]:
        """List sweeps, newest first.

        Args:
            state: one of these.
            owner: who submitted it.
            limit: sweeps of one answer, at most.
            after: ``next_after`` of the page before.
        """
        filters = _given({"state": state, "owner": owner, "limit": limit, "after": after})
        return Request("GET", "/api/v1/sweeps", answer(SweepList), params=filters)

    @asks
    def sweep_table(self, sweep_id: str) -> Request[bytes]:
        """Read the trials of a sweep as csv: a line a trial, a column a parameter."""
        return Request("GET", f"{_sweep_path(sweep_id)}/trials", bytes, headers={"Accept": str(MediaType.CSV)})

    @asks
    def change_sweep(
        self, sweep_id: str, *, name: str | None = None, labels: dict[str, str | None] | None = None
    ) -> Request[SweepRead]:
        """Change the name of a sweep, and the labels that are named; None removes a label. Its jobs keep theirs."""
        patch = _given({"name": name, "labels": labels})
        return Request("PATCH", _sweep_path(sweep_id), answer(SweepRead), json=patch)

    @asks
    def cancel_sweep(self, sweep_id: str) -> Request[SweepRead]:
        """Cancel a sweep and the jobs of its open trials.

        Raises:
            ApiProblemError: it has succeeded or failed (409).
        """
        return Request("POST", f"{_sweep_path(sweep_id)}/cancel", answer(SweepRead))

    @asks
    def delete_sweep(self, sweep_id: str) -> Request[None]:
        """Delete a sweep that has ended; its jobs stay.

        Raises:
            ApiProblemError: it has not ended, or jobs of it are still stopping (409).
        """
        return Request("DELETE", _sweep_path(sweep_id), lambda _content: None)

    @asks
    def score(
        self,
        job_id: str,
        rows: Path | dict[str, Any],
        *,
        workers: int | None = None,
        units: str | None = None,
        settings: str | None = None,
        name: str | None = None,
        csv: dict[str, Any] | None = None,
        idempotency_key: str | None = None,
    ) -> Request[JobT]:
        """Submit a job that scores rows by the trained flow of another: its file `scores.parquet` has a row for each.

        Args:
            job_id: of the job with the flow.
            rows: a file here (.csv, .npy, .parquet), which is sent; or the section `data` of the request, which says
                where the workers find them: `{"kind": "file", "path": "cells.csv"}`.
            workers: that share the rows.
            units: "original", those of the data, or "transformed".
            settings: of the solver: "tested" or "trained".
            name: of the job.
            csv: how a csv file that is sent is written, where it is not as most programs do: `{"delimiter": ";",
                "decimal": ","}`, `{"header": False}`; of rows that lie there, `rows` says so.
            idempotency_key: as for `submit`.

        Raises:
            ApiProblemError: the job has no weights (409), the file is too large (413), or a field is wrong (422).
            ApiUnreachableError: as for `submit`.
            BadRequestError: the file's name does not say what it is.
            OSError: the file can't be read.
        """
        path, given = f"{job_path(job_id)}/scores", _given({"units": units, "settings": settings, "name": name})
        if isinstance(rows, Path):
            headers = {"Content-Type": str(_media_type_of(rows)), "Content-Length": str(rows.stat().st_size)}
            given |= _given({"workers": workers}) | (csv or {})
            return _making_a_job(path, self._read_job, idempotency_key, headers, content=rows, params=given)
        given |= {} if workers is None else {"resources": {"kind": "cpu", "workers": workers}}
        return _making_a_job(path, self._read_job, idempotency_key, json={"data": rows} | given)

    @asks
    def upload(self, file: Path, *, name: str | None = None) -> Request[UploadRead]:
        """Send a file here to be trained on; a spec names it by the answer's ``path``.

        What was sent before, the same bytes in the same format, is not stored again: that upload is the answer.

        Args:
            file: in a format that `data.kind: file` reads.
            name: that it has there, with the ending that says its format; default: its own.

        Raises:
            ApiProblemError: the format is not known (422), the file is too large (413), or there is no room for it (429
                of the owner's share, 507).
            OSError: the file can't be read.
        """
        headers = {"Content-Type": "application/octet-stream", "Content-Length": str(file.stat().st_size)}
        # macOS takes letters with accents apart.
        parameters = {"name": unicodedata.normalize("NFC", name or file.name)}
        more: dict[str, Any] = {"params": parameters, "headers": headers, "timeout": FLOW_SECONDS}
        return Request("POST", "/api/v1/uploads", answer(UploadRead), content=file, **more)

    @asks
    def uploads(self, *, limit: int | None = None, after: str | None = None) -> Request[UploadList]:
        """List uploads, newest first.

        Args:
            limit: uploads of one answer, at most.
            after: ``next_after`` of the page before.
        """
        asked = _given({"limit": limit, "after": after})
        return Request("GET", "/api/v1/uploads", answer(UploadList), params=asked)

    @asks
    def delete_upload(self, upload_id: str) -> Request[None]:
        """Delete an upload.

        Raises:
            ApiProblemError: a job or a sweep that has not ended names it (409).
        """
        if re.fullmatch(r"[A-Za-z0-9_-]{1,64}", upload_id) is None:
            raise BadRequestError(f"{upload_id!r} is not an upload's id; `symadj uploads` shows them")
        return Request("DELETE", f"/api/v1/uploads/{upload_id}", lambda _content: None)

    @asks
    def plan(
        self,
        spec: dict[str, Any],
        *,
        columns: int | None = None,
        context_columns: int | None = None,
        image: Sequence[int] | None = None,
    ) -> Request[Plan]:
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
        return Request("POST", "/api/v1/plans", answer(Plan), json=spec, params=parameters, timeout=FLOW_SECONDS)

    @asks
    def job(self, job_id: str) -> Request[JobT]:
        """Read a job."""
        return Request("GET", job_path(job_id), self._read_job)

    @asks
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
    ) -> Request[JobsT]:
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
        return Request("GET", "/api/v1/jobs", self._read_jobs, params=_given(filters))

    @asks
    def cancel(self, job_id: str) -> Request[JobT]:
        """Cancel a job."""
        return Request("POST", f"{job_path(job_id)}/cancel", self._read_job)

    @asks
    def pause(self, job_id: str) -> Request[JobT]:
        """Pause a job."""
        return Request("POST", f"{job_path(job_id)}/pause", self._read_job)

    @asks
    def resume(self, job_id: str) -> Request[JobT]:
        """Put a paused job back into the queue."""
        return Request("POST", f"{job_path(job_id)}/resume", self._read_job)

    @asks
    def ask_checkpoint(self, job_id: str) -> Request[JobT]:
        """Ask a running job for a checkpoint."""
        return Request("POST", f"{job_path(job_id)}/checkpoint", self._read_job)

    @asks
    def attempts(self, job_id: str) -> Request[AttemptList]:
        """List the tries at a job."""
        return Request("GET", f"{job_path(job_id)}/attempts", answer(AttemptList))

    @asks
    def checkpoints(self, job_id: str) -> Request[CheckpointList]:
        """List the checkpoints of a job that are kept."""
        return Request("GET", f"{job_path(job_id)}/checkpoints", answer(CheckpointList))

    @asks
    def data(self, job_id: str) -> Request[DataRead]:
        """Read what a job's runs have read: rows, columns and their values."""
        return Request("GET", f"{job_path(job_id)}/data", answer(DataRead))

    @asks
    def datasets(self) -> Request[DatasetList]:
        """List the built-in data sets."""
        return Request("GET", "/api/v1/datasets", answer(DatasetList))

    @asks
    def fields(self) -> Request[FieldList]:
        """List the vector fields that a spec may name, those of installed packages among them."""
        return Request("GET", "/api/v1/fields", answer(FieldList))

    @asks
    def cluster(self) -> Request[ClusterRead]:
        """Read what the cluster has, what active jobs hold of it, and who waits for what."""
        return Request("GET", "/api/v1/cluster", answer(ClusterRead))

    @asks
    def usage(self) -> Request[UsageRead]:
        """Read what the service takes of disk and rows."""
        return Request("GET", "/api/v1/usage", answer(UsageRead))

    @asks
    def audit(
        self,
        *,
        who: str | None = None,
        route: str | None = None,
        id: str | None = None,
        status: int | None = None,
        since: datetime | None = None,
        until: datetime | None = None,
        limit: int | None = None,
        after: str | None = None,
    ) -> Request[AuditList]:
        """List who changed what, and who was refused, the newest first; for admins.

        Args:
            who: the name of a key.
            route: as the entries have it.
            id: in the path, of what was made, or of the request.
            status: of the answer.
            since: from this time on, with a time zone.
            until: before this time.
            limit: how many.
            after: `next_after` of the page before.
        """
        times = {"since": since and since.isoformat(), "until": until and until.isoformat()}
        asked = {"who": who, "route": route, "id": id, "status": status, "limit": limit, "after": after} | times
        return Request("GET", "/api/v1/audit", answer(AuditList), params=_given(asked))

    @asks
    def create_webhook(
        self,
        url: str,
        *,
        events: Sequence[Notice | str] | None = None,
        labels: dict[str, str] | None = None,
        all_owners: bool | None = None,
    ) -> Request[WebhookCreated]:
        """Let an address be told of events of jobs; the answer has its secret, this once.

        Args:
            url: of a host that the server's operator allows.
            events: which; None: the ends of jobs.
            labels: only of jobs that have all of these.
            all_owners: of everybody's jobs, for admins.
        """
        names = None if events is None else [str(event) for event in events]
        body = _given({"url": url, "events": names, "labels": labels, "all_owners": all_owners})
        return Request("POST", "/api/v1/webhooks", answer(WebhookCreated), json=body)

    @asks
    def webhooks(self) -> Request[WebhookList]:
        """List one's webhooks; an admin's key lists everybody's."""
        return Request("GET", "/api/v1/webhooks", answer(WebhookList))

    @asks
    def webhook(self, webhook_id: str) -> Request[WebhookRead]:
        """Read a webhook, without its secret."""
        return Request("GET", _webhook_path(webhook_id), answer(WebhookRead))

    @asks
    def deliveries(
        self, webhook_id: str, *, state: str | None = None, limit: int | None = None, after: str | None = None
    ) -> Request[DeliveryList]:
        """List what a webhook was told, the newest first: all, or what is `pending`, `delivered` or `failed`."""
        asked = _given({"state": state, "limit": limit, "after": after})
        return Request("GET", f"{_webhook_path(webhook_id)}/deliveries", answer(DeliveryList), params=asked)

    @asks
    def ping_webhook(self, webhook_id: str) -> Request[DeliveryRead]:
        """Send a webhook the event `ping`."""
        return Request("POST", f"{_webhook_path(webhook_id)}/ping", answer(DeliveryRead))

    @asks
    def enable_webhook(self, webhook_id: str) -> Request[WebhookRead]:
        """Let a webhook be told again after it was disabled."""
        return Request("POST", f"{_webhook_path(webhook_id)}/enable", answer(WebhookRead))

    @asks
    def delete_webhook(self, webhook_id: str) -> Request[None]:
        """Delete a webhook, and what it has not been told yet."""
        return Request("DELETE", _webhook_path(webhook_id), lambda _content: None)

    @asks
    def health(self) -> Request[Health]:
        """Ask whether the API lives, and of which version it is."""
        return Request("GET", "/healthz", answer(Health))

    @asks
    def identity(self) -> Request[Identity]:
        """Ask whose key this is and what it allows."""
        return Request("GET", "/api/v1/identity", answer(Identity))

    @asks
    def readiness(self) -> Request[Readiness]:
        """Ask whether the store stores, and whether Ray answers.

        Raises:
            ApiProblemError: the store does not store (503).
        """
        return Request("GET", "/readyz", answer(Readiness))

    @asks
    def delete(self, job_id: str) -> Request[None]:
        """Delete an ended job with all that it left."""
        return Request("DELETE", job_path(job_id), lambda _content: None)

    @asks
    def events(self, job_id: str, *, after_seq: int = 0) -> Request[EventList]:
        """List events with numbers above ``after_seq``."""
        return Request("GET", f"{job_path(job_id)}/events", answer(EventList), params={"after_seq": after_seq})

    @asks
    def metrics(self, job_id: str, *names: str) -> Request[Metrics]:
        """Read every value of several metrics (without names: of all); ``to_pandas()`` makes a table of them.

        Of a training of millions of steps, `series` reads as much as a picture needs.
        """
        return _series_csv(job_id, names, Metrics.of_csv)

    @asks
    def metric_list(self, job_id: str) -> Request[MetricList]:
        """List a job's metrics, each with its newest value."""
        return Request("GET", f"{job_path(job_id)}/metrics", answer(MetricList))

    @asks
    def metric(
        self,
        job_id: str,
        name: str,
        *,
        after_seq: int | None = None,
        limit: int | None = None,
        points: int | None = None,
        wait: float | None = None,
    ) -> Request[MetricSeriesRead]:
        """Read values of one metric: those after ``after_seq``, for which the server waits ``wait`` seconds at most.

        Args:
            job_id: of the job.
            name: of the metric.
            after_seq: only values with a higher sequence number.
            limit: values of one answer, at most.
            points: the whole series instead, downsampled to so many buckets at most.
            wait: seconds.
        """
        return _metric(job_id, name, after_seq=after_seq, limit=limit, points=points, wait=wait)

    @asks_in_pages
    def metric_pages(
        self, job_id: str, name: str, *, follow: bool = False
    ) -> Generator[Request[MetricSeriesRead], MetricSeriesRead]:
        """Read all values of one metric that are stored now, page by page; ``follow``: until the job has ended.

        A page may be empty.
        """
        after_seq, wait = 0, FOLLOW_SECONDS if follow else None
        while True:
            page = yield _metric(job_id, name, after_seq=after_seq, wait=wait)
            if page.complete or not (page.points or follow):
                return
            after_seq = page.next_after_seq

    @asks
    def series(
        self,
        job_id: str,
        names: Sequence[str] | None = None,
        *,
        points: int | None = None,
        first_step: int | None = None,
        last_step: int | None = None,
    ) -> Request[SeriesList]:
        """Read several metrics (None: all) in one answer, each downsampled to so many buckets at most.

        The buckets are of all steps, or of those from ``first_step`` to ``last_step``.
        """
        parameters = _given({"name": names, "points": points, "first_step": first_step, "last_step": last_step})
        return Request("GET", f"{job_path(job_id)}/series", answer(SeriesList), params=parameters)

    @asks
    def memory(
        self, job_id: str, *, first_step: int | None = None, last_step: int | None = None
    ) -> Request[MemorySummary]:
        """Read the memory peaks of a job by rank and phase."""
        bounds = _given({"first_step": first_step, "last_step": last_step})
        return Request("GET", f"{job_path(job_id)}/memory", answer(MemorySummary), params=bounds)

    @asks
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
    ) -> Request[LogPage]:
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
        parameters = {"attempt": attempt, "rank": rank, "stream": stream, "after": after}
        return _logs(job_id, **parameters, limit=limit, tail=tail, wait=wait)

    @asks_in_pages
    def log_pages(
        self,
        job_id: str,
        *,
        after: int = 0,
        follow: bool = False,
        attempt: int | None = None,
        rank: int | str | None = None,
        stream: Stream | None = None,
    ) -> Generator[Request[LogPage], LogPage]:
        """Read all lines after a number, page by page, filtered as by `logs`. A page may be empty.

        With ``follow``, those that come until the job has ended are waited for.
        """
        wait = FOLLOW_SECONDS if follow else None
        while True:
            page = yield _logs(job_id, after=after, wait=wait, attempt=attempt, rank=rank, stream=stream)
            if page.complete or not (follow or page.items):
                return
            after = page.next_after

    @asks
    def artifacts(self, job_id: str) -> Request[ArtifactList]:
        """List a job's files."""
        return Request("GET", f"{job_path(job_id)}/artifacts", answer(ArtifactList))

    @asks
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
        csv: dict[str, Any] | None = None,
    ) -> Request[bytes]:
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
            csv: how a csv table is written, where it is not as most programs do: `{"delimiter": ";", "decimal": ","}`,
                `{"header": False}`.

        Raises:
            ApiProblemError: the table does not fit the flow (422), is too large (413), or takes too long (504).
        """
        headers = {"Accept": str(wanted)} | ({} if sent is None else {"Content-Type": str(sent)})
        parameters = _given({"n": n, "seed": seed, "t": t}) | (csv or {})
        more: dict[str, Any] = {"params": parameters, "timeout": FLOW_SECONDS}
        return Request("POST", f"{job_path(job_id)}/flow/{operation}", bytes, content=table, headers=headers, **more)

    # Requests whose answers are read while they come.

    def _series_table(self, job_id: str, names: Sequence[str] | None) -> Request[bytes]:
        return _series_csv(job_id, names or (), bytes)

    def _memory_table(self, job_id: str) -> Request[bytes]:
        return Request("GET", f"{job_path(job_id)}/memory/steps", bytes, headers={"Accept": str(MediaType.CSV)})


def answer(model: type[Model]) -> Callable[[bytes], Model]:
    """Return what reads an answer in JSON as ``model``."""
    return model.model_validate_json


def job_path(job_id: str) -> str:
    """Return the path of a job.

    Raises:
        BadRequestError: it is no id, and would lead elsewhere.
    """
    if re.fullmatch(r"[A-Za-z0-9_-]{1,64}", job_id) is None:
        raise BadRequestError(f"{job_id!r} is not a job's id; `symadj list` shows them")
    return f"/api/v1/jobs/{job_id}"


def _webhook_path(webhook_id: str) -> str:
    if re.fullmatch(r"[A-Za-z0-9_-]{1,64}", webhook_id) is None:
        raise BadRequestError(f"{webhook_id!r} is not a webhook's id, which `symadj webhooks list` prints")
    return f"/api/v1/webhooks/{webhook_id}"


def _sweep_path(sweep_id: str) -> str:
    if re.fullmatch(r"[A-Za-z0-9_-]{1,64}", sweep_id) is None:
        raise BadRequestError(f"{sweep_id!r} is not a sweep's id; `symadj sweeps` shows them")
    return f"/api/v1/sweeps/{sweep_id}"


def artifact_file(job_id: str, name: str, headers: dict[str, str]) -> Request[bytes]:
    """Return the request for one of a job's files."""
    return Request("GET", f"{job_path(job_id)}/artifacts/{name}", bytes, headers=headers)


def artifact_named(artifacts: ArtifactList, name: str) -> ArtifactRead | None:
    """Return one of a job's files, None if there is none of the name."""
    return next((item for item in artifacts.items if item.name == name), None)


def _making_a_job(
    path: str,
    read: Callable[[bytes], Model],
    idempotency_key: str | None,
    headers: dict[str, str] | None = None,
    **more: Any,
) -> Request[Model]:
    if idempotency_key is not None and re.fullmatch(r"[\x21-\x7e]{1,255}", idempotency_key) is None:
        raise BadRequestError(f"{idempotency_key!r} is not an Idempotency-Key: 1 to 255 visible ASCII characters")
    known_by = {"Idempotency-Key": idempotency_key or str(uuid.uuid4())}
    return Request("POST", path, read, headers=known_by | (headers or {}), makes_job=True, **more)


def _metric(job_id: str, name: str, **parameters: Any) -> Request[MetricSeriesRead]:
    path = f"{job_path(job_id)}/metrics/{name}"
    return Request("GET", path, answer(MetricSeriesRead), params=_given(parameters))


def _logs(job_id: str, **parameters: Any) -> Request[LogPage]:
    return Request("GET", f"{job_path(job_id)}/logs", answer(LogPage), params=_given(parameters))


T = TypeVar("T")


def _series_csv(job_id: str, names: Sequence[str], read: Callable[[bytes], T]) -> Request[T]:
    headers = {"Accept": str(MediaType.CSV)}
    return Request("GET", f"{job_path(job_id)}/series", read, params={"name": list(names)}, headers=headers)


def _media_type_of(file: Path) -> MediaType:
    if (known := ENDINGS.get(file.suffix.lower())) is None:
        raise BadRequestError(f"{file} must end with one of {', '.join(ENDINGS)}, which says its format")
    return known


def _given(parameters: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in parameters.items() if value is not None}
