"""``symadj serve``: the whole service on one machine, in the foreground.

A supervisor of three children: a local Ray head, the API (uvicorn) and the dispatcher. It starts them in this order,
starts again the one that dies, and stops them all when it is told to stop. Should it be killed itself, the kernel
stops them (Linux).
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import IO

import httpx

__all__ = ["ServeError", "serve"]

RAY_START_SECONDS = 120.0
API_START_SECONDS = 60.0
STOP_SECONDS = 20.0
# Ray keeps its Unix sockets below its temporary folder, and their paths may have 107 characters at most.
RAY_FOLDER = Path("/tmp")


class ServeError(Exception):
    """The service can't start; the message says what to do."""


@dataclass
class Child:
    """One process of the service."""

    name: str
    command: list[str]
    environment: dict[str, str]
    log: Path
    ready_urls: tuple[str, ...]
    process: subprocess.Popen[bytes] | None = None
    restarts: int = 0
    restart_at: float = 0.0
    started_at: float = 0.0

    def start(self) -> None:
        """Start it; its output is appended to its log."""
        self.started_at = time.monotonic()
        with self.log.open("ab") as output:
            self.process = subprocess.Popen(
                self.command,
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                # Ray puts the folder in which it was started before a worker's packages: not the user's, then.
                cwd=self.log.parent,
                start_new_session=True,  # Ctrl-C is for the supervisor, which stops the others in order
                preexec_fn=_die_with_parent,
            )

    def stop(self) -> None:
        """Ask it to stop, then make it, with all that it started."""
        if self.process is None:
            return
        if self.process.poll() is None:
            self.process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(STOP_SECONDS)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def tail(self, lines: int = 15) -> str:
        """Return the end of its log."""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])


def _die_with_parent() -> None:
    if sys.platform == "linux":
        pr_set_pdeathsig = 1
        ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGTERM)


def serve(host: str, port: int, data: Path, *, cpus: int | None, announce: Callable[[str, Path], None]) -> None:
    """Run the service until SIGTERM or SIGINT.

    Args:
        host: address on which the API listens.
        port: its port; 0 takes a free one.
        data: folder of the store, the jobs' files and the logs; made if it is not there.
        cpus: CPUs that Ray may give to workers; None: all.
        announce: called with the API's URL and the data folder when everything answers.

    Raises:
        ServeError: the port or the folder is in use, or a child does not start.
    """
    data = data.resolve()
    logs = data / "logs"
    logs.mkdir(parents=True, exist_ok=True)
    lock = _lock(data)
    if any(character.isspace() for character in sys.executable):
        raise ServeError(
            f"Ray can't start from a path with spaces, as {sys.executable!r} has: install symadj elsewhere"
        )
    if port == 0:
        (port,) = _free_ports(1)
    _check_port(host, port)
    url = f"http://{_reachable(host)}:{port}"

    stopping = _StopSignal()
    ray_folder = _new_ray_folder(data)
    ray, api, dispatcher = _children(host, port, url, data, logs, ray_folder, cpus)
    try:
        ray.start()
        _await(ray, RAY_START_SECONDS, stopping)
        api.start()
        _await(api, API_START_SECONDS, stopping)
        dispatcher.start()
        if not stopping.asked:
            announce(url, data)
        while not stopping.asked:
            for child in (ray, api, dispatcher):
                _revive(child)
            time.sleep(0.2)
    finally:
        # The API last: what the runs have to say when Ray ends them is still taken.
        for child in (dispatcher, ray, api):
            child.stop()
        shutil.rmtree(ray_folder, ignore_errors=True)
        lock.close()


class _StopSignal:
    """Remembers SIGTERM, SIGINT and SIGHUP."""

    def __init__(self) -> None:
        self.asked = False
        signal.signal(signal.SIGTERM, self._on_signal)
        signal.signal(signal.SIGINT, self._on_signal)
        signal.signal(signal.SIGHUP, self._on_signal)  # the terminal was closed

    def _on_signal(self, _signal: int, _frame: FrameType | None) -> None:
        self.asked = True


def _children(
    host: str, port: int, url: str, data: Path, logs: Path, ray_folder: Path, cpus: int | None
) -> tuple[Child, Child, Child]:
    gcs, dashboard, client, agent_http, agent_grpc, runtime_env, metrics = _free_ports(7)
    token = secrets.token_hex(32)
    environment = os.environ | {
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": token,
        # A folder of the user's named `api` or `service` must not be taken for ours.
        "PYTHONSAFEPATH": "1",
        "RAY_USAGE_STATS_ENABLED": "0",
        # Draining hands work over to other nodes, and there are none.
        "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": "0",
        "SYMADJ_DATA": str(data),
        "SYMADJ_API_URL": url,
        "SYMADJ_RAY_DASHBOARD": f"http://127.0.0.1:{dashboard}",
        "SYMADJ_RAY_TOKEN": token,
        "SYMADJ_SPOOL": str(data / "spool"),
    }
    environment.pop("RAY_ADDRESS", None)  # it would send Ray's own processes elsewhere
    ray_command = [
        *(sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block", "--disable-usage-stats"),
        *("--dashboard-host=127.0.0.1", f"--temp-dir={ray_folder}", "--include-log-monitor=false"),
        # Ray Train moves tensors by gloo and NCCL; the object store carries next to nothing.
        "--object-store-memory=100000000",
        *(f"--port={gcs}", f"--dashboard-port={dashboard}", f"--ray-client-server-port={client}"),
        *(f"--dashboard-agent-listen-port={agent_http}", f"--dashboard-agent-grpc-port={agent_grpc}"),
        *(f"--runtime-env-agent-port={runtime_env}", f"--metrics-export-port={metrics}"),
    ]
    if cpus is not None:
        ray_command.append(f"--num-cpus={cpus}")
    api_command = [sys.executable, "-m", "api", "--host", host, "--port", str(port)]
    # Without its agent a Ray node takes no job.
    ray_urls = (
        f"http://127.0.0.1:{dashboard}/api/version",
        f"http://127.0.0.1:{agent_http}/api/local_raylet_healthz",
    )
    dispatcher_command = [sys.executable, "-m", "service.dispatcher"]
    return (
        Child("ray", ray_command, environment, logs / "ray.log", ray_urls),
        Child("api", api_command, environment, logs / "api.log", (f"{url}/healthz",)),
        Child("dispatcher", dispatcher_command, environment, logs / "dispatcher.log", ()),
    )


def _await(child: Child, seconds: float, stopping: _StopSignal) -> None:
    """Wait until a child answers 200 at all its URLs."""
    headers = {"Authorization": f"Bearer {child.environment['RAY_AUTH_TOKEN']}"} if child.name == "ray" else {}
    deadline = time.monotonic() + seconds
    waiting = list(child.ready_urls)
    with httpx.Client(timeout=5, trust_env=False) as client:
        while waiting and not stopping.asked:
            assert child.process is not None
            if child.process.poll() is not None:
                raise ServeError(f"{child.name} ended with status {child.process.returncode}:\n{child.tail()}")
            with contextlib.suppress(httpx.TransportError):
                if client.get(waiting[0], headers=headers).status_code == 200:
                    del waiting[0]
                    continue
            if time.monotonic() > deadline:
                raise ServeError(f"{child.name} does not answer after {seconds:g} s; its log ends:\n{child.tail()}")
            time.sleep(0.2)


def _revive(child: Child) -> None:
    """Start a child again that died, after a pause that grows with the number of its deaths."""
    assert child.process is not None
    if child.process.poll() is None:
        return
    now = time.monotonic()
    if child.restart_at == 0.0:
        if now - child.started_at > 60.0:
            child.restarts = 0
        pause = min(30.0, 0.5 * 2 ** min(child.restarts, 6))
        print(
            f"symadj: {child.name} ended with status {child.process.returncode}; again in {pause:g} s ({child.log})",
            file=sys.stderr,
            flush=True,
        )
        child.restart_at = now + pause
    elif now >= child.restart_at:
        child.restart_at = 0.0
        child.restarts += 1
        child.start()


def _new_ray_folder(data: Path) -> Path:
    """Make a folder for Ray's session; one that a killed service left behind is removed."""
    note = data / "ray.folder"
    if note.exists():
        shutil.rmtree(note.read_text(), ignore_errors=True)
    folder = tempfile.mkdtemp(prefix="symadj-", dir=RAY_FOLDER)
    note.write_text(folder)
    return Path(folder)


def _lock(data: Path) -> IO[str]:
    """Hold the data folder: two services on one would both take its jobs for theirs."""
    handle = (data / "serve.lock").open("w")
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        handle.close()
        raise ServeError(
            f"{data} is in use by another `symadj serve`: stop that one, or name another folder with --data"
        ) from error
    return handle


def _check_port(host: str, port: int) -> None:
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except OSError as error:
        raise ServeError(f"can't listen on {host} port {port} ({error.strerror}): choose another --port") from error


def _reachable(host: str) -> str:
    """Return the host by which processes of this machine reach a server that listens on ``host``."""
    if host in {"0.0.0.0", "::", ""}:
        return "127.0.0.1"
    return f"[{host}]" if ":" in host else host


def _free_ports(count: int) -> list[int]:
    """Return ports that are free now, all different."""
    probes = [socket.socket() for _ in range(count)]
    try:
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [probe.getsockname()[1] for probe in probes]
    finally:
        for probe in probes:
            probe.close()
