"""`symadj doctor`, on a healthy service and where much is wrong."""

from __future__ import annotations

import json
import sqlite3
import subprocess
from collections.abc import Iterator
from contextlib import closing, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from types import SimpleNamespace
from typing import Any

import pytest

from symadj import __version__
from symadj.api import diagnosis
from tests.api.test_cli import SYMADJ
from tests.command import run_symadj
from tests.conftest import ApiServer

Checks = dict[str, dict[str, Any]]


def doctor(url: str, **environment: str) -> tuple[int, Checks]:
    """Its exit status, and its checks by name."""
    command = [SYMADJ, "doctor", "--json", "--url", url]
    environment |= {"PATH": "/usr/bin:/bin", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert "Traceback" not in done.stderr
    return done.returncode, {check["name"]: check for check in json.loads(done.stdout)["checks"]}


def test_nothing_fails_on_a_healthy_service(api_server: ApiServer) -> None:
    status, checks = doctor(api_server.url, SYMADJ_DATA=str(api_server.data))
    assert (status, [name for name, check in checks.items() if check["status"] == "fail"]) == (0, [])
    assert checks["server"]["found"] == f"{api_server.url}, symadj {__version__}, as here"
    assert checks["key"]["found"] == "none is asked for: local, admin"
    assert "of this version" in checks["store"]["found"]
    assert {"python", "packages (service)", "torch", "memory", "shared memory", "data folder", "clock"} <= checks.keys()
    # The API is alone here.
    assert checks["server's parts"]["status"] == "warn"
    assert all(check["advice"] for check in checks.values() if check["status"] != "ok")


class Ill(BaseHTTPRequestHandler):
    """A server of another version and of another time, which knows no key, and a Ray of another version."""

    ANSWERS = {  # noqa: RUF012 - read only
        "/healthz": {"status": "ok", "version": "0.0.1"},
        "/readyz": {"store": "ok", "ray": "ok"},
        "/api/version": {"ray_version": "0.0.1"},
    }

    def do_GET(self) -> None:
        known = self.ANSWERS.get(self.path)
        self.send_response(401 if known is None else 200)
        self.end_headers()
        self.wfile.write(json.dumps(known or {"title": "Unauthorized", "detail": "the key has expired"}).encode())

    def date_time_string(self, timestamp: float | None = None) -> str:
        return "Thu, 01 Jan 2026 00:00:00 GMT"

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@contextmanager
def ill_server() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Ill) as server:
        Thread(target=server.serve_forever, args=(0.01,)).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_what_is_wrong_is_told_with_what_to_do(tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / "symadj.sqlite")) as store, store:
        store.execute("CREATE TABLE alembic_version (version_num TEXT)")
        store.execute("INSERT INTO alembic_version VALUES ('9999')")
    with ill_server() as url:
        status, checks = doctor(url, SYMADJ_DATA=str(tmp_path), SYMADJ_RAY_ADDRESS=url, SYMADJ_API_KEY="symadj_x")
    told = {name: (check["status"], check["found"]) for name, check in checks.items()}
    assert status == 1
    assert told["server"] == ("warn", f"{url}, symadj 0.0.1, and {__version__} here")
    assert told["key"] == ("fail", "the key has expired")
    assert told["store"] == ("fail", "its tables (9999) are of a later version")
    assert told["ray"][0] == "fail"
    assert told["clock"][0] == "warn"
    assert "behind this one" in told["clock"][1]
    assert all(check["advice"] for check in checks.values() if check["status"] != "ok")


def test_without_a_server_the_rest_is_looked_at(tmp_path: Path) -> None:
    status, checks = doctor("http://127.0.0.1:9", SYMADJ_DATA=str(tmp_path / "not made"))
    assert (status, checks["server"]["status"], checks["data folder"]["status"]) == (1, "fail", "ok")
    assert not (tmp_path / "not made").exists()


@pytest.fixture
def small_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine on which disks, /dev/shm and memory are short, as none can be made so; return its control group."""
    free = {"data": 3 * 2**30, "spool": 2**28, "shm": 2**26}
    for name in ("data", "spool"):
        (tmp_path / name).mkdir()
    monkeypatch.setattr(
        diagnosis.shutil, "disk_usage", lambda path: SimpleNamespace(free=free[Path(path).name], total=2**40)
    )
    monkeypatch.setattr(diagnosis.psutil, "virtual_memory", lambda: SimpleNamespace(available=2**35, total=2**36))
    monkeypatch.setattr(diagnosis, "_CONTROL_GROUP", tmp_path)
    monkeypatch.setattr(diagnosis, "_TORCH", "raise SystemExit")
    return tmp_path


def doctor_here(folder: Path) -> Checks:
    """The checks of a doctor in this process, whose data and spool are in a folder."""
    environment = {f"SYMADJ_{name.upper()}": str(folder / name) for name in ("data", "spool")}
    done = run_symadj("doctor", "--json", "--url", "http://127.0.0.1:9", environment=environment)
    return {check["name"]: check for check in json.loads(done.stdout)["checks"]}


def test_disks_and_shared_memory_that_are_nearly_full_are_told_with_what_to_do(small_machine: Path) -> None:
    checks = doctor_here(small_machine)
    told = {name: (check["status"], check["found"]) for name, check in checks.items()}
    assert told["data folder"] == ("warn", f"{small_machine}/data: 3.0GiB free")
    assert told["spool folder"] == ("fail", f"{small_machine}/spool: 256.0MiB free")
    assert told["shared memory"] == ("warn", "64.0MiB free in /dev/shm")
    assert "symadj delete" in checks["data folder"]["advice"]
    assert "--shm-size" in checks["shared memory"]["advice"]


@pytest.mark.parametrize(
    ("limit", "used"),
    [("memory.max", "memory.current"), ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes")],
    ids=["version 2", "version 1"],
)
def test_a_container_with_little_memory_left_is_told_whatever_its_machine_has(
    small_machine: Path, limit: str, used: str
) -> None:
    assert doctor_here(small_machine)["memory"]["status"] == "ok", "no container"
    (small_machine / "memory").mkdir()
    (small_machine / limit).write_text(f"{4 * 2**30}\n")
    (small_machine / used).write_text(f"{3 * 2**30}\n")
    memory = doctor_here(small_machine)["memory"]
    assert memory["status"] == "warn"
    assert "the control group allows 4.0GiB, of which 3.0GiB are taken" in memory["found"]
    assert "raise the limit" in memory["advice"]
