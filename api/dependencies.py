"""Dependencies that endpoints take.

They are coroutines, and take a thread only for a question to the store: others may have to wait for it.
"""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Annotated, Any, get_args, get_origin

from anyio.to_thread import run_sync
from fastapi import Depends, Header, Path, Query, Request
from fastapi.dependencies.models import Dependant
from fastapi.exceptions import RequestValidationError
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from sqlalchemy.orm import Session

from symadj.api.audit import note_asker, note_change
from symadj.api.bulkheads import CostlyReads, InFlight, IngestLane
from symadj.api.checks import Checks
from symadj.api.cluster_view import ClusterView
from symadj.api.flow_process import FlowProcess
from symadj.api.long_polls import LongPolls
from symadj.service import ingest, keys
from symadj.service.audit import AuditLog
from symadj.service.contract.merge_patch import MERGE_PATCH
from symadj.service.errors import (
    ForbiddenError,
    InvalidParameterError,
    NotFoundError,
    UnauthorizedError,
    UnsupportedMediaTypeError,
)
from symadj.service.lifecycle.attempts import hash_token
from symadj.service.roles import LOCAL, Principal, Role
from symadj.service.settings import Settings
from symadj.service.store import Database, jobs, sweeps, uploads
from symadj.service.store.cursors import CURSOR
from symadj.service.store.downsampling import Downsampler
from symadj.service.store.memory_summaries import MemorySummaries
from symadj.service.store.step_range import StepRange
from symadj.service.store.tables import Job, Sweep, Upload

__all__ = [
    "After",
    "AfterSeq",
    "Asker",
    "AttemptToken",
    "Audit",
    "Checked",
    "Cluster",
    "Costly",
    "Drawing",
    "Flows",
    "IdempotencyKey",
    "JobId",
    "Joined",
    "Lane",
    "Limit",
    "Owner",
    "Polls",
    "SettingsOf",
    "Steps",
    "Store",
    "SummedUp",
    "SweepId",
    "UploadId",
    "attempt_token",
    "authenticate",
    "owner",
    "refuse_unfit_address",
    "require_admin",
    "require_json",
    "require_merge_patch",
    "require_overview",
]


async def _store(request: Request) -> Database:
    database: Database = request.app.state.database
    return database


async def _ingest_lane(request: Request) -> IngestLane:
    lane: IngestLane = request.app.state.ingest_lane
    return lane


async def _costly_reads(request: Request) -> CostlyReads:
    reads: CostlyReads = request.app.state.costly_reads
    return reads


async def _downsampler(request: Request) -> Downsampler:
    downsampler: Downsampler = request.app.state.downsampler
    return downsampler


async def _memory_summaries(request: Request) -> MemorySummaries:
    summaries: MemorySummaries = request.app.state.memory_summaries
    return summaries


async def _in_flight(request: Request) -> InFlight:
    in_flight: InFlight = request.app.state.in_flight
    return in_flight


async def _long_polls(request: Request) -> LongPolls:
    polls: LongPolls = request.app.state.long_polls
    return polls


async def _flow_process(request: Request) -> FlowProcess:
    process: FlowProcess = request.app.state.flow_process
    return process


async def _cluster(request: Request) -> ClusterView:
    view: ClusterView = request.app.state.cluster
    return view


async def _checks(request: Request) -> Checks:
    checks: Checks = request.app.state.checks
    return checks


async def _audit_log(request: Request) -> AuditLog:
    audit_log: AuditLog = request.app.state.audit_log
    return audit_log


async def _settings(request: Request) -> Settings:
    settings: Settings = request.app.state.settings
    return settings


Store = Annotated[Database, Depends(_store)]
Lane = Annotated[IngestLane, Depends(_ingest_lane)]
Costly = Annotated[CostlyReads, Depends(_costly_reads)]
Drawing = Annotated[Downsampler, Depends(_downsampler)]
SummedUp = Annotated[MemorySummaries, Depends(_memory_summaries)]
Joined = Annotated[InFlight, Depends(_in_flight)]
Polls = Annotated[LongPolls, Depends(_long_polls)]
Flows = Annotated[FlowProcess, Depends(_flow_process)]
Cluster = Annotated[ClusterView, Depends(_cluster)]
Checked = Annotated[Checks, Depends(_checks)]
Audit = Annotated[AuditLog, Depends(_audit_log)]
SettingsOf = Annotated[Settings, Depends(_settings)]


async def authenticate(
    request: Request,
    credentials: Annotated[
        HTTPAuthorizationCredentials | None,
        Depends(HTTPBearer(scheme_name="key", description="An API key, where SYMADJ_AUTH is keys.", auto_error=False)),
    ],
) -> None:
    """Find the principal to whom the request's API key belongs, before all else: :data:`Asker` is that one.

    Raises:
        UnauthorizedError: the key is missing or not valid.
    """
    settings: Settings = request.app.state.settings
    note_asker(request, LOCAL if settings.auth == "none" else await _owner_of_key(request, credentials))


async def _owner_of_key(request: Request, credentials: HTTPAuthorizationCredentials | None) -> Principal:
    if credentials is None:
        raise UnauthorizedError(
            "send an API key: `Authorization: Bearer symadj_...`; the command line takes it from SYMADJ_API_KEY or "
            "--api-key-file, and an admin makes one with `symadj keys create`"
        )
    state = request.app.state
    return await run_sync(keys.authenticate, state.database, credentials.credentials, state.key_secret)


async def _asker(request: Request) -> Principal:
    asker: Principal = request.state.asker
    return asker


Asker = Annotated[Principal, Depends(_asker)]


async def owner(request: Request, asker: Asker) -> str:
    """Return the name of the owner who changes something."""
    note_change(request)
    if asker.role is Role.VIEWER:
        raise ForbiddenError(f"the key of {asker.name} is a viewer's, which only reads: this takes another role")
    return asker.name


async def require_admin(request: Request, asker: Asker) -> None:
    """Refuse all but admins."""
    note_change(request)
    if asker.role is not Role.ADMIN:
        raise ForbiddenError(f"the key of {asker.name} is a {asker.role}'s: this takes an admin's")


async def require_overview(asker: Asker) -> None:
    """Refuse users who see their own jobs only."""
    if asker.confined_to is not None:
        raise ForbiddenError(f"the key of {asker.name} is for their own jobs: this takes a viewer's or an admin's")


async def _visible_job(
    request: Request, job_id: Annotated[str, Path(max_length=64, description="Id of a job, `job-...`.")]
) -> str:
    """Return the id of a job that the asker may see; for any other job the answer is that there is none."""
    return await _visible(request, "job", jobs.get, job_id)


async def _visible_sweep(
    request: Request, sweep_id: Annotated[str, Path(max_length=64, description="Id of a sweep, `swp-...`.")]
) -> str:
    """Return the id of a sweep, as of a job."""
    return await _visible(request, "sweep", sweeps.get, sweep_id)


async def _visible_upload(
    request: Request, upload_id: Annotated[str, Path(max_length=64, description="Id of an upload, `upl-...`.")]
) -> str:
    """Return the id of an upload, as of a job."""
    return await _visible(request, "upload", uploads.get, upload_id)


async def _visible(
    request: Request, what: str, get: Callable[[Session, str], Job | Sweep | Upload], identifier: str
) -> str:
    asker, store = await _asker(request), request.app.state.database

    def owner_of_it() -> str:
        with store.read_session() as session:
            return get(session, identifier).owner

    if asker.confined_to is not None and await run_sync(owner_of_it) != asker.confined_to:
        raise NotFoundError(f"there is no {what} {identifier!r}")
    return identifier


async def refuse_unfit_address(request: Request) -> None:
    """Refuse a query parameter that the endpoint does not have, a second value where it takes one, and NUL anywhere.

    A filter with a mistyped name would select everything, and of two values the first would count for nothing. Nothing
    has a name with a NUL in it, and PostgreSQL can't be asked for one.

    Raises:
        InvalidParameterError: naming what has a NUL in it.
        RequestValidationError: naming all parameters that are not as they must be.
    """
    if "\0" in request.scope["path"]:
        raise InvalidParameterError("the path has a NUL (%00) in it: no name has one")
    if not request.scope["query_string"]:
        return
    items = request.query_params.multi_items()
    _refuse_unknown_parameters(Counter(name for name, _ in items), request.scope["route"].dependant)
    for name, value in items:
        if "\0" in value:
            raise InvalidParameterError(f"{name} has a NUL (%00) in it: no name has one", pointer=name)


def _refuse_unknown_parameters(given: Counter[str], dependant: Dependant) -> None:
    takes_many = _TAKES_MANY.get(dependant.call)
    if takes_many is None:
        takes_many = _TAKES_MANY[dependant.call] = dict(_query_parameters(dependant))
    allowed = ", ".join(sorted(takes_many)) or "none"
    wrong = {}
    for name, count in given.items():
        if name not in takes_many:
            close = difflib.get_close_matches(name, takes_many, n=1)
            takes = f": did you mean {close[0]!r}? It takes" if close else ", which takes"
            wrong[name] = f"{name[:200]!r} is not a query parameter of this request{takes} {allowed}"
        elif count > 1 and not takes_many[name]:
            wrong[name] = f"{name!r} is given {count} times, and takes one value"
    if wrong:
        errors = [{"type": "query_parameter", "loc": ("query", name), "msg": told} for name, told in wrong.items()]
        raise RequestValidationError(errors)


# The query parameters of the endpoints that were asked with some, and whether each takes several values.
_TAKES_MANY: dict[Any, dict[str, bool]] = {}


def _query_parameters(dependant: Dependant) -> Iterator[tuple[str, bool]]:
    """Yield the names of an endpoint's query parameters, and whether each takes several values."""
    for field in dependant.query_params:
        annotation: Any = field.field_info.annotation
        yield field.alias, any(get_origin(part) is list for part in (annotation, *get_args(annotation)))
    for inner in dependant.dependencies:
        yield from _query_parameters(inner)


async def require_merge_patch(request: Request) -> None:
    """Refuse a body that does not say that it is a JSON merge patch (RFC 7396), or JSON.

    Raises:
        UnsupportedMediaTypeError: it does not say so.
    """
    given = request.headers.get("content-type", "")
    if given.partition(";")[0].strip().lower() not in {MERGE_PATCH, "application/json"}:
        raise UnsupportedMediaTypeError(
            f"Content-Type is {given or 'missing'}: send a JSON merge patch with the header `Content-Type: "
            f"{MERGE_PATCH}`, or application/json"
        )


async def require_json(request: Request) -> None:
    """Refuse a body that does not say that it is JSON (`curl -d` says that it is a form).

    Raises:
        UnsupportedMediaTypeError: it does not say so.
    """
    given = request.headers.get("content-type", "")
    if given.partition(";")[0].strip().lower() != "application/json":
        raise UnsupportedMediaTypeError(
            f"Content-Type is {given or 'missing'}: send JSON with the header `Content-Type: application/json`"
        )


async def attempt_token(
    lane: Lane,
    credentials: Annotated[
        HTTPAuthorizationCredentials | None,
        Depends(HTTPBearer(scheme_name="attempt", description="An attempt's own token.", auto_error=False)),
    ],
) -> str:
    """Return the token of the request, which belongs to an attempt, or did when it was sent before.

    Raises:
        UnauthorizedError: there is none, or it belongs to no attempt.
    """
    if credentials is None:
        raise UnauthorizedError("send the attempt's token: `Authorization: Bearer ...`")
    token = credentials.credentials

    def check(database: Database) -> None:
        with database.read_session() as session:
            ingest.authenticate(session, token)

    # A token belongs to the same attempt for ever: only whether a body is read depends on this.
    token_hash = hash_token(token)
    if not lane.knows(token_hash):
        await lane.run(check)
        lane.remember(token_hash)
    return token


async def _steps(
    first_step: Annotated[int | None, Query(ge=0, lt=2**63, description="Only this step and later ones.")] = None,
    last_step: Annotated[int | None, Query(ge=0, lt=2**63, description="Only this step and earlier ones.")] = None,
) -> StepRange:
    """Return the steps that are asked for.

    Raises:
        InvalidParameterError: the last one comes before the first.
    """
    if first_step is not None and last_step is not None and last_step < first_step:
        raise InvalidParameterError(
            f"last_step is {last_step} and must not be before first_step, which is {first_step}", pointer="last_step"
        )
    return StepRange(first_step, last_step)


# Owns what a request makes, and stands in the events of what it changes: every endpoint that changes a job takes it.
Owner = Annotated[str, Depends(owner)]
AttemptToken = Annotated[str, Depends(attempt_token)]
JobId = Annotated[str, Depends(_visible_job)]
SweepId = Annotated[str, Depends(_visible_sweep)]
UploadId = Annotated[str, Depends(_visible_upload)]
Steps = Annotated[StepRange, Depends(_steps)]
IdempotencyKey = Annotated[
    str | None,
    Header(
        min_length=1,
        max_length=255,
        pattern=r"^[\x21-\x7e]+$",
        description="Repeat a request under the same key and there is still one job. A deleted job takes its key "
        "with it: the next request under that key makes a new job.",
    ),
]
Limit = Annotated[int, Query(ge=1, le=1000, description="Items of one answer, at most.")]
After = Annotated[str | None, Query(max_length=500, pattern=CURSOR, description="`next_after` of the page before.")]
AfterSeq = Annotated[int, Query(ge=0, lt=2**63, description="Only what has a higher sequence number.")]
