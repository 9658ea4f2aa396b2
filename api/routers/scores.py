"""Rows scored by a trained flow as a job of its own, for more of them than one request may have."""

from __future__ import annotations

from typing import Annotated, Any

from anyio.to_thread import run_sync
from fastapi import APIRouter, Query, Request, Response

from symadj.api.bodies import Upload, file_body
from symadj.api.csv_parameters import CsvFile, CsvParameters
from symadj.api.dependencies import IdempotencyKey, JobId, Owner, SettingsOf, Store
from symadj.api.problems import describe
from symadj.api.receiving import Incoming, incoming
from symadj.api.same_keys import submitted_once
from symadj.api.schemas.jobs import JobRead
from symadj.service.contract import layout
from symadj.service.contract.flow_question import MediaType
from symadj.service.contract.records import ArtifactRecord
from symadj.service.contract.spec import ScoresSpec
from symadj.service.contract.spec.any_job import JobName
from symadj.service.contract.spec.data import FormatName
from symadj.service.contract.spec.scores import ScoresRequest, SolverSettings, TrainedFiles, Units, UploadedRows
from symadj.service.contract.storage import Storage
from symadj.service.errors import InvalidParameterError, InvalidRowsError
from symadj.service.identifiers import new_job_id
from symadj.service.lifecycle import figures, requests, scored
from symadj.service.settings import Settings
from symadj.service.store import Database, artifacts

router = APIRouter(prefix="/jobs/{job_id}/scores", tags=["scores"])

_FORMATS: dict[str, FormatName] = {
    MediaType.NPY: "npy",
    MediaType.CSV: "csv",
    MediaType.PARQUET: "parquet",
}


async def _may_score(_owner: Owner, _job: JobId) -> None:
    """Let those through who may see the trained job and submit one."""


_Body = Annotated[
    ScoresRequest | Upload, file_body(ScoresRequest, after=_may_score, most_bytes=2**20, most_values=50_000)
]
_OF_A_FILE = "Of a file that is sent; with JSON it is a field of the body."


@router.post(
    "",
    status_code=201,
    responses={
        200: {"model": JobRead, "description": "Known by its key"},
        **describe(400, 403, 404, 409, 413, 415, 429, 507),
    },
)
async def score_rows(
    store: Store,
    settings: SettingsOf,
    owner: Owner,
    job_id: JobId,
    body: _Body,
    request: Request,
    response: Response,
    csv_file: CsvParameters,
    workers: Annotated[int | None, Query(ge=1, le=4096, description=f"resources.workers. {_OF_A_FILE}")] = None,
    units: Annotated[Units | None, Query(description=_OF_A_FILE)] = None,
    solved: Annotated[SolverSettings | None, Query(alias="settings", description=_OF_A_FILE)] = None,
    name: Annotated[JobName | None, Query(description=_OF_A_FILE)] = None,
    idempotency_key: IdempotencyKey = None,
) -> JobRead:
    """Put a job into the queue that scores rows by this job's trained flow; its artifact `scores.parquet` has a row
    for each, in their order, with the column `log_prob`.

    The rows lie where the workers find them (JSON), or are the body: a file, of which the columns of the flow and of
    its context are taken by name; npy, and csv without a header, have them in this order.
    """
    named = {"workers": workers, "units": units, "settings": solved, "name": name}
    given: dict[str, Any] = {field: value for field, value in named.items() if value is not None}
    trained = await run_sync(_trained, store, job_id)
    storage, new_id = settings.resolved_storage(), new_job_id()
    async with incoming(storage, new_id) as files:
        if isinstance(body, Upload):
            if "workers" in given:
                given["resources"] = {"kind": "cpu", "workers": given.pop("workers")}
            written = given | {"data": await _received(body, csv_file, files, new_id, settings.upload_bytes)}
        elif given:
            pointer = next(iter(given))
            raise InvalidParameterError(
                f"{pointer} is for a file; with JSON it is a field of the body", pointer=pointer
            )
        else:
            written = body.model_dump(exclude_unset=True)
        spec = ScoresSpec.model_validate(written | {"trained": trained})
        read, files.kept = await run_sync(
            submitted_once, lambda: _submit(store, settings, storage, spec, owner, new_id, idempotency_key)
        )
    if not files.kept:
        response.status_code = 200
    response.headers["Location"] = str(request.app.url_path_for("read_job", job_id=read.id))
    return read


def _trained(store: Database, job_id: str) -> TrainedFiles:
    with store.read_session() as session:
        return scored.trained_files(session, job_id)


def _submit(
    store: Database,
    settings: Settings,
    storage: Storage,
    spec: ScoresSpec,
    owner: str,
    new_id: str,
    idempotency_key: str | None,
) -> tuple[JobRead, bool]:
    storage.reach()  # before the store is locked
    with store.session() as session:
        job, created = requests.submit(
            session,
            spec,
            owner=owner,
            job_id=new_id,
            idempotency_key=idempotency_key,
            max_queued=settings.max_queued_per_owner,
            max_bytes=settings.owner_disk_bytes,
        )
        if created:
            scored.adopt_flow(session, job, spec.trained, storage)
            if isinstance(spec.data, UploadedRows):
                record = ArtifactRecord(
                    name=spec.data.name,
                    media_type=next(str(kind) for kind, format in _FORMATS.items() if format == spec.data.format),
                    bytes=spec.data.bytes,
                    sha256=spec.data.sha256,
                )
                artifacts.add(session, job, 0, record)
        job_id = job.id
    with store.read_session() as session:
        return JobRead.of(figures.of_job(session, job_id, most_active=settings.max_active_per_owner)), created


async def _received(upload: Upload, csv_file: CsvFile, files: Incoming, job_id: str, most_bytes: int) -> UploadedRows:
    """Store the file of a request as an artifact, as it comes.

    Raises:
        InvalidRowsError: it has no bytes; and what ``Incoming.receive`` raises.
    """
    format = _FORMATS[upload.media_type]
    name = f"rows.{format}"
    received = await files.receive(upload, f"{layout.artifact_folder(job_id, 0)}/{name}", most_bytes)
    if not received.bytes:
        raise InvalidRowsError("the body is empty: send the file with the rows")
    return UploadedRows(
        kind="uploaded",
        name=name,
        format=format,
        bytes=received.bytes,
        sha256=received.sha256,
        **csv_file.fields(),
    )
