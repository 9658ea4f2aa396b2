"""Servers that a benchmark starts, its own and others'."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import httpx

__all__ = ["answering", "checked_out", "compared", "free_port", "mlflow_server", "serving", "trackio_server"]

PATIENCE_SECONDS = 600.0


def free_port() -> int:
    """Return a port of this machine on which nothing listens."""
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextmanager
def answering(
    command: list[str],
    path: str,
    environment: dict[str, str],
    folder: Path | None = None,
    *,
    port_variable: str | None = None,
) -> Iterator[str]:
    """Run a server on a free port until the block ends; the block begins when it answers. Yield its URL.

    It is told the port by ``--port``, or by an environment variable.
    """
    port = str(free_port())
    url = f"http://127.0.0.1:{port}"
    silent = subprocess.DEVNULL
    if port_variable is None:
        command = [*command, "--port", port]
    else:
        environment = environment | {port_variable: port}
    process = subprocess.Popen(command, env=environment, cwd=folder, stdout=silent, stderr=silent)
    try:
        deadline = time.monotonic() + PATIENCE_SECONDS
        while True:
            try:
                if httpx.get(f"{url}{path}", timeout=5, trust_env=False).status_code == 200:
                    break
            except httpx.TransportError:
                if process.poll() is not None or time.monotonic() > deadline:
                    raise
            time.sleep(0.2)
        yield url
    finally:
        process.terminate()
        process.wait()


@contextmanager
def serving(
    command: list[str], environment: dict[str, str], folder: Path | None = None
) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """Run ``symadj serve`` until the block ends, which begins once it is ready; yield its URL and its process.

    It has a session of its own: a Ctrl-C that ends the benchmark stops it in order, not at once.

    Raises:
        RuntimeError: it did not start.
    """
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, env=environment, cwd=folder, start_new_session=True
    )
    try:
        url = ""
        assert process.stdout is not None
        for line in process.stdout:
            found = [word.rstrip(".,/") for word in line.split() if word.startswith("http://")]
            url = url or (found[0].removesuffix("/docs") if found else "")
            if "stop" in line:
                break
        if not url:
            raise RuntimeError(f"the service did not start, status {process.wait()}")
        yield url, process
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(180)


@contextmanager
def checked_out(commit: str, folder: Path) -> Iterator[Path]:
    """Check out a commit of this repository in a folder of its own until the block ends."""
    git = ["git", "-C", str(Path(__file__).resolve().parents[1]), "worktree"]
    subprocess.run([*git, "add", "--quiet", "--detach", folder, commit], check=True)
    try:
        yield folder
    finally:
        subprocess.run([*git, "remove", "--force", folder], check=True)


@contextmanager
def compared(before: str, folder: Path) -> Iterator[dict[str, Path]]:
    """Yield the trees of the builds to compare: ``now``, and ``before`` at that commit unless it is "none"."""
    now = {"now": Path(__file__).resolve().parents[1]}
    if before == "none":
        yield now
        return
    with checked_out(before, folder / "before") as earlier:
        yield now | {"before": earlier}


@contextmanager
def mlflow_server(data: Path, mlflow: Path) -> Iterator[str]:
    """Run MLflow's server as its documentation does, on SQLite; yield its URL."""
    command = [str(mlflow.absolute()), "server", "--backend-store-uri", f"sqlite:///{data}/mlflow.db"]
    command += ["--artifacts-destination", str(data / "artifacts")]
    with answering(command, "/health", dict(os.environ)) as url:
        yield url


@contextmanager
def trackio_server(data: Path, trackio: Path, token: str) -> Iterator[str]:
    """Run Trackio's server as its command line does; yield its URL."""
    environment = dict(os.environ) | {"TRACKIO_DIR": str(data), "TRACKIO_WRITE_TOKEN": token}
    command = [str(trackio.absolute()), "show", "--host", "127.0.0.1"]
    with answering(command, "/version", environment, port_variable="GRADIO_SERVER_PORT") as url:
        yield url
