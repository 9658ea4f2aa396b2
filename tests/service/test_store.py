"""The store itself."""

from __future__ import annotations

import subprocess
import sys

from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext

from symadj.service.store import Database
from symadj.service.store.tables import Base


def test_the_migrations_make_the_tables_that_the_code_has(database: Database) -> None:
    with database.engine.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), Base.metadata) == []


def test_processes_that_start_together_migrate_once(new_database_url: str) -> None:
    code = f"from symadj.service.store import Database; Database({new_database_url!r}).migrate()"
    started = [subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE) for _ in range(4)]
    outputs = [process.communicate()[1] for process in started]
    assert [process.returncode for process in started] == [0] * 4, outputs
