"""Files that owners send to be trained on: kept, named by the specs of their owner's jobs, deleted.

The file of an upload lies in the storage under the path by which a spec names it (``layout.uploaded_file``). A run
reads those that its order names, and the order names those that its spec does.
"""

from __future__ import annotations

from sqlalchemy.orm import Session

from symadj.service.contract.layout import upload_of, uploaded_file
from symadj.service.contract.spec import AnySpec
from symadj.service.contract.spec.data import paths_of
from symadj.service.contract.storage import Storage
from symadj.service.contract.uploaded import UploadedFile
from symadj.service.errors import ConflictError, InvalidSpecError
from symadj.service.lifecycle.shares import check_disk
from symadj.service.store import uploads
from symadj.service.store.tables import Upload

__all__ = ["check_named", "delete", "files_of", "keep"]

# That are told to whoever wants to delete what they name.
_MOST_TOLD = 10


def keep(session: Session, upload: Upload, *, max_bytes: int | None) -> tuple[Upload, bool]:
    """Store an upload whose file has come in; return it, or that of the same content, and whether it is new.

    Raises:
        NoRoomError: with it, the owner would have more than ``max_bytes``.
        IntegrityError: another request has just stored the same content: try again.
    """
    known = uploads.same_as(session, upload)
    if known is not None:
        return known, False
    check_disk(session, upload.owner, max_bytes, more=upload.bytes)
    uploads.add(session, upload)
    return upload, True


def check_named(session: Session, spec: AnySpec, *, owner: str | None, keep: bool = False) -> None:
    """Find out whether the uploads that a spec names are there.

    Args:
        session: of the store.
        spec: of a job.
        owner: whose they must be; None: anybody's.
        keep: whether they must stay until the session commits, which only one that writes may ask for.

    Raises:
        InvalidSpecError: one is not there, or is another owner's.
    """
    found = _by_path(session, spec, keep=keep)
    for field, path in paths_of(spec.data).items():
        if upload_of(path) is not None and (path not in found or owner not in {None, found[path].owner}):
            whose = "an upload" if owner is None else f"an upload of {owner}"
            raise InvalidSpecError(
                f"data.{field} {path!r} is not {whose}: `symadj uploads` shows them with their paths, and `symadj "
                "upload FILE` sends a file",
                pointer=f"/data/{field}",
            )


def files_of(session: Session, spec: AnySpec, storage: Storage) -> tuple[UploadedFile, ...]:
    """Return the files of the uploads that a spec names, as whoever reads them is told of them."""
    return tuple(
        UploadedFile(path=path, storage=storage.location, bytes=upload.bytes, sha256=upload.sha256)
        for path, upload in _by_path(session, spec).items()
    )


def _by_path(session: Session, spec: AnySpec, *, keep: bool = False) -> dict[str, Upload]:
    ids = {upload_id for path in paths_of(spec.data).values() if (upload_id := upload_of(path)) is not None}
    return {uploaded_file(upload.id, upload.name): upload for upload in uploads.find_all(session, ids, keep=keep)}


def delete(session: Session, upload: Upload, *, storage: Storage) -> bool:
    """Delete an upload, whose row is locked, that nothing needs any more.

    Its folder is set aside, for the caller to discard after the commit. Returned is whether there is one.

    Raises:
        ConflictError: a job or a sweep that has not ended names it.
        OSError: the storage can't be written, or does not answer.
    """
    named_by = uploads.named_by(session, upload)
    if named_by:
        more = f" and {len(named_by) - _MOST_TOLD:,} more" if len(named_by) > _MOST_TOLD else ""
        raise ConflictError(
            f"upload {upload.id!r} is named by {', '.join(named_by[:_MOST_TOLD])}{more}: delete it when they have "
            "ended, or cancel them first",
            named_by=list(named_by[:_MOST_TOLD]),
        )
    uploads.delete(session, upload)
    session.flush()
    return storage.set_aside(upload.id)
