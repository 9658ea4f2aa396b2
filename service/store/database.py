"""Engine, sessions and migrations."""

from __future__ import annotations

import json
import select
import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import pydantic_core
import sqlalchemy as sa
from sqlalchemy.engine import Connection
from sqlalchemy.engine.interfaces import DBAPIConnection, DBAPICursor
from sqlalchemy.orm import Session, sessionmaker
from sqlalchemy.pool import ConnectionPoolEntry

from symadj.service.store.shape import Shape, shape_of

__all__ = ["BINARY", "Database", "rows_as_they_come"]

_MIGRATION_LOCK = 0x73796D61646A  # any number of our own, for PostgreSQL's advisory lock
_CONNECTION_SECONDS = 5.0
# Since its last use, a connection is taken to be alive unless it says something: to ask it takes a round trip.
_TRUSTED_SECONDS = 1.0
# An execution option of queries for many bytes. SQLAlchemy reads its own of PostgreSQL's catalogue as text alone.
BINARY = "symadj_binary"


def _configure_sqlite(connection: DBAPIConnection, _record: ConnectionPoolEntry) -> None:
    cursor = connection.cursor()
    cursor.execute("PRAGMA busy_timeout = 30000")
    _switch_to_wal(cursor)
    cursor.execute("PRAGMA foreign_keys = ON")
    cursor.execute("PRAGMA synchronous = NORMAL")
    cursor.close()


def _switch_to_wal(cursor: DBAPICursor) -> None:
    """Set the journal mode, which a new file keeps. SQLite does not wait for a lock here, whatever the busy timeout."""
    deadline = time.monotonic() + 30
    while True:
        try:
            cursor.execute("PRAGMA journal_mode = WAL")
            return
        except sqlite3.OperationalError as error:
            if "locked" not in str(error) or time.monotonic() > deadline:
                raise
            time.sleep(0.01)


def _let_bytes_be_bytes(_connection: Connection, cursor: Any, *rest: Any) -> None:
    """Let psycopg read the columns of a query with the option ``BINARY`` as they are, not as hexadecimal digits."""
    *_, context, _many = rest
    if context.execution_options.get(BINARY):
        cursor.format = 1


# PostgreSQL's driver gets so many at once, where its library can: each costs a call, and memory until it is read.
_ROWS_AT_ONCE = 8


def rows_as_they_come(session: Session, query: sa.Select[Any]) -> Iterator[tuple[Any, ...]]:
    """Yield the rows of a query for many bytes, as the driver makes them: SQLAlchemy's take longer than all else.

    PostgreSQL's are read while it sends the next ones. By itself its driver keeps all of them until the last is there.
    Until all are read, the session can't ask for anything else; whoever leaves them must leave the session.

    Raises:
        sqlalchemy.exc.OperationalError: the database does not answer any more.
    """
    connection = session.connection()
    if connection.dialect.name == "sqlite":
        yield from cast(Iterator[tuple[Any, ...]], connection.execute(query).cursor)
        return
    psycopg: Any = connection.dialect.loaded_dbapi
    size = _ROWS_AT_ONCE if psycopg.capabilities.has_stream_chunked() else 1
    statement = query.compile(connection, compile_kwargs={"render_postcompile": True})
    driver: Any = connection.connection.driver_connection
    try:
        with driver.cursor() as cursor:
            yield from cursor.stream(str(statement), statement.params, binary=True, size=size)
    except psycopg.OperationalError as error:
        raise sa.exc.OperationalError(str(statement), None, error) from error


# Of a connection's record in the pool: when it was given back, by the monotonic clock.
_USED = "symadj_used"


def _note_use(_connection: DBAPIConnection | None, record: ConnectionPoolEntry) -> None:
    record.info[_USED] = time.monotonic()


def _has_something_to_say(connection: Any) -> bool:
    """Return whether there is something to read of a connection that has asked nothing, as when the server ends."""
    readable = select.poll()
    readable.register(connection.fileno(), select.POLLIN)
    return bool(readable.poll(0))


def _from_json(text: str | bytes) -> Any:
    """Return JSON values as ``json.loads`` does, which takes three times as long."""
    try:
        return pydantic_core.from_json(text)
    except ValueError:
        return json.loads(text)  # it takes halves of characters, which earlier versions may have stored


class Database:
    """The store: one engine, sessions that commit once.

    It opens ``connections`` at most. Whoever needs one more waits ``_CONNECTION_SECONDS`` for it, and then gets
    SQLAlchemy's ``TimeoutError``.
    """

    def __init__(self, url: str, *, connections: int = 15) -> None:
        parsed = sa.make_url(url)
        self.is_sqlite = parsed.get_backend_name() == "sqlite"
        if self.is_sqlite and parsed.database:
            Path(parsed.database).parent.mkdir(parents=True, exist_ok=True)
        self.engine = sa.create_engine(
            parsed,
            pool_size=connections,
            max_overflow=0,
            pool_timeout=_CONNECTION_SECONDS,
            json_deserializer=_from_json,
        )
        if self.is_sqlite:
            sa.event.listen(self.engine, "connect", _configure_sqlite)
        else:
            sa.event.listen(self.engine, "before_cursor_execute", _let_bytes_be_bytes)
            # A connection to a server may have died since its last use; a file is always there.
            sa.event.listen(self.engine, "checkin", _note_use)
            sa.event.listen(self.engine, "checkout", self._ping_unused)
        self._sessions = sessionmaker(self.engine, expire_on_commit=False)

    @contextmanager
    def session(self) -> Iterator[Session]:
        """A session for reading and writing: commits at the end, rolls back on an exception.

        On SQLite a transaction that will write takes the write lock at its first statement: one that reads first and
        then writes could fail at once with "database is locked", whatever the busy timeout.
        """
        with self._sessions() as session, session.begin():
            if self.is_sqlite:
                session.connection().exec_driver_sql("BEGIN IMMEDIATE")
            yield session

    @contextmanager
    def read_session(self) -> Iterator[Session]:
        """A session for reading alone: takes no lock, sees one consistent state."""
        with self._sessions() as session:
            if self.is_sqlite:
                session.connection().exec_driver_sql("BEGIN")
            else:  # by itself, PostgreSQL shows each statement what was committed before it
                session.connection(execution_options={"isolation_level": "REPEATABLE READ"})
            yield session

    def _ping_unused(self, connection: Any, record: ConnectionPoolEntry, _proxy: object) -> None:
        """Ask a connection whether it is alive, as ``pool_pre_ping`` does, unless it was used just now.

        Raises:
            InvalidatePoolError: it is not, for the pool to open others.
        """
        used = record.info.get(_USED)
        if used is None:  # it is new
            return
        try:
            if time.monotonic() - used >= _TRUSTED_SECONDS or _has_something_to_say(connection):
                self.engine.dialect.do_ping(connection)
        except self.engine.dialect.loaded_dbapi.Error as error:
            raise sa.exc.InvalidatePoolError from error

    def migrate(self) -> None:
        """Bring the tables to this version's shape; safe to call from several processes at once."""
        if self.shape().is_current:
            return
        # Alembic, its template engine and that one's highlighter take 10 MiB, which a process keeps.
        from symadj.service.store.migrations.upgrade import upgrade_to_newest

        with self.engine.connect() as connection:
            if self.is_sqlite:
                connection.exec_driver_sql("BEGIN IMMEDIATE")
            else:
                connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({_MIGRATION_LOCK})")
            upgrade_to_newest(connection)
            connection.commit()

    def shape(self) -> Shape:
        """Return which migration the tables are of, and which is the newest; nothing is changed."""
        with self.engine.connect() as connection:
            return shape_of(connection)

    def check(self) -> None:
        """Raise what the database raises if it does not answer."""
        with self.engine.connect() as connection:
            connection.execute(sa.text("SELECT 1"))

    def check_writable(self) -> None:
        """Raise what the database raises if it does not let a writer in."""
        with self.session() as session:
            session.execute(sa.text("SELECT 1"))

    def check_takes_writes(self) -> None:
        """Raise what the database raises if it stores nothing: its disk is full, or it may only be read.

        A row is written as it is: what was not committed would not show that there is no room.
        """
        with self.session() as session:
            session.execute(sa.text("UPDATE alembic_version SET version_num = version_num"))

    def close(self) -> None:
        """Close all connections."""
        self.engine.dispose()
