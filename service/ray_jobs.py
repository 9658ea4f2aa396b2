"""A client of Ray's HTTP interface: jobs and nodes. HTTP alone, so that nothing here needs to load Ray."""

from __future__ import annotations

import signal
from dataclasses import dataclass
from typing import Any

import httpx

__all__ = ["Node", "NodeInUse", "RayJob", "RayJobs", "RayRefusedError", "RayUnreachableError"]


class RayUnreachableError(Exception):
    """Ray does not answer; what was asked may or may not have happened. Ask again later."""


class RayRefusedError(Exception):
    """Ray answered, and the answer is no."""


@dataclass(frozen=True)
class Node:
    """A living node and what it has in all, free or not. ``memory`` is in bytes."""

    cpus: float
    gpus: float
    memory: float


@dataclass(frozen=True)
class NodeInUse(Node):
    """A living node by its id and its name in Ray, and what of it no placement group holds: ours and others'."""

    id: str
    name: str
    free: Node


@dataclass(frozen=True)
class RayJob:
    """State of one Ray job: PENDING, RUNNING, SUCCEEDED, FAILED or STOPPED, and Ray's message."""

    status: str
    message: str
    exit_code: int | None = None
    error_type: str | None = None

    @property
    def killed(self) -> bool:
        """Whether its driver was ended from outside: by a signal, or by Ray because somebody asked."""
        return self.status == "STOPPED" or (self.exit_code is not None and (self.exit_code < 0 or self.exit_code > 128))

    @property
    def ended_by(self) -> signal.Signals | None:
        """The signal that ended its driver, where Ray tells of one."""
        code = self.exit_code or 0
        try:
            return signal.Signals(-code if code < 0 else code - 128)
        except ValueError:
            return None

    @property
    def supervisor_lost(self) -> bool:
        """Whether Ray could not start the driver or lost the process that watched it, with its node perhaps."""
        return (self.error_type or "").startswith("JOB_SUPERVISOR_ACTOR")

    @property
    def ended(self) -> bool:
        """Whether its driver is gone."""
        return self.status in {"SUCCEEDED", "FAILED", "STOPPED"}


class RayJobs:
    """Ray's Jobs and state interfaces at one address."""

    def __init__(self, address: str, token: str | None = None, *, timeout: float = 30.0) -> None:
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        # A proxy of the environment has no business between the dispatcher and its cluster.
        self._client = httpx.Client(base_url=address, headers=headers, timeout=timeout, trust_env=False)

    def _request(self, method: str, path: str, **arguments: Any) -> httpx.Response:
        try:
            response = self._client.request(method, path, **arguments)
        except httpx.TransportError as error:
            raise RayUnreachableError(f"{method} {path}: {error or type(error).__name__}") from error
        if response.status_code in {401, 403}:
            raise RayRefusedError(f"Ray asks for another token (status {response.status_code}): set SYMADJ_RAY_TOKEN")
        return response

    def nodes(self) -> list[Node]:
        """Return the living nodes.

        Raises:
            RayUnreachableError: no answer.
        """
        return [_resources(node["resources_total"]) for node in self._listed("nodes", "ALIVE")]

    def nodes_in_use(self) -> list[NodeInUse]:
        """Return the living nodes with what is free on each.

        Raises:
            RayUnreachableError: no answer.
        """
        living = self._listed("nodes", "ALIVE")
        held = {node["node_id"]: Node(0.0, 0.0, 0.0) for node in living}
        for group in self._listed("placement_groups", "CREATED"):
            for bundle in group["bundles"]:
                node, more = bundle["node_id"], _resources(bundle["unit_resources"])
                if node in held:
                    so_far = held[node]
                    held[node] = Node(so_far.cpus + more.cpus, so_far.gpus + more.gpus, so_far.memory + more.memory)
        return [_in_use(node, held[node["node_id"]]) for node in living]

    def _listed(self, what: str, state: str) -> list[dict[str, Any]]:
        """Return what Ray's state interface lists of a kind, in one state."""
        wanted = {"filter_keys": "state", "filter_predicates": "=", "filter_values": state}
        path = f"/api/v0/{what}"
        response = self._request("GET", path, params={"detail": "true", "limit": 10_000} | wanted)
        if response.status_code != 200:
            raise RayUnreachableError(f"GET {path}: status {response.status_code}: {response.text[:500]}")
        listed: list[dict[str, Any]] = response.json()["data"]["result"]["result"]
        return listed

    def submit(
        self,
        submission_id: str,
        python: str,
        module: str,
        environment: dict[str, str],
        metadata: dict[str, str],
        *,
        node: str | None = None,
    ) -> None:
        """Start a driver. A job of this id that Ray has already is taken as the one meant.

        The driver itself reserves no CPU: with one each, two drivers could hold what their own workers wait for.

        Args:
            submission_id: Ray's id of the job.
            python: shell command of the interpreter of all its processes.
            module: that the driver runs.
            environment: variables that its processes have besides the node's.
            metadata: that Ray shows with it.
            node: id of the node that the driver is to be on; None: Ray's head.

        Raises:
            RayUnreachableError: no answer: it may or may not have started.
            RayRefusedError: Ray will not start it.
        """
        response = self._request(
            "POST",
            "/api/jobs/",
            json={
                "submission_id": submission_id,
                # Ray starts a shell, which is not to stand between it and the driver: it could die alone.
                "entrypoint": f"exec {python} -m {module}",
                "entrypoint_num_cpus": 0,
                "entrypoint_label_selector": None if node is None else {"ray.io/node-id": node},
                "runtime_env": {"env_vars": environment, "py_executable": python},
                "metadata": metadata,
            },
        )
        if response.status_code == 200 or "already exists" in response.text:
            return
        raise RayRefusedError(f"status {response.status_code}: {_last_line(response.text)}")

    def job(self, submission_id: str) -> RayJob | None:
        """Return the state of a job, None if Ray knows none of this id.

        Raises:
            RayUnreachableError: no answer.
        """
        response = self._request("GET", f"/api/jobs/{submission_id}")
        if response.status_code == 404:
            return None
        if response.status_code != 200:
            raise RayUnreachableError(f"GET job: status {response.status_code}: {_last_line(response.text)}")
        body = response.json()
        return RayJob(body["status"], body.get("message") or "", body.get("driver_exit_code"), body.get("error_type"))

    def logs(self, submission_id: str, *, lines: int = 20) -> str:
        """Return the last lines that a job printed; empty where Ray has none."""
        try:
            response = self._request("GET", f"/api/jobs/{submission_id}/logs")
        except (RayUnreachableError, RayRefusedError):
            return ""
        if response.status_code != 200:
            return ""
        return "\n".join(response.json().get("logs", "").splitlines()[-lines:])

    def stop(self, submission_id: str) -> None:
        """Ask Ray to stop a job; no error if it has ended or never was.

        Raises:
            RayUnreachableError: no answer.
        """
        self._request("POST", f"/api/jobs/{submission_id}/stop")

    def close(self) -> None:
        """Close the connections."""
        self._client.close()


def _resources(named: dict[str, float]) -> Node:
    return Node(named.get("CPU", 0.0), named.get("GPU", 0.0), named.get("memory", 0.0))


def _in_use(node: dict[str, Any], held: Node) -> NodeInUse:
    total = _resources(node["resources_total"])
    free = Node(
        max(0.0, total.cpus - held.cpus), max(0.0, total.gpus - held.gpus), max(0.0, total.memory - held.memory)
    )
    return NodeInUse(total.cpus, total.gpus, total.memory, id=node["node_id"], name=node["node_name"], free=free)


def _last_line(text: str) -> str:
    lines = [line for line in text.strip().splitlines() if line.strip()]
    return lines[-1][:500] if lines else "no message"
