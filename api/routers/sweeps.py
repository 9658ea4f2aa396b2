"""Sweeps: create, list, read, cancel, change, delete; their trials."""

from __future__ import annotations

import json
from typing import Annotated, Any

from anyio.to_thread import run_sync
from fastapi import APIRouter, Depends, Header, Query, Request, Response

from symadj.api.accept import best_of
from symadj.api.bodies import json_body
from symadj.api.csv_answers import csv_answer
from symadj.api.dependencies import (
    After,
    Asker,
    Checked,
    IdempotencyKey,
    Limit,
    Owner,
    SettingsOf,
    Store,
    SweepId,
    require_json,
    require_merge_patch,
)
from symadj.api.problems import describe
from symadj.api.same_keys import submitted_once
from symadj.api.schemas.sweeps import (
    SweepChange,
    SweepCheck,
    SweepList,
    SweepRead,
    SweepSubmitted,
    SweepSummary,
    TrialList,
    TrialRead,
)
from symadj.service.contract.finding import Finding
from symadj.service.contract.flow_question import MediaType
from symadj.service.contract.merge_patch import MERGE_PATCH, merged
from symadj.service.contract.spec import JobSpec
from symadj.service.contract.spec.sweep import SweepSpec
from symadj.service.contract.states import SweepState
from symadj.service.lifecycle import sweeps as lifecycle
from symadj.service.store import Database, sweeps

router = APIRouter(prefix="/sweeps", tags=["sweeps"])

_OFFERED = (MediaType.JSON, MediaType.CSV)


async def _may_submit(_owner: Owner, _json: Annotated[None, Depends(require_json)]) -> None:
    """Let those through who may submit jobs, and say that they send JSON."""


async def _may_change(_owner: Owner, _sweep: SweepId, _json: Annotated[None, Depends(require_merge_patch)]) -> None:
    """Let those through who may change the sweep, and say that they send a merge patch."""


Spec = Annotated[SweepSpec, json_body(SweepSpec, after=_may_submit, most_bytes=2**20, most_values=50_000)]
Change = Annotated[
    SweepChange, json_body(SweepChange, after=_may_change, most_bytes=2**16, most_values=200, beside=(MERGE_PATCH,))
]


@router.post(
    "",
    status_code=201,
    response_model=SweepSubmitted,
    responses={
        200: {
            "model": SweepSubmitted | SweepCheck,
            "description": "Known by its key; or, with `dry_run`, nothing new",
        },
        **describe(400, 403, 413, 415, 429),
    },
)
async def create_sweep(
    spec: Spec,
    store: Store,
    settings: SettingsOf,
    checks: Checked,
    owner: Owner,
    request: Request,
    response: Response,
    idempotency_key: IdempotencyKey = None,
    dry_run: Annotated[
        bool,
        Query(
            description="Submit nothing: answer 200 with the spec as it would be stored, and what is found of the jobs "
            "with the first values of the parameters, and the last."
        ),
    ] = False,
) -> SweepSubmitted | Response:
    """Begin a sweep: its trials are put into the queue as jobs, at most `parallel` at once, with the label `sweep`.

    Under a key that was used with the same spec, answer 200 with that sweep as it is now.
    """
    corners = _corners(spec)

    def submit() -> tuple[str, bool]:
        with store.session() as session:
            made = lifecycle.submit(
                session,
                spec,
                owner=owner,
                idempotency_key=None if dry_run else idempotency_key,
                max_running=settings.max_queued_per_owner,
                max_bytes=settings.owner_disk_bytes,
            )
            if dry_run:
                session.rollback()
            return made

    sweep_id, created = await run_sync(submitted_once, submit)
    if dry_run:
        looked = [await checks.look_closely(corner) for corner in corners]
        summaries = {item.data.model_dump_json(): item.data for item in looked if item.data is not None}
        answer = SweepCheck(
            spec=spec.counted().stored(),
            findings=_of_base([item.findings for item in looked]),
            data=[*summaries.values()],
        )
        return Response(answer.model_dump_json(), media_type=MediaType.JSON)
    if not created:
        response.status_code = 200
    response.headers["Location"] = str(request.app.url_path_for("read_sweep", sweep_id=sweep_id))
    seen = [await run_sync(checks.look, corner) for corner in corners]
    read = await run_sync(_read, store, sweep_id)
    return SweepSubmitted(**dict(read), findings=_of_base(seen))


def _corners(spec: SweepSpec) -> list[JobSpec]:
    """Return the specs of a job with the first values of all parameters, and of one with the last."""
    values = [values for _, values in spec.corners()]
    return [spec.job(item, sweep="", number=0) for item in (values[0], values[-1])]


def _of_base(found: list[list[Finding]]) -> list[Finding]:
    """Return what was found of several specs, each once, with places within the sweep's."""
    once = dict.fromkeys(item for items in found for item in items)
    return [item.model_copy(update={"pointer": f"/base{item.pointer}"}) for item in once]


@router.get("")
def list_sweeps(
    store: Store,
    asker: Asker,
    limit: Limit = 50,
    after: After = None,
    state: Annotated[list[SweepState] | None, Query(description="One of these.")] = None,
    owner: Annotated[str | None, Query(max_length=100, description="The name of the key that submitted them.")] = None,
) -> SweepList:
    """List sweeps, newest first; with a submitter's key their own."""
    if asker.confined_to is not None:
        if owner not in {None, asker.confined_to}:
            return SweepList(items=[], has_more=False, next_after=None)
        owner = asker.confined_to
    with store.read_session() as session:
        page = sweeps.page(session, states=state or (), owner=owner, limit=limit, after=after)
        trials = sweeps.trials_of(session, [sweep.id for sweep in page.items])
    items = [SweepSummary.of(sweep, [TrialRead.of(*trial) for trial in trials[sweep.id]]) for sweep in page.items]
    return SweepList(items=items, has_more=page.next_after is not None, next_after=page.next_after)


@router.get("/{sweep_id}", responses=describe(404))
def read_sweep(store: Store, sweep_id: SweepId) -> SweepRead:
    """Read a sweep: its spec, and each trial with its values, its state and what came of it."""
    return _read(store, sweep_id)


@router.get(
    "/{sweep_id}/trials",
    response_model=TrialList,
    responses={200: {"content": {MediaType.CSV: {"schema": {"type": "string"}}}}, **describe(404, 406)},
)
def read_trials(
    store: Store,
    sweep_id: SweepId,
    accept: Annotated[
        str, Header(max_length=1000, description="application/json, or text/csv: a line a trial, a column a parameter.")
    ] = "*/*",
) -> Response:
    """Read the trials of a sweep as a table."""
    media_type = best_of(accept, _OFFERED)
    read = _read(store, sweep_id)
    if media_type == MediaType.JSON:
        content = TrialList(items=read.trials).model_dump_json()
        return Response(content, media_type=MediaType.JSON, headers={"Vary": "Accept"})
    paths = list(read.spec["parameters"])
    columns = ["number", "state", "value", *paths, "job", "job_state", "created_at", "finished_at", "message"]
    rows = (
        [
            *(trial.number, trial.state.value, trial.value),
            *(_cell(trial.parameters.get(path)) for path in paths),
            *(trial.job, trial.job_state and trial.job_state.value, trial.created_at, trial.finished_at, trial.message),
        ]
        for trial in read.trials
    )
    return csv_answer(columns, rows)


def _cell(value: Any) -> Any:
    return value if isinstance(value, str | int | float) and not isinstance(value, bool) else json.dumps(value)


@router.patch("/{sweep_id}", responses=describe(400, 403, 404, 413, 415))
def change_sweep(store: Store, _owner: Owner, sweep_id: SweepId, change: Change) -> SweepRead:
    """Change the name and the labels of a sweep by a JSON merge patch; its jobs keep theirs."""
    patch = change.model_dump(exclude_unset=True)
    with store.session() as session:
        sweep = sweeps.lock(session, sweep_id)
        changed = merged({"name": sweep.name, "labels": sweep.spec["labels"]}, patch)
        name = changed.get("name", SweepSpec.model_fields["name"].default)
        lifecycle.change(session, sweep, name=name, labels=changed.get("labels", {}))
    return _read(store, sweep_id)


@router.post("/{sweep_id}/cancel", status_code=202, responses=describe(403, 404, 409))
def cancel_sweep(store: Store, owner: Owner, sweep_id: SweepId) -> SweepRead:
    """Cancel a sweep, and the jobs of its open trials as one cancels a job. Repeating it changes nothing."""
    with store.session() as session:
        lifecycle.cancel(session, sweeps.lock(session, sweep_id), actor=owner)
    return _read(store, sweep_id)


@router.delete("/{sweep_id}", status_code=204, responses=describe(403, 404, 409))
def delete_sweep(store: Store, _owner: Owner, sweep_id: SweepId) -> None:
    """Delete a sweep that has ended, with its trials; their jobs stay, each to be deleted by itself."""
    with store.session() as session:
        lifecycle.delete(session, sweeps.lock(session, sweep_id))


def _read(store: Database, sweep_id: str) -> SweepRead:
    with store.read_session() as session:
        sweep = sweeps.get(session, sweep_id)
        trials = sweeps.trials_of(session, [sweep_id])[sweep_id]
        return SweepRead.of(sweep, [TrialRead.of(*trial) for trial in trials])
