"""Queries on logs: what the processes of a job's attempts print, within bounds.

Of each process the beginning is kept, and the newest lines. A line that stands for those in between has the number of
the last one of them, so that whoever reads on from any number learns of them once.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Session

from symadj.service.contract.records import LogRecord, Stream
from symadj.service.store.tables import Job, LogLine, LogSource

__all__ = ["HEAD_BYTES", "JOB_BYTES", "LINE_BYTES", "TAIL_BYTES", "append", "last_seq", "lines"]

# What is kept of one process: of its first lines, and of its newest.
HEAD_BYTES = 2**17
TAIL_BYTES = 2**19
# Of a job, of all its attempts.
JOB_BYTES = 2**24
# A line counts as its own bytes and these, which the store takes for it.
LINE_BYTES = 100
# So much more than may be is let come, so that not every batch deletes.
_SLACK = 1.25


def append(session: Session, job: Job, attempt: int, source: str, records: Sequence[LogRecord]) -> None:
    """Store what a process wrote, and leave out what it wrote before where that is too much.

    ``job`` must be locked: the lines get the numbers after its last one.
    """
    if not records:
        return
    seq = last_seq(session, job.id)
    rows: list[dict[str, Any]] = []
    about = {"job_id": job.id, "attempt": attempt, "source": source}
    for record in records:
        of_all = about | {"time": record.time}
        if record.left_out_bytes:
            rows.append(of_all | _gap(record.left_out_bytes))
        rows += (
            of_all
            | {"stream": record.stream, "text": text, "bytes": len(text.encode()) + LINE_BYTES, "left_out_bytes": 0}
            for text in record.lines
        )
    if not rows:
        return
    for row in rows:
        seq += 1
        row["seq"] = seq
    session.execute(sa.insert(LogLine), rows)
    stored = session.get(LogSource, (job.id, attempt, source))
    if stored is None:
        stored = LogSource(**about, bytes=0, head_end=None)
        session.add(stored)
    stored.bytes += sum(row["bytes"] for row in rows)
    session.flush()
    _bound_source(session, stored)
    _bound_job(session, job.id)


def _gap(left_out_bytes: int) -> dict[str, Any]:
    return {"stream": None, "text": "", "bytes": LINE_BYTES, "left_out_bytes": left_out_bytes}


def _bound_source(session: Session, stored: LogSource) -> None:
    """Leave out lines between the first and the newest of a process."""
    if stored.bytes <= HEAD_BYTES + _SLACK * TAIL_BYTES:
        return
    of_source = _of_source(stored.job_id, stored.attempt, stored.source)
    if stored.head_end is None:
        stored.head_end = _within(session, of_source, HEAD_BYTES)
    of_tail = sa.and_(of_source, LogLine.seq > stored.head_end)
    tail_bytes = int(session.execute(sa.select(sa.func.sum(LogLine.bytes)).where(of_tail)).scalar_one() or 0)
    if tail_bytes > TAIL_BYTES:
        _leave_out(session, stored, of_tail, _within(session, of_tail, tail_bytes - TAIL_BYTES))


def _bound_job(session: Session, job_id: str) -> None:
    """Leave out the oldest lines of a job, whichever process wrote them."""
    of_job = LogLine.job_id == job_id
    sizes = sa.select(sa.func.sum(LogSource.bytes)).where(LogSource.job_id == job_id)
    excess = int(session.execute(sizes).scalar_one()) - JOB_BYTES
    if excess <= 0:
        return
    last = _within(session, of_job, int(excess + (_SLACK - 1.0) * JOB_BYTES))
    of_oldest = sa.and_(of_job, LogLine.seq <= last)
    query = sa.select(LogLine.attempt, LogLine.source, sa.func.max(LogLine.seq)).where(of_oldest)
    for attempt, source, last_of_source in session.execute(query.group_by(LogLine.attempt, LogLine.source)).all():
        stored = session.get_one(LogSource, (job_id, attempt, source))
        _leave_out(session, stored, _of_source(job_id, attempt, source), last_of_source)


def _within(session: Session, where: sa.ColumnElement[bool], size: int) -> int:
    """Return the number of the line with which the first ones take ``size`` bytes or more."""
    taken, last = 0, 0
    for seq, line_bytes in session.execute(sa.select(LogLine.seq, LogLine.bytes).where(where).order_by(LogLine.seq)):
        taken, last = taken + line_bytes, seq
        if taken >= size:
            break
    return last


def _leave_out(session: Session, stored: LogSource, where: sa.ColumnElement[bool], last: int) -> None:
    """Put one line that says how many bytes it stands for in the place of all lines up to ``last``."""
    where = sa.and_(where, LogLine.seq <= last)
    printed = sa.case((LogLine.stream.is_(None), LogLine.left_out_bytes), else_=LogLine.bytes - LINE_BYTES + 1)
    query = sa.select(sa.func.sum(LogLine.bytes), sa.func.sum(printed), sa.func.max(LogLine.time)).where(where)
    taken, left_out, time = session.execute(query).one()
    session.execute(sa.delete(LogLine).where(where).execution_options(synchronize_session=False))
    about = {"job_id": stored.job_id, "attempt": stored.attempt, "source": stored.source, "time": time}
    session.execute(sa.insert(LogLine), [about | {"seq": last} | _gap(int(left_out))])
    stored.bytes += LINE_BYTES - int(taken)
    session.flush()


def _of_source(job_id: str, attempt: int, source: str) -> sa.ColumnElement[bool]:
    return sa.and_(LogLine.job_id == job_id, LogLine.attempt == attempt, LogLine.source == source)


def last_seq(session: Session, job_id: str) -> int:
    """Return the number of a job's newest line, 0 without any."""
    return session.execute(sa.select(sa.func.max(LogLine.seq)).where(LogLine.job_id == job_id)).scalar_one() or 0


def lines(
    session: Session,
    job_id: str,
    *,
    attempt: int | None = None,
    source: str | None = None,
    stream: Stream | None = None,
    after: int = 0,
    limit: int,
    newest: bool = False,
) -> Sequence[LogLine]:
    """Return lines with numbers above ``after``, in order: the first ``limit`` of them, or the ``newest``.

    Lines that stand for others are among those of any stream.
    """
    query = sa.select(LogLine).where(LogLine.job_id == job_id, LogLine.seq > after).limit(limit)
    if attempt is not None:
        query = query.where(LogLine.attempt == attempt)
    if source is not None:
        query = query.where(LogLine.source == source)
    if stream is not None:
        query = query.where(sa.or_(LogLine.stream == stream, LogLine.stream.is_(None)))
    if newest:
        return session.scalars(query.order_by(LogLine.seq.desc())).all()[::-1]
    return session.scalars(query.order_by(LogLine.seq)).all()
