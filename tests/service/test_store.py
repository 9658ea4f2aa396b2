"""The store itself."""

from __future__ import annotations

import random
import subprocess
import sys
from contextlib import closing
from datetime import UTC, datetime, timedelta

import pytest
import sqlalchemy as sa
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy.orm import Session

from symadj.service.contract.spec import JobSpec
from symadj.service.store import Database, jobs
from symadj.service.store.migrations.upgrade import alembic_config
from symadj.service.store.shape import known_migrations
from symadj.service.store.tables import Base, Job, JobLabel
from tests.conftest import TOY


def test_the_migrations_make_the_tables_that_the_code_has(database: Database) -> None:
    with database.engine.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), Base.metadata) == []


def test_the_names_of_the_files_tell_the_migrations_and_their_order(database: Database) -> None:
    with database.engine.connect() as connection:
        scripts = ScriptDirectory.from_config(alembic_config(connection))
    assert known_migrations() == [script.revision for script in scripts.walk_revisions()][::-1]


ALEMBIC_IN_A_SECOND_START = """
import sys
from symadj.service.store import Database
Database(sys.argv[1]).migrate()
print([name for name in ("alembic", "mako", "pygments") if name in sys.modules])
"""


def test_a_process_that_finds_the_tables_as_they_must_be_loads_no_alembic(database: Database) -> None:
    url = database.engine.url.render_as_string(hide_password=False)
    command = [sys.executable, "-c", ALEMBIC_IN_A_SECOND_START, url]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


# Copies of one process: each would import for a second of a core.
MIGRATE_TOGETHER = """
import os, sys
from symadj.service.store import Database
children = []
for _ in range(4):
    children.append(os.fork())
    if children[-1] == 0:
        Database(sys.argv[1]).migrate()
        os._exit(0)
assert [os.waitpid(child, 0)[1] for child in children] == [0] * 4
"""


def test_processes_that_start_together_migrate_once(new_database_url: str) -> None:
    command = [sys.executable, "-c", MIGRATE_TOGETHER, new_database_url]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def stored_job(job_id: str, **labels: str) -> Job:
    """Return the row of a job that was accepted before."""
    now = datetime.now(UTC)
    spec = JobSpec.model_validate(TOY).stored() | {"labels": labels}
    times = {"created_at": now, "updated_at": now}
    return Job(id=job_id, name="flow", owner="ada", spec=spec, priority=0, state="succeeded", **times)


def store_as_before(session: Session, *stored: Job) -> None:
    """Store jobs in tables of an earlier version, which lack the columns that came since."""
    for job in stored:
        values = {name: value for name, value in vars(job).items() if name in Job.__table__.columns}
        session.execute(sa.insert(Job.__table__).values(values))


def test_jobs_of_earlier_versions_are_found_by_their_labels(new_database_url: str) -> None:
    store = Database(new_database_url)
    with store.engine.begin() as connection:
        command.upgrade(alembic_config(connection), "0004")
    with store.session() as session:
        # The last one has what was accepted once, and what no filter can ask for.
        store_as_before(
            session,
            stored_job("job-1", team="x", exp="a"),
            stored_job("job-2", team="x", exp="b"),
            stored_job("job-3", team="x", nul="a\0"),
        )
    store.migrate()
    with store.read_session() as session:
        found = jobs.page(session, labels=[("team", "x"), ("exp", "a")], limit=9).items
        assert [job.id for job in found] == ["job-1"]
        assert len(jobs.page(session, labels=[("team", "x")], limit=9).items) == 3
    store.close()


def test_a_filter_by_labels_uses_their_index(database: Database) -> None:
    explain, prepare = "EXPLAIN QUERY PLAN", "SELECT 1"
    if not database.is_sqlite:
        explain, prepare = "EXPLAIN", "SET enable_seqscan = off"  # which a table this small would get
    plans: list[str] = []

    def note(connection: sa.Connection, _cursor: object, statement: str, parameters: object, *_: object) -> None:
        if "job_labels" in statement and not statement.startswith("EXPLAIN"):
            rows = connection.exec_driver_sql(f"{explain} {statement}", parameters)  # type: ignore[arg-type]
            plans.append("\n".join(str(row) for row in rows))

    with database.read_session() as session:
        session.execute(sa.text(prepare))
        sa.event.listen(session.connection(), "before_cursor_execute", note)
        jobs.page(session, labels=[("team", "x"), ("exp", "a")], limit=9)
    (plan,) = plans
    assert plan.count("ix_job_labels_name_value") == 2, plan


def test_labels_go_with_their_job(database: Database) -> None:
    with database.session() as session:
        jobs.add(session, stored_job("job-1", team="x"))
    with database.session() as session:
        assert session.scalars(sa.select(JobLabel.value)).all() == ["x"]
        jobs.delete(session, jobs.get(session, "job-1"))
    with database.session() as session:
        assert session.scalars(sa.select(JobLabel.value)).all() == []


def test_places_in_the_queue_follow_its_order_whichever_of_them_are_asked_for(database: Database) -> None:
    chosen = random.Random(0)
    now = datetime.now(UTC)
    with database.session() as session:
        for number in range(60):
            job = stored_job(f"job-{number}")
            job.state = "queued" if number % 7 else "running"
            job.priority = chosen.choice([-1, 0, 0, 0, 5])
            job.created_at = now + timedelta(seconds=chosen.randrange(20))  # some at the same time
            session.add(job)
    with database.read_session() as session:
        queue = [job.id for job in jobs.first_queued(session, None, limit=100)]
        for count in (1, 2, 10, 60):
            asked = chosen.sample([f"job-{number}" for number in range(60)], count)
            wanted = {job_id: queue.index(job_id) + 1 for job_id in asked if job_id in queue}
            found = jobs.places(session, asked)
            assert {job_id: item.place for job_id, item in found.items()} == wanted
            assert {item.active for item in found.values()} <= {60 - len(queue)}


@pytest.mark.parametrize("backend", ["postgresql"], indirect=True)
def test_a_connection_that_the_server_has_ended_is_replaced_before_it_is_used(
    database: Database, store_url: str
) -> None:
    own_process = sa.text("SELECT pg_backend_pid()")
    with database.session() as session:
        ended = session.execute(own_process).scalar_one()
    with closing(Database(store_url)) as other, other.session() as session:
        assert session.execute(sa.func.pg_terminate_backend(ended, 10_000)).scalar_one()
    with database.session() as session:
        assert session.execute(own_process).scalar_one() != ended


def test_a_session_for_reading_sees_one_state_whatever_is_written_meanwhile(database: Database) -> None:
    def stored(session: Session) -> list[str]:
        return list(session.scalars(sa.select(Job.id).order_by(Job.id)))

    with database.session() as session:
        jobs.add(session, stored_job("job-1"))
    with database.read_session() as reading:
        assert stored(reading) == ["job-1"]
        with database.session() as session:
            jobs.add(session, stored_job("job-2"))
        assert stored(reading) == ["job-1"]
    with database.read_session() as reading:
        assert stored(reading) == ["job-1", "job-2"]
