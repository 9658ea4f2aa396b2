"""A client of Ray's HTTP interface: jobs and nodes. HTTP alone, so that nothing here needs to load Ray."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import httpx

__all__ = ["Node", "NodeInUse", "RayJob", "RayJobs", "RayRefusedError", "RayUnreachableError"]


# Of a driver that Ray will not start; what other statuses say is a proxy's.
_REFUSALS = frozenset({400, 500})

_Read = TypeVar("_Read")


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
        return self._listed("nodes", "ALIVE", lambda node: _resources(node["resources_total"]))

    def nodes_in_use(self) -> list[NodeInUse]:
        """Return the living nodes with what is free on each.

        Raises:
            RayUnreachableError: no answer.
        """
        living = self._listed("nodes", "ALIVE", _unused)
        held = {node.id: Node(0.0, 0.0, 0.0) for node in living}
        for bundles in self._listed("placement_groups", "CREATED", _bundles):
            for node_id, more in bundles:
                if node_id in held:
                    so_far = held[node_id]
                    held[node_id] = Node(so_far.cpus + more.cpus, so_far.gpus + more.gpus, so_far.memory + more.memory)
        return [_less(node, held[node.id]) for node in living]

    def _listed(self, what: str, state: str, read: Callable[[dict[str, Any]], _Read]) -> list[_Read]:
        """Return what Ray's state interface lists of a kind, in one state, each as it is read."""
        wanted = {"filter_keys": "state", "filter_predicates": "=", "filter_values": state}
        path = f"/api/v0/{what}"
        response = self._request("GET", path, params={"detail": "true", "limit": 10_000} | wanted)
        if response.status_code != 200:
            raise RayUnreachableError(f"GET {path}: status {response.status_code}: {response.text[:500]}")
        with _an_answer_of_ray(response):
            return [read(item) for item in response.json()["data"]["result"]["result"]]

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
        if response.status_code == 200:
            with _an_answer_of_ray(response):
                _ = response.json()["submission_id"]
            return
        if "already exists" in response.text:
            return
        told = f"status {response.status_code}: {_last_line(response.text)}"
        if response.status_code in _REFUSALS:
            raise RayRefusedError(told)
        raise RayUnreachableError(f"POST job: {told}")

    def job(self, submission_id: str) -> RayJob | None:
        """Return the state of a job, None if Ray knows none of this id.

        Raises:
            RayUnreachableError: no answer.
        """
        response = self._request("GET", f"/api/jobs/{submission_id}")
        # A proxy answers 404 as well, where no Ray is behind it now.
        if response.status_code == 404 and "does not exist" in response.text:
            return None
        if response.status_code != 200:
            raise RayUnreachableError(f"GET job: status {response.status_code}: {_last_line(response.text)}")
        with _an_answer_of_ray(response):
            job = response.json()
            return RayJob(job["status"], job.get("message") or "", job.get("driver_exit_code"), job.get("error_type"))

    def logs(self, submission_id: str, *, lines: int = 20) -> str:
        """Return the last lines that a job printed; empty where Ray has none."""
        try:
            response = self._request("GET", f"/api/jobs/{submission_id}/logs")
            with _an_answer_of_ray(response):
                return "\n".join(response.json().get("logs", "").splitlines()[-lines:])
        except (RayUnreachableError, RayRefusedError):
            return ""

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


def _unused(node: dict[str, Any]) -> NodeInUse:
    total = _resources(node["resources_total"])
    return NodeInUse(total.cpus, total.gpus, total.memory, id=node["node_id"], name=node["node_name"], free=total)


def _bundles(group: dict[str, Any]) -> list[tuple[str, Node]]:
    return [(bundle["node_id"], _resources(bundle["unit_resources"])) for bundle in group["bundles"]]


def _less(node: NodeInUse, held: Node) -> NodeInUse:
    free = Node(max(0.0, node.cpus - held.cpus), max(0.0, node.gpus - held.gpus), max(0.0, node.memory - held.memory))
    return replace(node, free=free)


@contextmanager
def _an_answer_of_ray(response: httpx.Response) -> Iterator[None]:
    """Take an answer that is not as Ray's are for none: by a proxy, by another server, by a Ray that is not up yet."""
    try:
        yield
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        asked = f"{response.request.method} {response.request.url.path}"
        raise RayUnreachableError(f"{asked}: not an answer of Ray's: {response.text[:200]!r}") from error


def _last_line(text: str) -> str:
    lines = [line for line in text.strip().splitlines() if line.strip()]
    return lines[-1][:500] if lines else "no message"
