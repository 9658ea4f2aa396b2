"""Artifacts of a job: list and download."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated

from fastapi import APIRouter, Path, Request, Response
from fastapi.responses import FileResponse, StreamingResponse

from symadj.api.dependencies import JobId, SettingsOf, Store
from symadj.api.problems import describe
from symadj.api.schemas.telemetry import ArtifactList, ArtifactRead
from symadj.service.contract import layout
from symadj.service.contract.storage import Folder, Storage
from symadj.service.errors import NotFoundError
from symadj.service.store import artifacts, jobs

router = APIRouter(prefix="/jobs/{job_id}/artifacts", tags=["artifacts"])

# How much of a file in a bucket is passed on at once.
PIECE_BYTES = 2**20


@router.get("", responses=describe(404))
def list_artifacts(store: Store, settings: SettingsOf, request: Request, job_id: JobId) -> ArtifactList:
    """List the finished files of a job: weights, config, plots."""
    with store.read_session() as session:
        jobs.get(session, job_id)
        rows = artifacts.of_job(session, job_id)
    storage = settings.resolved_storage()
    return ArtifactList(
        items=[
            ArtifactRead(
                name=row.name,
                media_type=row.media_type,
                bytes=row.bytes,
                sha256=row.sha256,
                attempt=row.attempt,
                created_at=row.created_at,
                url=str(request.app.url_path_for("download_artifact", job_id=job_id, name=row.name)),
                path=storage.name(f"{layout.artifact_folder(job_id, row.attempt)}/{row.name}"),
            )
            for row in rows
        ]
    )


@router.get(
    "/{name}",
    response_class=FileResponse,
    responses={200: {"description": "The file", "content": {"*/*": {}}}, **describe(404)},
)
def download_artifact(
    store: Store, settings: SettingsOf, job_id: JobId, name: Annotated[str, Path(max_length=200)]
) -> Response:
    """Download a file. Its ETag is its SHA-256. Ranges are served from a folder only, not from a bucket."""
    with store.read_session() as session:
        jobs.get(session, job_id)
        artifact = artifacts.get(session, job_id, name)
    storage = settings.resolved_storage()
    path = f"{layout.artifact_folder(job_id, artifact.attempt)}/{artifact.name}"
    headers = {"ETag": f'"{artifact.sha256}"'}
    gone = f"{name!r} was stored at {storage.name(path)}, but that file is gone"
    if isinstance(storage, Folder):
        file = storage.path(path)
        if not file.is_file():
            raise NotFoundError(gone)
        return FileResponse(file, media_type=artifact.media_type, filename=artifact.name, headers=headers)
    try:
        headers["Content-Length"] = str(storage.size(path))
    except FileNotFoundError as error:
        raise NotFoundError(gone) from error
    # A name has no character that would have to be quoted.
    headers["Content-Disposition"] = f'attachment; filename="{artifact.name}"'
    return StreamingResponse(_pieces(storage, path), media_type=artifact.media_type, headers=headers)


def _pieces(storage: Storage, path: str) -> Iterator[bytes]:
    with storage.open(path) as stream:
        while piece := stream.read(PIECE_BYTES):
            yield piece
