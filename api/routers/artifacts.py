"""Artifacts of a job: list and download."""

from __future__ import annotations

import re
from typing import Annotated

from anyio.to_thread import run_sync
from fastapi import APIRouter, Header, Path, Request, Response
from fastapi.responses import StreamingResponse

from symadj.api import sending
from symadj.api.dependencies import JobId, SettingsOf, Store
from symadj.api.problems import describe
from symadj.api.schemas.telemetry import ArtifactList, ArtifactRead
from symadj.service.contract import layout
from symadj.service.errors import NotFoundError, RangeNotSatisfiableError
from symadj.service.store import artifacts, jobs
from symadj.service.store.tables import Artifact

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
                path=storage.name(f"{layout.artifact_folder(job_id, row.attempt)}/{row.name}"),
            )
            for row in rows
        ]
    )


@router.get(
    "/{name}",
    response_class=StreamingResponse,
    responses={
        200: {"description": "The file", "content": {"*/*": {}}},
        206: {"description": "A part of the file", "content": {"*/*": {}}},
        **describe(404, 416),
    },
)
async def download_artifact(
    store: Store,
    settings: SettingsOf,
    job_id: JobId,
    name: Annotated[str, Path(max_length=200, description="Of a file, as the list of files has it.")],
    asked: Annotated[
        str | None, Header(alias="range", max_length=100, description="`bytes=1000-`; of several ranges, all is sent.")
    ] = None,
    if_range: Annotated[
        str | None, Header(alias="if-range", max_length=200, description="The ETag of the file that a part is of.")
    ] = None,
) -> Response:
    """Download a file, or a part of it (Range). Its ETag is its SHA-256."""

    def find() -> Artifact:
        with store.read_session() as session:
            jobs.get(session, job_id)
            return artifacts.get(session, job_id, name)

    artifact = await run_sync(find)
    storage = await sending.ask(settings.resolved_storage)  # the first time it loads the library of a bucket
    path = f"{layout.artifact_folder(job_id, artifact.attempt)}/{artifact.name}"
    try:
        size = await sending.ask(lambda: storage.size(path))
    except FileNotFoundError as error:
        raise NotFoundError(f"{name!r} was stored at {storage.name(path)}, but that file is gone") from error
    etag = f'"{artifact.sha256}"'
    part = _part(asked, size) if if_range in {None, etag} else None
    first, end = part or (0, size)
    headers = {
        "ETag": etag,
        "Accept-Ranges": "bytes",
        "Content-Length": str(end - first),
        # A name has no character that would have to be quoted.
        "Content-Disposition": f'attachment; filename="{artifact.name}"',
    }
    if part is not None:
        headers["Content-Range"] = f"bytes {first}-{end - 1}/{size}"
    pieces = sending.pieces(storage, path, first, end)
    return StreamingResponse(pieces, 200 if part is None else 206, headers, media_type=artifact.media_type)


def _part(asked: str | None, size: int) -> tuple[int, int] | None:
    """Return the first byte that is asked for, and the one behind the last; None for the whole file.

    What is not one range of bytes counts for nothing (RFC 9110, 14.2).

    Raises:
        RangeNotSatisfiableError: the file has none of these bytes.
    """
    match = re.fullmatch(r"bytes\s*=\s*(\d*)-(\d*)", (asked or "").strip(), re.ASCII)
    if match is None or match.groups() == ("", ""):
        return None
    first, last = (int(number) if number else None for number in match.groups())
    if first is None:
        first, end = max(0, size - (last or 0)), size
    elif last is not None and last < first:
        return None
    else:
        end = size if last is None else min(last + 1, size)
    if first >= end:
        raise RangeNotSatisfiableError(f"Range is {asked!r}, and the file has {size} bytes")
    return first, end
