"""A Ray of two nodes with a CPU each, on two loopback addresses; `symadj serve` starts none of its own."""

from __future__ import annotations

import os
import secrets
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx

from symadj.api.children import MARK, end_processes_of
from tests.conftest import free_port
from tests.deaths.world import wait_until


@dataclass
class Cluster:
    """A head and a second node, which may die and come back."""

    folder: Path
    token: str = field(default_factory=lambda: secrets.token_hex(16))
    gcs: int = field(default_factory=free_port)
    dashboard: int = field(default_factory=free_port)
    second: subprocess.Popen[bytes] = field(init=False)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.dashboard}"

    def start_head(self) -> None:
        ports = (f"--port={self.gcs}", f"--dashboard-port={self.dashboard}", f"--ray-client-server-port={free_port()}")
        self._start("head", "127.0.0.1", "--head", "--dashboard-host=127.0.0.1", f"--temp-dir={self.folder}", *ports)

    def start_second(self) -> None:
        self.second = self._start("second", "127.0.0.2", f"--address=127.0.0.1:{self.gcs}")

    def stop_second(self) -> None:
        """Let the second node end as it should, by SIGTERM: Ray drains it first."""
        self.second.terminate()

    def kill_second(self) -> None:
        """Kill the second node with all that runs on it, as a machine dies that loses its power."""
        end_processes_of(self._mark("second"))

    def close(self) -> None:
        for name in ("second", "head"):
            end_processes_of(self._mark(name))

    def nodes(self) -> int:
        """Return how many nodes are alive."""
        headers = {"Authorization": f"Bearer {self.token}"}
        try:
            answer = httpx.get(f"{self.url}/api/v0/nodes", headers=headers, timeout=10, trust_env=False)
            found = answer.raise_for_status().json()["data"]["result"]["result"]
        except httpx.HTTPError:
            return 0
        return sum(node["state"] == "ALIVE" for node in found)

    def _mark(self, name: str) -> str:
        return f"{name}:{self.folder}"

    def _start(self, name: str, address: str, *options: str) -> subprocess.Popen[bytes]:
        ports = (
            "dashboard-agent-listen-port",
            "dashboard-agent-grpc-port",
            "runtime-env-agent-port",
            "metrics-export-port",
        )
        environment = os.environ | {
            MARK: self._mark(name),
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": self.token,
            "PYTHONSAFEPATH": "1",
            "RAY_worker_niceness": "0",  # as `symadj serve` and the image have it
        }
        with (self.folder / f"{name}.log").open("ab") as log:
            return subprocess.Popen(
                [
                    *(sys.executable, "-m", "ray.scripts.scripts", "start", "--block", "--disable-usage-stats"),
                    *(f"--node-ip-address={address}", "--num-cpus=1", "--object-store-memory=100000000"),
                    *(f"--{port}={free_port()}" for port in ports),
                    *options,
                ],
                env=environment,
                cwd=self.folder,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )


@contextmanager
def two_nodes() -> Iterator[Cluster]:
    """Run a cluster of two nodes until the block ends."""
    # Ray's sockets lie below it, and their paths may not be long.
    with tempfile.TemporaryDirectory(prefix="symadj-", dir="/tmp", ignore_cleanup_errors=True) as folder:
        cluster = Cluster(Path(folder))
        try:
            cluster.start_head()
            wait_until(lambda: cluster.nodes() == 1, "the head answers")
            cluster.start_second()
            wait_until(lambda: cluster.nodes() == 2, "the second node is there")
            yield cluster
        finally:
            cluster.close()
