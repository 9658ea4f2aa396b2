"""What of the disk one owner may have."""

from __future__ import annotations

from sqlalchemy.orm import Session

from symadj.service.errors import NoRoomError
from symadj.service.store import jobs

__all__ = ["check_disk"]


def check_disk(session: Session, owner: str, max_bytes: int | None, *, more: int = 1) -> None:
    """Find out whether an owner may have ``more`` bytes; ``max_bytes`` is the share, None: no limit.

    Raises:
        NoRoomError: the owner may not.
    """
    if max_bytes is None:
        return
    held = jobs.bytes_of(session, owner)
    if held + more > max_bytes:
        raise NoRoomError(
            f"{owner}'s jobs and uploads have {held:,} bytes of files, and {max_bytes:,} are the owner's share "
            "(SYMADJ_OWNER_DISK_BYTES): delete jobs that are not needed (symadj delete) or uploads (symadj uploads "
            "delete), then try again. Jobs that were taken before may still write",
            held_bytes=held,
            max_bytes=max_bytes,
        )
