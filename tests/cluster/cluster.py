"""A cluster of containers, made by this repository's compose.yaml, for tests to use and to damage."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import httpx

__all__ = ["Cluster", "GoneError"]

T = TypeVar("T")
ROOT = Path(__file__).parents[2]
ADDRESS = "127.0.0.1:18000"


class GoneError(Exception):
    """The API did not answer."""


@dataclass
class Cluster:
    """One compose project of its own.

    Attributes:
        compose: the command, `docker compose` or `docker-compose`.
        files: compose files, relative to the root.
        key: the first admin key, once the cluster is up.
    """

    compose: Sequence[str]
    files: list[str] = field(default_factory=lambda: ["compose.yaml"])
    project: str = "symadj-test"
    key: str = ""
    _began: float = field(default_factory=time.monotonic)
    _http: httpx.Client = field(
        default_factory=lambda: httpx.Client(base_url=f"http://{ADDRESS}", timeout=20, trust_env=False)
    )

    # ------------------------------------------------------------------------------------------------ containers

    def run(self, *arguments: str, timeout: float = 900, check: bool = True, **environment: str) -> str:
        """Run `docker compose ...` and return what it printed; its complaints, too, where it may fail."""
        done = self._execute([*self._command, *arguments], timeout, environment)
        if check and done.returncode:
            raise AssertionError(f"{' '.join(arguments)} exits {done.returncode}:\n{done.stdout}\n{done.stderr}")
        return done.stdout if check else done.stdout + done.stderr

    def script(self, name: str, *arguments: str) -> None:
        """Run a script of docker/ on this cluster."""
        done = self._execute([f"docker/{name}", *arguments], 900, {"COMPOSE": " ".join(self._command)})
        assert done.returncode == 0, done.stdout + done.stderr

    @property
    def _command(self) -> list[str]:
        return [*self.compose, *(word for file in self.files for word in ("-f", file))]

    def _execute(
        self, command: Sequence[str], timeout: float, environment: dict[str, str]
    ) -> subprocess.CompletedProcess[str]:
        variables = {"COMPOSE_PROJECT_NAME": self.project, "SYMADJ_PUBLISH": ADDRESS, **environment}
        return subprocess.run(
            command, cwd=ROOT, env=os.environ | variables, text=True, capture_output=True, timeout=timeout
        )

    def docker(self, *arguments: str, check: bool = True) -> str:
        """Run `docker ...` and return what it printed."""
        done = subprocess.run(["docker", *arguments], text=True, capture_output=True, timeout=900)
        if check and done.returncode:
            raise AssertionError(f"docker {' '.join(arguments)} exits {done.returncode}: {done.stderr}")
        return done.stdout.strip()

    def up(self, workers: int = 2, **environment: str) -> None:
        """Start everything; return when the last container has been started."""
        self.run("up", "--detach", "--scale", f"worker={workers}", **environment)
        self.key = self.run("exec", "-T", "api", "cat", "/keys/admin").strip()

    def containers(self, service: str) -> list[str]:
        """Return the ids of a service's containers."""
        return self.run("ps", "-q", service).split()

    def kill(self, container: str) -> None:
        """End a container as a crash would; `docker kill` counts as somebody's wish that it stay away."""
        state = json.loads(self.docker("inspect", container))[0]
        shell = ["--rm", "--pid", "host", "--user", "0", "--entrypoint", "sh", state["Image"]]
        self.docker("run", *shell, "-c", f"kill -9 {state['State']['Pid']}")

    def started_at(self, container: str) -> str:
        return self.docker("inspect", "--format", "{{.State.StartedAt}}", container)

    def health(self, container: str) -> str:
        return self.docker("inspect", "--format", "{{.State.Health.Status}}", container)

    # ------------------------------------------------------------------------------------------------------- API

    def request(self, method: str, path: str, **arguments: Any) -> Any:
        """Return the JSON that the API answers.

        Raises:
            GoneError: it does not answer, or says that its database does not.
        """
        return self._ask(method, path, **arguments).json()

    def _ask(self, method: str, path: str, **arguments: Any) -> httpx.Response:
        try:
            headers = {"Authorization": f"Bearer {self.key}"}
            answer = self._http.request(method, path, headers=headers, **arguments)
        except httpx.TransportError as error:
            raise GoneError(repr(error)) from error
        if answer.status_code in {502, 503}:
            raise GoneError(answer.text)
        assert answer.is_success, answer.text
        return answer

    def submit(self, spec: dict[str, Any]) -> str:
        """Submit a job and return its id."""
        job_id: str = self.request("POST", "/api/v1/jobs", json=spec)["id"]
        self.say(f"{job_id} submitted")
        return job_id

    def job(self, job_id: str) -> dict[str, Any]:
        answer: dict[str, Any] = self.request("GET", f"/api/v1/jobs/{job_id}")
        return answer

    def cancel_all(self) -> None:
        """Cancel the jobs that have not ended."""
        for state in ("queued", "starting", "running", "pausing"):
            for job in self.request("GET", f"/api/v1/jobs?state={state}")["items"]:
                self.request("POST", f"/api/v1/jobs/{job['id']}/cancel")
                self.wait_for_state(job["id"], "cancelled", "succeeded", "failed")

    def attempts(self, job_id: str) -> list[dict[str, Any]]:
        items: list[dict[str, Any]] = self.request("GET", f"/api/v1/jobs/{job_id}/attempts")["items"]
        return items

    def events(self, job_id: str) -> list[dict[str, Any]]:
        items: list[dict[str, Any]] = self.request("GET", f"/api/v1/jobs/{job_id}/events?limit=1000")["items"]
        return items

    def weights(self, job_id: str) -> str:
        """Download a job's weights and return their SHA-256, which is the one that the API told."""
        items = self.request("GET", f"/api/v1/jobs/{job_id}/artifacts")["items"]
        (told,) = (item["sha256"] for item in items if item["name"] == "weights.safetensors")
        content = self._ask("GET", f"/api/v1/jobs/{job_id}/artifacts/weights.safetensors").content
        assert hashlib.sha256(content).hexdigest() == told
        return str(told)

    def steps(self, job_id: str) -> list[int]:
        """Return the steps that have a loss, in the store's order."""
        steps: list[int] = []
        after = 0
        while True:
            page = self.request("GET", f"/api/v1/jobs/{job_id}/metrics/loss?after_seq={after}&limit=1000")
            if not page["points"]:
                return steps
            steps += [point["step"] for point in page["points"]]
            after = page["next_after_seq"]

    # -------------------------------------------------------------------------------------------------- patience

    def wait_until(self, what: str, look: Callable[[], T], seconds: float = 900) -> T:
        """Return what ``look`` returns, once that is true; an API that is away is waited for.

        Raises:
            AssertionError: it did not come within ``seconds``.
        """
        began = time.monotonic()
        last: Any = None
        while time.monotonic() - began < seconds:
            try:
                last = look()
            except GoneError as error:
                last = error
            else:
                if last:
                    self.say(f"{what} after {time.monotonic() - began:.1f} s")
                    return last
            time.sleep(0.2)
        raise AssertionError(f"not within {seconds} s: {what} (last look: {last!r})")

    def wait_for_step(self, job_id: str, step: int, seconds: float = 900) -> None:
        """Wait until a job's progress has come to a step."""

        def look() -> bool:
            job = self.job(job_id)
            assert job["state"] not in {"failed", "cancelled"}, job["failure"]
            return bool(job["progress"]["step"] >= step)

        self.wait_until(f"{job_id} at step {step}", look, seconds)

    def wait_for_state(self, job_id: str, *states: str, seconds: float = 900) -> dict[str, Any]:
        """Wait until a job is in one of the states, and return it."""
        self.wait_until(f"{job_id} {' or '.join(states)}", lambda: self.job(job_id)["state"] in states, seconds)
        return self.job(job_id)

    def say(self, words: str) -> None:
        """Tell what happened, and when."""
        print(f"{time.monotonic() - self._began:7.1f} s  {words}", flush=True)
