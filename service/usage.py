"""What the service has stored: rows, bytes of the store, bytes of the jobs' folders and the uploads, what is free."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path

import sqlalchemy as sa
from sqlalchemy.orm import Session

from symadj.service.contract.layout import UPLOADS, upload_of
from symadj.service.contract.storage import is_url
from symadj.service.settings import Settings
from symadj.service.store import Database
from symadj.service.store.tables import Base

__all__ = ["JobBytes", "Usage", "disk_of", "folders", "rows_by_table", "store_bytes", "usage"]

LARGEST_JOBS = 100


@dataclass(frozen=True)
class JobBytes:
    """Bytes of one job's folder."""

    job_id: str
    bytes: int


@dataclass(frozen=True)
class Usage:
    """``jobs`` are the largest folders, the largest first; ``jobs_bytes`` is of all, ``uploads_bytes`` of all uploads.

    ``free_bytes`` is of the disk; None in a bucket, which has no such figure.
    """

    rows: dict[str, int]
    store_bytes: int
    jobs: list[JobBytes]
    jobs_bytes: int
    uploads_bytes: int
    free_bytes: int | None


def usage(session: Session, database: Database, settings: Settings) -> Usage:
    """Return what is stored now. The files are listed, and the rows counted: seconds, if there is much.

    Raises:
        OSError: the storage can't be read, or does not answer.
    """
    storage = settings.resolved_storage()
    sizes = storage.sizes()
    uploads_bytes = sum(size for name, size in sizes.items() if upload_of(name) is not None)
    folders = [JobBytes(name, size) for name, size in sizes.items() if name != UPLOADS and upload_of(name) is None]
    folders.sort(key=lambda job: (-job.bytes, job.job_id))
    return Usage(
        rows=rows_by_table(session),
        store_bytes=store_bytes(session, database),
        jobs=folders[:LARGEST_JOBS],
        jobs_bytes=sum(job.bytes for job in folders),
        uploads_bytes=uploads_bytes,
        free_bytes=storage.free_bytes(),
    )


def folders(settings: Settings) -> dict[str, Path]:
    """Return the folders on this machine that fill, by what they are for; neither a bucket nor a server is one."""
    found = {"data": settings.data}
    store = sa.make_url(settings.resolved_store_url())
    if store.get_backend_name() == "sqlite" and store.database:
        found["store"] = Path(store.database)
    storage = settings.storage or str(settings.data / "jobs")
    if not is_url(storage):
        found["storage"] = Path(storage)
    if settings.spool is not None:
        found["spool"] = settings.spool
    return found


def disk_of(place: Path) -> tuple[int, int]:
    """Return the bytes, and the free ones, of the disk that has a file or folder, or will have it."""
    there = place.resolve()
    total, _, free = shutil.disk_usage(next(path for path in (there, *there.parents) if path.exists()))
    return total, free


def rows_by_table(session: Session) -> dict[str, int]:
    """Return how many rows each table has."""
    tables = sorted(Base.metadata.tables.values(), key=lambda table: table.name)
    return {table.name: session.execute(sa.select(sa.func.count()).select_from(table)).scalar_one() for table in tables}


def store_bytes(session: Session, database: Database) -> int:
    """Return the bytes of the database; of SQLite, those of its file and its write-ahead log."""
    if not database.is_sqlite:
        return int(session.execute(sa.text("SELECT pg_database_size(current_database())")).scalar_one())
    path = database.engine.url.database
    assert path is not None
    return sum(os.path.getsize(file) for file in (path, f"{path}-wal") if os.path.exists(file))
