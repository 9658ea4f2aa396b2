"""Artifacts of a job: list and download."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Path, Request
from fastapi.responses import FileResponse

from api.dependencies import JobId, SettingsOf, Store
from api.problems import describe
from api.schemas import ArtifactList, ArtifactRead
from service import lifecycle
from service.errors import NotFound
from service.store import artifacts, jobs

router = APIRouter(prefix="/jobs/{job_id}/artifacts", tags=["artifacts"])


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
                path=str(lifecycle.artifact_folder(storage, job_id, row.attempt) / row.name),
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
) -> FileResponse:
    """Download a file. Its ETag is its SHA-256."""
    with store.read_session() as session:
        jobs.get(session, job_id)
        artifact = artifacts.get(session, job_id, name)
    path = lifecycle.artifact_folder(settings.resolved_storage(), job_id, artifact.attempt) / artifact.name
    if not path.is_file():
        raise NotFound(f"{name!r} was stored at {path}, but there is no such file any more")
    return FileResponse(
        path, media_type=artifact.media_type, filename=artifact.name, headers={"ETag": f'"{artifact.sha256}"'}
    )
