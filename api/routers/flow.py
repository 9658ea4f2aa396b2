"""What a trained flow says of rows: densities, samples and trajectories, computed in a process of its own."""

from __future__ import annotations

from typing import Annotated, Any

from anyio.to_thread import run_sync
from fastapi import APIRouter, Header, Query, Response
from pydantic import Field

from symadj.api.accept import best_of
from symadj.api.bodies import Table, table_body
from symadj.api.csv_parameters import CsvParameters
from symadj.api.dependencies import Flows, JobId, SettingsOf, Store
from symadj.api.flow_process import raise_unless_done
from symadj.api.problems import describe
from symadj.api.schemas.flow import FlowContexts, FlowRows, FlowTable
from symadj.service.contract.flow_question import (
    FlowQuestion,
    MediaType,
    Operation,
    StoredFile,
)
from symadj.service.errors import InvalidRowsError
from symadj.service.lifecycle import scored
from symadj.service.settings import Settings
from symadj.service.store import Database

router = APIRouter(prefix="/jobs/{job_id}/flow", tags=["flow"])

MOST_BYTES, MOST_VALUES = 16 * 2**20, 1_000_000


async def _may_ask(_job: JobId) -> None:
    """Let those through who may see the job: this changes nothing."""


_Rows = Annotated[Table, table_body(FlowRows, after=_may_ask, most_bytes=MOST_BYTES, most_values=MOST_VALUES)]
_Contexts = Annotated[
    Table | None,
    table_body(FlowContexts, after=_may_ask, most_bytes=MOST_BYTES, most_values=MOST_VALUES, required=False),
]
_Accept = Annotated[
    str, Header(alias="accept", max_length=1000, description=f"One of {', '.join(MediaType)}; JSON if any will do.")
]
_ANSWERS: dict[str, Any] = {
    "response_class": Response,
    "responses": {
        200: {
            "description": "A table",
            "model": FlowTable,
            "content": {str(media_type): {} for media_type in MediaType if media_type is not MediaType.JSON},
        },
        **describe(400, 403, 404, 406, 409, 413, 415, 504),
    },
}


@router.post("/log_prob", **_ANSWERS)
async def log_prob(
    store: Store,
    settings: SettingsOf,
    flows: Flows,
    job_id: JobId,
    rows: _Rows,
    csv_file: CsvParameters,
    accept: _Accept = "*/*",
) -> Response:
    """Compute the log-density of rows, in nats and per unit of the data, as the job's test did.

    Tables have the flow's columns and those of its context, by name; npy, and csv without a header, have them in that
    order. The answer is the column `log_prob`, of npy an array [n].
    """
    return await _answer(store, settings, flows, job_id, Operation.LOG_PROB, rows, accept, **csv_file.fields())


@router.post("/sample", **_ANSWERS)
async def sample(
    store: Store,
    settings: SettingsOf,
    flows: Flows,
    job_id: JobId,
    contexts: _Contexts,
    csv_file: CsvParameters,
    n: Annotated[int, Query(ge=1, lt=2**31, description="Samples; of each context, if the flow takes one.")] = 1,
    seed: Annotated[
        int | None,
        Query(ge=0, lt=2**63, description="The same seed gives the same samples; default: others each time."),
    ] = None,
    accept: _Accept = "*/*",
) -> Response:
    """Draw samples, in the units of the data: a row each, with its context behind it, the first context's first."""
    options = csv_file.fields() | {"n": n, "seed": seed}
    return await _answer(store, settings, flows, job_id, Operation.SAMPLE, contexts, accept, **options)


@router.post("/transport", **_ANSWERS)
async def transport(
    store: Store,
    settings: SettingsOf,
    flows: Flows,
    job_id: JobId,
    rows: _Rows,
    csv_file: CsvParameters,
    t: Annotated[
        list[Annotated[float, Field(allow_inf_nan=False)]],
        Query(
            min_length=2,
            max_length=1000,
            description="Times at which to see the rows, which are given at the first: increasing from 0 (the data) to "
            "the flow's end time (the base), or decreasing.",
        ),
    ],
    accept: _Accept = "*/*",
) -> Response:
    """Follow rows along the flow, in the units of the data: `flow_time`, `flow_row` (from 0) and the flow's columns.

    The rows of the first time come first.
    """
    options = csv_file.fields() | {"times": tuple(t)}
    return await _answer(store, settings, flows, job_id, Operation.TRANSPORT, rows, accept, **options)


async def _answer(
    store: Database,
    settings: Settings,
    flows: Flows,
    job_id: str,
    operation: Operation,
    table: Table | None,
    accept: str,
    **options: Any,
) -> Response:
    wanted = MediaType(best_of(accept, tuple(MediaType)))
    config, weights = await run_sync(_files, store, job_id)
    question = FlowQuestion(
        operation=operation,
        storage=settings.resolved_storage().location,
        config=config,
        weights=weights,
        sent=None if table is None else table.media_type,
        wanted=wanted,
        most_rows=settings.flow_rows,
        most_values=settings.flow_values,
        **options,
    )
    answer, content = await flows.ask(question, b"" if table is None else table.content)
    raise_unless_done(answer, refused=InvalidRowsError)
    return Response(content, media_type=wanted)


def _files(store: Database, job_id: str) -> tuple[StoredFile, StoredFile]:
    with store.read_session() as session:
        return scored.flow_files(session, job_id)
