"""Jobs: create, list, read, pause, resume, cancel, delete."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Annotated, Any

from anyio.to_thread import run_sync
from fastapi import APIRouter, Depends, Query, Request, Response
from pydantic import Field
from sqlalchemy.orm import Session

from symadj.api.bodies import checked, json_body
from symadj.api.dependencies import (
    After,
    Asker,
    Checked,
    IdempotencyKey,
    JobId,
    Limit,
    Owner,
    SettingsOf,
    Store,
    require_json,
    require_merge_patch,
)
from symadj.api.problems import describe
from symadj.api.same_keys import submitted_once
from symadj.api.schemas.answer import Answer
from symadj.api.schemas.jobs import (
    JobChange,
    JobList,
    JobRead,
    JobSubmitted,
    JobSummary,
    SpecCheck,
    SpecPatch,
)
from symadj.service.contract import layout
from symadj.service.contract.finding import Finding
from symadj.service.contract.merge_patch import MERGE_PATCH, merged
from symadj.service.contract.spec import TRAINING, JobSpec, kind_of
from symadj.service.contract.spec.any_job import LABEL, MOST_LABELS
from symadj.service.contract.states import JobState
from symadj.service.errors import ConflictError, InvalidParameterError, SpecWouldFailError
from symadj.service.lifecycle import figures, parents, requests
from symadj.service.settings import Settings
from symadj.service.store import Database, jobs
from symadj.service.store.tables import Job

router = APIRouter(prefix="/jobs", tags=["jobs"])


async def _may_submit(_owner: Owner, _json: Annotated[None, Depends(require_json)]) -> None:
    """Let those through who may submit a spec, and say that they send JSON."""


Spec = Annotated[JobSpec, json_body(JobSpec, after=_may_submit, most_bytes=2**20, most_values=50_000)]


@router.post(
    "",
    status_code=201,
    response_model=JobSubmitted,
    responses={
        200: {"model": JobSubmitted | SpecCheck, "description": "Known by its key; or, with `dry_run`, nothing new"},
        **describe(400, 403, 413, 415, 429),
    },
)
async def create_job(
    spec: Spec,
    store: Store,
    settings: SettingsOf,
    checks: Checked,
    owner: Owner,
    request: Request,
    idempotency_key: IdempotencyKey = None,
    dry_run: Annotated[
        bool,
        Query(
            description="Submit nothing: answer 200 with the spec as it would be stored, and what is found by reading "
            "its data, planning its memory and asking Ray for its nodes."
        ),
    ] = False,
    strict: Annotated[
        bool, Query(description="Look as closely as for `dry_run`, and refuse the job (422) if it would fail now.")
    ] = False,
) -> Response:
    """Put a job into the queue. Under a key that was used with the same spec, answer 200 with that job as it is now.

    `findings` says what is wrong or doubtful as things stand; a job is refused for it with `strict` alone.
    """

    submission = _Submission(store, settings, owner, idempotency_key)
    if dry_run or strict:
        # Refuses what a submission would refuse, before anything is read.
        stored = await run_sync(submission.rehearse, spec)
        looked = await checks.look_closely(JobSpec.of_stored(stored))
        found = looked.findings
        if dry_run:
            return _answer(SpecCheck(spec=stored, findings=found, data=looked.data))
        if wrong := [item for item in found if item.severity == "error"]:
            raise SpecWouldFailError(
                "; ".join(item.detail for item in wrong), pointer=wrong[0].pointer, findings=_as_json(found)
            )
        return await run_sync(submission.make, spec, found, request)
    return await run_sync(lambda: submission.make(spec, checks.look(spec), request))


@dataclass(frozen=True)
class _Submission:
    """What an owner submits, by threads."""

    store: Database
    settings: Settings
    owner: str
    idempotency_key: str | None = None

    def make(self, spec: JobSpec, findings: list[Finding], request: Request) -> Response:
        """Put a job into the queue, or find the one of the key; return the answer."""

        storage = self.settings.resolved_storage()
        parents.reach(spec, storage)

        def submit() -> tuple[figures.JobFigures, bool]:
            with self.store.session() as session:
                job, created = self._submit(session, spec, self.idempotency_key)
                most_active = self.settings.max_active_per_owner
                if not created:
                    return figures.of_job(session, job.id, most_active=most_active), False
                parents.adopt_checkpoint(job, storage)
                return figures.of_new_job(session, job, most_active=most_active), True

        found, created = submitted_once(submit)
        job_id = found.job.id
        if created and (planned_later := request.app.state.submission_plans) is not None:
            planned_later.offer([job_id])
        location = str(request.app.url_path_for("read_job", job_id=job_id))
        return _answer(JobSubmitted.of(found, findings=findings), 201 if created else 200, {"Location": location})

    def rehearse(self, spec: JobSpec) -> dict[str, Any]:
        """Return what would be stored of a spec, and store nothing.

        Raises:
            SymadjError: it would be refused.
        """
        with self.store.session() as session:
            job, _ = self._submit(session, spec, None)
            stored = job.spec
            session.rollback()
            return stored

    def _submit(self, session: Session, spec: JobSpec, key: str | None) -> tuple[Job, bool]:
        return requests.submit(
            session,
            spec,
            owner=self.owner,
            idempotency_key=key,
            max_queued=self.settings.max_queued_per_owner,
            max_bytes=self.settings.owner_disk_bytes,
        )


def _as_json(findings: list[Finding]) -> list[dict[str, Any]]:
    return [item.model_dump(mode="json") for item in findings]


@router.get("", response_model=JobList)
def list_jobs(
    store: Store,
    settings: SettingsOf,
    asker: Asker,
    limit: Limit = 50,
    after: After = None,
    state: Annotated[list[JobState] | None, Query(description="One of these.")] = None,
    name: Annotated[str | None, Query(max_length=100, description="All of it; `text` finds a part.")] = None,
    owner: Annotated[str | None, Query(max_length=100, description="The name of the key that submitted them.")] = None,
    text: Annotated[
        str | None,
        Query(min_length=1, max_length=100, description="A part of the name or of the id, in upper or lower case."),
    ] = None,
    label: Annotated[
        list[Annotated[str, Field(max_length=400, json_schema_extra={"pattern": LABEL})]] | None,
        Query(max_length=MOST_LABELS, description="`name=value`; of several, a job has all."),
    ] = None,
) -> Response:
    """List jobs, newest first; with a submitter's key their own."""
    if asker.confined_to is not None:
        if owner not in {None, asker.confined_to}:
            return _answer(JobList(items=[], has_more=False, next_after=None))
        owner = asker.confined_to
    with store.read_session() as session:
        page = jobs.page(
            session,
            states=state or (),
            name=name,
            owner=owner,
            text=text,
            labels=[_parse_label(item) for item in label or ()],
            limit=limit,
            after=after,
        )
        found = figures.of_jobs(session, page.items, most_active=settings.max_active_per_owner)
    return _answer(
        JobList(
            items=[JobSummary.of(item) for item in found],
            has_more=page.next_after is not None,
            next_after=page.next_after,
        )
    )


def _answer(made: Answer, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """Return an answer in JSON, made by the thread that calls: FastAPI would have another one check it first."""
    return Response(made.model_dump_json(), status, headers, media_type="application/json")


def _parse_label(label: str) -> tuple[str, str]:
    name, _, value = label.partition("=")
    if re.match(LABEL, label) is None:
        raise InvalidParameterError(f"label={label!r} is not of the form name=value", pointer="label")
    return name, value


@router.get("/{job_id}", responses=describe(404))
def read_job(store: Store, settings: SettingsOf, job_id: JobId) -> JobRead:
    """Read a job: its spec, progress, failure and result."""
    return _read(store, settings, job_id)


async def _may_change(_owner: Owner, _job: JobId, _json: Annotated[None, Depends(require_merge_patch)]) -> None:
    """Let those through who may change the job, and say that they send a merge patch."""


Change = Annotated[
    JobChange, json_body(JobChange, after=_may_change, most_bytes=2**16, most_values=200, beside=(MERGE_PATCH,))
]
Patch = Annotated[
    SpecPatch, json_body(SpecPatch, after=_may_change, most_bytes=2**20, most_values=50_000, beside=(MERGE_PATCH,))
]


@router.patch("/{job_id}", responses=describe(400, 403, 404, 413, 415))
def change_job(store: Store, settings: SettingsOf, owner: Owner, job_id: JobId, change: Change) -> JobRead:
    """Change the name and the labels of a job by a JSON merge patch, whatever its state is."""
    patch = change.model_dump(exclude_unset=True)
    with store.session() as session:
        job = jobs.lock(session, job_id)
        changed = merged({"name": job.name, "labels": job.spec["labels"]}, patch)
        name = changed.get("name", JobSpec.model_fields["name"].default)
        requests.change(session, job, name=name, labels=changed.get("labels", {}), actor=owner)
    return _read(store, settings, job_id)


@router.post(
    "/{job_id}/clone",
    status_code=201,
    response_model=JobSubmitted,
    responses={
        200: {"model": JobSubmitted, "description": "Known by its key"},
        **describe(400, 403, 404, 409, 413, 415, 429),
    },
)
def clone_job(
    store: Store,
    settings: SettingsOf,
    checks: Checked,
    owner: Owner,
    job_id: JobId,
    patch: Patch,
    request: Request,
    idempotency_key: IdempotencyKey = None,
) -> Response:
    """Submit the spec of a job again, changed by a JSON merge patch; `{}` changes nothing. It trains from the start."""
    spec = checked(JobSpec, merged(_training_spec(store, job_id), patch.root))
    submission = _Submission(store, settings, owner, idempotency_key)
    return submission.make(spec, checks.look(spec), request)


@router.post(
    "/{job_id}/retry",
    status_code=201,
    response_model=JobSubmitted,
    responses={200: {"model": JobSubmitted, "description": "Known by its key"}, **describe(403, 404, 409, 429)},
)
def retry_job(
    store: Store,
    settings: SettingsOf,
    checks: Checked,
    owner: Owner,
    job_id: JobId,
    request: Request,
    idempotency_key: IdempotencyKey = None,
) -> Response:
    """Submit the spec of a failed or cancelled job again, as a new job that trains from the start."""
    spec = checked(JobSpec, _training_spec(store, job_id, after=(JobState.FAILED, JobState.CANCELLED)))
    submission = _Submission(store, settings, owner, idempotency_key)
    return submission.make(spec, checks.look(spec), request)


def _training_spec(store: Database, job_id: str, *, after: Collection[JobState] = tuple(JobState)) -> dict[str, Any]:
    """Return the stored spec of a training.

    Raises:
        ConflictError: the job scores rows, or is in none of these states.
        NotFoundError: there is no such job.
    """
    with store.read_session() as session:
        job = jobs.get(session, job_id)
        if kind_of(job.spec) != TRAINING:
            raise ConflictError(
                f"job {job_id!r} scores rows: submit it again with its rows (symadj score)", state=job.state
            )
        if job.state not in after:
            raise ConflictError(
                f"job {job_id!r} is {job.state}: only a job that is {' or '.join(after)} can be tried again; "
                "`symadj clone` submits the spec of any",
                state=job.state,
            )
        return job.spec


@router.post("/{job_id}/cancel", status_code=202, responses=describe(403, 404, 409))
def cancel_job(store: Store, settings: SettingsOf, owner: Owner, job_id: JobId) -> JobRead:
    """Cancel a job: at once if it waits or is paused, at its next step if it runs. Repeating it changes nothing."""
    with store.session() as session:
        requests.cancel(session, jobs.lock(session, job_id), actor=owner)
    return _read(store, settings, job_id)


@router.post("/{job_id}/pause", status_code=202, responses=describe(403, 404, 409))
def pause_job(store: Store, settings: SettingsOf, owner: Owner, job_id: JobId) -> JobRead:
    """Pause a job: at once if it waits, at its next step and with a checkpoint if it runs. It then holds no worker."""
    with store.session() as session:
        requests.pause(session, jobs.lock(session, job_id), actor=owner)
    return _read(store, settings, job_id)


@router.post("/{job_id}/resume", status_code=202, responses=describe(403, 404, 409))
def resume_job(store: Store, settings: SettingsOf, owner: Owner, job_id: JobId) -> JobRead:
    """Put a paused job back into the queue, to go on from its newest checkpoint."""
    with store.session() as session:
        requests.resume(session, jobs.lock(session, job_id), actor=owner)
    return _read(store, settings, job_id)


@router.post("/{job_id}/checkpoint", status_code=202, responses=describe(403, 404, 409))
def checkpoint_job(store: Store, settings: SettingsOf, owner: Owner, job_id: JobId) -> JobRead:
    """Ask a running job for a checkpoint after its next step; it appears among the job's checkpoints."""
    with store.session() as session:
        requests.ask_checkpoint(session, jobs.lock(session, job_id), actor=owner)
    return _read(store, settings, job_id)


@router.delete("/{job_id}", status_code=204, responses=describe(403, 404, 409))
def delete_job(store: Store, settings: SettingsOf, _owner: Owner, job_id: JobId) -> None:
    """Delete an ended job with its events, metrics, telemetry, checkpoints, files and Idempotency-Key."""
    storage = settings.resolved_storage()
    storage.reach()  # before the store is locked
    with store.session() as session:
        set_aside = requests.delete(session, jobs.lock(session, job_id), storage=storage)
    requests.delete_telemetry(store)
    if set_aside:
        # The dispatcher removes what a crash leaves of it, and may have done so already.
        with suppress(OSError):
            storage.discard(layout.job_folder(job_id))


def _read(store: Database, settings: Settings, job_id: str) -> JobRead:
    with store.read_session() as session:
        return JobRead.of(figures.of_job(session, job_id, most_active=settings.max_active_per_owner))
