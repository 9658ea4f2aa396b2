"""What a job would take in memory, by every gradient, before it is submitted."""

from __future__ import annotations

from typing import Annotated

from anyio.to_thread import run_sync
from fastapi import APIRouter, Depends, Query, Response
from pydantic import Field

from symadj.api.bodies import json_body
from symadj.api.dependencies import Asker, Checked, SettingsOf, Store, require_json
from symadj.api.flow_process import raise_unless_done
from symadj.api.problems import describe
from symadj.service import plugins
from symadj.service.contract.flow_question import PlanQuestion
from symadj.service.contract.plan import Plan
from symadj.service.contract.spec import JobSpec
from symadj.service.contract.uploaded import UploadedFile
from symadj.service.errors import InvalidSpecError
from symadj.service.lifecycle import uploads
from symadj.service.settings import Settings
from symadj.service.store import Database

router = APIRouter(prefix="/plans", tags=["plans"])


async def _may_plan(_asker: Asker, _json: Annotated[None, Depends(require_json)]) -> None:
    """Let those through who have a key and say that they send JSON: this changes nothing."""


Spec = Annotated[JobSpec, json_body(JobSpec, after=_may_plan, most_bytes=2**20, most_values=50_000)]


@router.post("", response_model=Plan, responses=describe(400, 413, 415, 504))
async def make_plan(
    spec: Spec,
    asker: Asker,
    store: Store,
    settings: SettingsOf,
    checks: Checked,
    columns: Annotated[
        int | None,
        Query(ge=1, le=10_000_000, description="Values of a row that the flow models; default: the data are read."),
    ] = None,
    context_columns: Annotated[int, Query(ge=0, le=1000, description="Beside `columns`.")] = 0,
    image: Annotated[
        list[Annotated[int, Field(ge=1, le=100_000)]] | None,
        Query(min_length=3, max_length=3, description="Channels, height and width of the image in a row."),
    ] = None,
) -> Response:
    """Plan a job without submitting it: what a worker would hold, by every gradient and number of solver steps."""
    spec = await run_sync(plugins.resolved, spec)
    shape = None if image is None else (image[0], image[1], image[2])
    if shape is not None:
        columns = shape[0] * shape[1] * shape[2]
    elif columns is None and not spec.flow.needs_images:
        columns = spec.data.dim
    question = PlanQuestion(
        spec=spec.stored(),
        columns=columns,
        context_columns=context_columns,
        image=shape,
        uploads=await run_sync(_uploads_of, spec, asker.confined_to, store, settings),
    )
    answer, content = await checks.plan(spec, question)
    raise_unless_done(answer, refused=InvalidSpecError)
    return Response(content, media_type="application/json")


def _uploads_of(spec: JobSpec, owner: str | None, store: Database, settings: Settings) -> tuple[UploadedFile, ...]:
    """Return the uploads that a spec names, all of which must be there, and this owner's (None: anybody's)."""
    with store.read_session() as session:
        uploads.check_named(session, spec, owner=owner)
        return uploads.files_of(session, spec, settings.resolved_storage())
