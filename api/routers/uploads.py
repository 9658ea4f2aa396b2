"""Files that users send to be trained on."""

from __future__ import annotations

from contextlib import suppress
from datetime import UTC, datetime
from typing import Annotated

from anyio.to_thread import run_sync
from fastapi import APIRouter, Query, Request, Response

from symadj.api.bodies import Upload, bytes_body
from symadj.api.dependencies import After, Asker, Limit, Owner, SettingsOf, Store, UploadId
from symadj.api.problems import describe
from symadj.api.receiving import incoming
from symadj.api.same_keys import submitted_once
from symadj.api.schemas.uploads import UploadList, UploadRead
from symadj.service.contract.layout import uploaded_file
from symadj.service.contract.spec.data import ENDINGS, format_of
from symadj.service.errors import InvalidParameterError
from symadj.service.identifiers import new_upload_id
from symadj.service.lifecycle import shares
from symadj.service.lifecycle import uploads as lifecycle
from symadj.service.settings import Settings
from symadj.service.store import Database, tables, uploads

router = APIRouter(prefix="/uploads", tags=["uploads"])

# Of a name in UTF-8: file systems take 255.
_MOST_BYTES_OF_A_NAME = 200


async def _may_upload(_owner: Owner) -> None:
    """Let those through who may submit jobs."""


@router.post(
    "",
    status_code=201,
    responses={
        200: {"model": UploadRead, "description": "The same content was sent before: that upload"},
        **describe(400, 403, 413, 415, 429, 507),
    },
)
async def upload_file(
    store: Store,
    settings: SettingsOf,
    owner: Owner,
    file: Annotated[Upload, bytes_body(after=_may_upload)],
    name: Annotated[
        str,
        Query(
            min_length=1,
            max_length=_MOST_BYTES_OF_A_NAME,
            pattern=r"^\w[\w ()+,.=-]*$",
            examples=["cells.fcs"],
            description="Of the file, with the ending that says its format: letters of any script, digits, space and "
            "`_ ( ) + , . = -`.",
        ),
    ],
    request: Request,
    response: Response,
) -> UploadRead:
    """Send a file, the body, to be trained on. A spec of the same owner names it by its `path`.

    What was sent before, the same bytes in the same format, is not stored twice: the answer is 200 with that upload.
    """
    format = format_of(name)
    if format is None:
        raise InvalidParameterError(
            f"name: the format of {name!r} can't be recognised by its ending (known: {', '.join(ENDINGS)})",
            pointer="name",
        )
    if len(name.encode()) > _MOST_BYTES_OF_A_NAME:
        raise InvalidParameterError(
            f"name has {len(name.encode())} bytes in UTF-8, and {_MOST_BYTES_OF_A_NAME} at most: send a shorter one",
            pointer="name",
        )
    await run_sync(_check_share, store, settings, owner)
    storage, upload_id = settings.resolved_storage(), new_upload_id()
    async with incoming(storage, upload_id) as files:
        received = await files.receive(file, uploaded_file(upload_id, name), settings.upload_bytes)
        if not received.bytes:
            raise InvalidParameterError("the body is empty: send the bytes of the file")
        row = tables.Upload(
            id=upload_id,
            owner=owner,
            name=name,
            format=format,
            bytes=received.bytes,
            sha256=received.sha256,
            created_at=datetime.now(UTC),
        )
        read, files.kept = await run_sync(submitted_once, lambda: _keep(store, settings, row))
    if not files.kept:
        response.status_code = 200
    response.headers["Location"] = str(request.app.url_path_for("read_upload", upload_id=read.id))
    return read


def _check_share(store: Database, settings: Settings, owner: str) -> None:
    with store.read_session() as session:
        shares.check_disk(session, owner, settings.owner_disk_bytes)


def _keep(store: Database, settings: Settings, row: tables.Upload) -> tuple[UploadRead, bool]:
    with store.session() as session:
        kept, created = lifecycle.keep(session, row, max_bytes=settings.owner_disk_bytes)
        return UploadRead.of(kept), created


@router.get("")
def list_uploads(
    store: Store,
    asker: Asker,
    limit: Limit = 50,
    after: After = None,
) -> UploadList:
    """List uploads, newest first; with a submitter's key their own."""
    with store.read_session() as session:
        page = uploads.page(session, owner=asker.confined_to, limit=limit, after=after)
    items = [UploadRead.of(upload) for upload in page.items]
    return UploadList(items=items, has_more=page.next_after is not None, next_after=page.next_after)


@router.get("/{upload_id}", responses=describe(404))
def read_upload(store: Store, upload_id: UploadId) -> UploadRead:
    """Read what an upload is."""
    with store.read_session() as session:
        return UploadRead.of(uploads.get(session, upload_id))


@router.delete("/{upload_id}", status_code=204, responses=describe(403, 404, 409))
def delete_upload(store: Store, settings: SettingsOf, _owner: Owner, upload_id: UploadId) -> None:
    """Delete an upload that no job or sweep names any more which has not ended."""
    storage = settings.resolved_storage()
    storage.reach()  # before the store is locked
    with store.session() as session:
        set_aside = lifecycle.delete(session, uploads.lock(session, upload_id), storage=storage)
    if set_aside:
        # The dispatcher removes what a crash leaves of it, and may have done so already.
        with suppress(OSError):
            storage.discard(upload_id)
