"""A small HTTP server that speaks as much of Ray's interface as the dispatcher uses."""

from __future__ import annotations

import json
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit


class RayServer(ThreadingHTTPServer):
    """Ray's jobs and nodes, as a table that the test reads and writes."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.cpus = 2.0
        self.nodes = 1
        # Whether there is a head beside the nodes, as a cluster's: without CPUs, with as much memory as each.
        self.head = False
        # Of placement groups: the id of a node ("id-1"), and what it holds of it.
        self.held: list[tuple[str, dict[str, float]]] = []
        self.jobs: dict[str, dict[str, Any]] = {}
        self.refusal: str | None = None
        # What a job does, given its row.
        self.run: Callable[[dict[str, Any]], None] | None = None
        self.stopped: list[str] = []
        # Whether the API takes records is asked of this server too.
        self.api_answers = True

    def listed(self, groups: bool) -> list[dict[str, Any]]:
        """The placement groups, or the nodes, as Ray's state interface has them."""
        if groups:
            bundles = [{"node_id": node, "unit_resources": held} for node, held in self.held]
            return [{"state": "CREATED", "bundles": bundles}, {"state": "REMOVED", "bundles": bundles}]
        node = {"state": "ALIVE", "resources_total": {"CPU": self.cpus, "memory": 2.0**33}}
        named = [node | {"node_id": f"id-{at}", "node_name": f"10.0.0.{at}"} for at in range(1, self.nodes + 1)]
        head = {"state": "ALIVE", "resources_total": {"memory": 2.0**33}, "node_id": "head", "node_name": "head"}
        return [*named, *[head] * self.head, node | {"state": "DEAD", "node_id": "id-0", "node_name": "10.0.0.0"}]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class _Handler(BaseHTTPRequestHandler):
    server: RayServer

    def _answer(self, status: int, body: Any) -> None:
        text = body.encode() if isinstance(body, str) else json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def do_GET(self) -> None:
        if self.path == "/ingestz":
            self._answer(200 if self.server.api_answers else 503, {})
            return
        if self.path.startswith("/api/v0/"):
            listed = self.server.listed("placement_groups" in self.path)
            (state,) = parse_qs(urlsplit(self.path).query)["filter_values"]
            self._answer(200, {"data": {"result": {"result": [item for item in listed if item["state"] == state]}}})
            return
        _, _, _, submission_id, *rest = self.path.split("/")
        job = self.server.jobs.get(submission_id)
        if job is None:
            self._answer(404, f"Job {submission_id} does not exist")
        elif rest:
            self._answer(200, {"logs": "first\nTraceback: it broke\n"})
        else:
            self._answer(200, job)

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers.get("Content-Length") or 0)) or "{}")
        if self.path.endswith("/stop"):
            self.server.stopped.append(self.path.split("/")[3])
            self._answer(200, {"stopped": True})
        elif self.server.refusal is not None:
            self._answer(500, self.server.refusal)
        elif body["submission_id"] in self.server.jobs:
            self._answer(500, f"ValueError: Job with submission_id {body['submission_id']} already exists.")
        else:
            job = self.server.jobs[body["submission_id"]] = body | {"status": "RUNNING", "message": "is running"}
            if self.server.run is not None:
                self.server.run(job)
            self._answer(200, {"submission_id": body["submission_id"]})

    def log_message(self, format: str, *arguments: Any) -> None:
        """Be quiet."""
