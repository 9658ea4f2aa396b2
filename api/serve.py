"""``symadj serve``: the whole service on one machine, in the foreground.

A supervisor of three children: a local Ray head, the API (uvicorn) and the dispatcher. It starts them in this order,
restarts one that dies, and stops them all when it must stop. If it is killed itself, the kernel stops them (Linux).
With the address of a Ray cluster that runs elsewhere, there is no first child.
"""

from __future__ import annotations

import fcntl
import os
import secrets
import shutil
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import IO

import httpx
from pydantic import SecretStr

from symadj.api import environment as environments
from symadj.api.children import Child, ServeError, end_processes_of
from symadj.api.listening import ExposedError, check_exposure
from symadj.service.contract.storage import StorageUnreachableError
from symadj.service.settings import SettingsError, read_settings

__all__ = ["ServeError", "serve"]

RAY_START_SECONDS = 120.0
API_START_SECONDS = 60.0
# By which Ray and the runs on it listen on this machine's loopback addresses alone, and so no other machine reaches
# them. Ray takes 127.0.0.1 for one of the machine's other addresses, unless it is told that there is no cluster.
_ON_LOOPBACK = {
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
    "GLOO_SOCKET_IFNAME": "lo" if sys.platform == "linux" else "lo0",
    "NCCL_SOCKET_IFNAME": "lo",
}
# Ray keeps its Unix sockets below its temporary folder, and their paths may have 107 characters at most.
RAY_FOLDER = Path("/tmp")


def serve(
    host: str,
    port: int,
    data: Path,
    *,
    cpus: int | None,
    ray_address: str | None = None,
    insecure: bool = False,
    announce: Callable[[str, Path, bool], None],
) -> None:
    """Run the service until SIGTERM or SIGINT; a local Ray's runs then have time to write a checkpoint.

    Args:
        host: address on which the API listens.
        port: its port; 0 takes a free one.
        data: folder of the store, the jobs' files and the logs; made if it is not there.
        cpus: CPUs that the local Ray may give to workers; None: all.
        ray_address: URL of the Jobs API of a Ray that runs already; None: start one here. Its nodes must reach the
            API (SYMADJ_API_URL, where it is not what ``host`` says) and share the folder of the jobs.
        insecure: whether the API may listen beyond this machine without asking for keys.
        announce: called with the API's URL, the data folder and whether it asks for keys, when everything answers.

    Raises:
        ServeError: the port or the folder is in use, Ray does not answer, a child does not start, the settings are
            wrong, a bucket does not answer, or the API would be open to others.
    """
    try:
        settings = read_settings()
        check_exposure(settings, host, insecure=insecure)
        settings.check_buckets()
    except (ExposedError, SettingsError, StorageUnreachableError) as error:
        raise ServeError(str(error)) from error
    data = data.resolve()
    if ray_address is None:
        # All processes are this user's: nobody else has to read what any of them writes.
        os.umask(0o077)
    (data / "logs").mkdir(parents=True, exist_ok=True)
    lock = _lock(data)
    _clean_up_after_a_killed_one(data)
    if any(character.isspace() for character in sys.executable):
        raise ServeError(
            f"Ray can't start from a path with spaces, as {sys.executable!r} has: install symadj elsewhere"
        )
    if port == 0:
        (port,) = _free_ports(1)
    _check_port(host, port)
    url = f"http://{_reachable(host)}:{port}"
    if ray_address is not None:
        _check_ray(ray_address, settings.ray_token)

    stopping = _StopSignal()
    environment = os.environ | {
        "SYMADJ_DATA": str(data),
        "SYMADJ_SPOOL": str(data / "spool"),
        # A folder of the user's named `api` or `service` must not be taken for ours.
        "PYTHONSAFEPATH": "1",
    }
    more = settings.environment_to_pass()
    ray_folder = ray = template = None
    if ray_address is None:
        ray_folder = _new_ray_folder(data)
        warm = settings.warm_runs
        ray, its_settings = _local_ray(environments.for_ray(environment, more), data, ray_folder, cpus, warm=warm)
        environment |= {"SYMADJ_API_URL": url} | its_settings
        if warm:
            template = _template(ray.environment, data, ray_folder / "warm.sock")
            environment |= {"SYMADJ_WARM_SOCKET": template.command[-1]}
    else:
        environment = {"SYMADJ_API_URL": url} | environment | {"SYMADJ_RAY_ADDRESS": ray_address}
    api_command = [sys.executable, "-m", "symadj.api", "--host", host, "--port", str(port)]
    if insecure:
        api_command.append("--insecure")
    for_api, for_dispatcher = environments.for_api(environment, more), environments.for_dispatcher(environment, more)
    api = Child("api", api_command, for_api, data, (f"{url}/healthz",), API_START_SECONDS)
    dispatcher = Child("dispatcher", [sys.executable, "-m", "symadj.service.dispatcher"], for_dispatcher, data)
    if ray is not None:
        # The runs end with the service. On a cluster that runs elsewhere they go on, and so it waits for none.
        dispatcher.command.append("--drain")
        dispatcher.stop_seconds += settings.stop_grace_seconds
    feeds = [sys.executable, "-m", "symadj.service.sinks"]
    sinks = [Child("sinks", feeds, for_dispatcher, data)] if settings.sinks else []
    children = [child for child in (template, ray, api, dispatcher, *sinks) if child is not None]
    try:
        for child in children:
            child.start()
            child.wait_until_ready(lambda: stopping.asked)
        if not stopping.asked:
            announce(url, data, settings.auth == "keys")
        while not stopping.asked:
            for child in children:
                child.revive()
            time.sleep(0.2)
    finally:
        if stopping.asked and ray is not None:
            print(
                f"symadj is stopping: runs write a checkpoint, within {settings.stop_grace_seconds:g} s at most. "
                "Ctrl-C again stops at once.",
                file=sys.stderr,
                flush=True,
            )
        # The dispatcher first: it lets the runs stop. The API last: it still takes their last records.
        for child in (dispatcher, *([ray] if ray else []), *([template] if template else []), *sinks, api):
            child.stop(lambda: stopping.asked_again)
        if ray_folder is not None:
            shutil.rmtree(ray_folder, ignore_errors=True)
        lock.close()


class _StopSignal:
    """Remembers SIGTERM, SIGINT and SIGHUP, and whether a second one came."""

    def __init__(self) -> None:
        self.asked = self.asked_again = False
        signal.signal(signal.SIGTERM, self._on_signal)
        signal.signal(signal.SIGINT, self._on_signal)
        signal.signal(signal.SIGHUP, self._on_signal)  # the terminal was closed

    def _on_signal(self, number: int, _frame: FrameType | None) -> None:
        # A terminal that is closed may send its signal twice, itself and by the shell.
        self.asked_again = self.asked_again or (self.asked and number != signal.SIGHUP)
        self.asked = True


def _local_ray(
    environment: dict[str, str], data: Path, ray_folder: Path, cpus: int | None, *, warm: bool
) -> tuple[Child, dict[str, str]]:
    """Return a Ray head, and the settings by which the others reach it."""
    gcs, dashboard, client, agent_http, agent_grpc, runtime_env, metrics = _free_ports(7)
    token = secrets.token_hex(32)
    environment = (
        environment
        | _ON_LOOPBACK
        | {
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": token,
            "RAY_USAGE_STATS_ENABLED": "0",
            # Ray's default of 15 lets the training starve beside whatever else the machine does.
            "RAY_worker_niceness": "0",
            # Its heap for the runs (symadj/workers/warm/heap.py), unless the user wants the C library's.
            "RAY_LD_PRELOAD_ON_WORKERS": environment.get("RAY_LD_PRELOAD_ON_WORKERS", "1"),
            # Draining hands work over to other nodes, of which there are none.
            "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": "0",
        }
    )
    environment.pop("RAY_ADDRESS", None)  # it would send Ray's own processes elsewhere
    command = [
        *(sys.executable, "-m", "symadj.workers.warm.ray_node" if warm else "ray.scripts.scripts"),
        *("start", "--head", "--block", "--disable-usage-stats"),
        *(
            "--node-ip-address=127.0.0.1",
            "--dashboard-host=127.0.0.1",
            f"--temp-dir={ray_folder / 'ray'}",
            "--include-log-monitor=false",
        ),
        # Ray Train moves tensors by gloo and NCCL; the object store carries next to nothing.
        "--object-store-memory=100000000",
        # Ports of its own, and the same after a restart: the dispatcher and the API know them.
        *(f"--port={gcs}", f"--dashboard-port={dashboard}", f"--ray-client-server-port={client}"),
        *(f"--dashboard-agent-listen-port={agent_http}", f"--dashboard-agent-grpc-port={agent_grpc}"),
        *(f"--runtime-env-agent-port={runtime_env}", f"--metrics-export-port={metrics}"),
    ]
    if cpus is not None:
        command.append(f"--num-cpus={cpus}")
    # Without its agent a Ray node takes no job.
    urls = (
        f"http://127.0.0.1:{dashboard}/api/version",
        f"http://127.0.0.1:{agent_http}/api/local_raylet_healthz",
    )
    head = Child(
        "ray",
        command,
        environment,
        data,
        urls,
        RAY_START_SECONDS,
        headers={"Authorization": f"Bearer {token}"},
        # On a busy machine it may give up by itself, after 30 s that it has of its own, and comes up the next time.
        start_retries=1,
        last_words=signal.SIGTERM,  # by which it ends its own processes in order, its workers among them
    )
    return head, {"SYMADJ_RAY_ADDRESS": f"http://127.0.0.1:{dashboard}", "SYMADJ_RAY_TOKEN": token}


def _template(environment: dict[str, str], data: Path, place: Path) -> Child:
    """Return the process of which the runs' processes are copies; Ray does not wait for it, they start cold then."""
    command = [sys.executable, "-m", "symadj.workers.warm.template", str(place)]
    return Child("template", command, environment, data, family="ray")


def _check_ray(address: str, token: SecretStr | None) -> None:
    """Refuse an address where no Ray answers."""
    headers = {"Authorization": f"Bearer {token.get_secret_value()}"} if token else {}
    try:
        answer = httpx.get(f"{address}/api/version", headers=headers, timeout=10, trust_env=False)
        _ = answer.raise_for_status().json()["ray_version"]
    except (httpx.HTTPError, httpx.InvalidURL, ValueError, LookupError, TypeError) as error:
        raise ServeError(
            f"no Ray answers as it should at {address} ({error}): --ray-address is the URL of its Jobs API, such as "
            "http://head:8265; SYMADJ_RAY_TOKEN is its token, where it asks for one"
        ) from error


def _clean_up_after_a_killed_one(data: Path) -> None:
    """End the processes that a killed service left on this folder; we hold its lock, so the service itself is gone."""
    for name in ("dispatcher", "ray", "api", "sinks"):
        end_processes_of(f"{name}:{data}")


def _new_ray_folder(data: Path) -> Path:
    """Make a folder for Ray's session; one that a killed service left behind is removed.

    It is this user's alone: Ray lets everybody read and write in the folder that it is given, which is one in this.
    """
    note = data / "ray.folder"
    if note.exists():
        shutil.rmtree(note.read_text(), ignore_errors=True)
    folder = tempfile.mkdtemp(prefix="symadj-", dir=RAY_FOLDER)
    note.write_text(folder)
    return Path(folder)


def _lock(data: Path) -> IO[str]:
    """Lock the data folder: two services on one folder would both run its jobs."""
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
