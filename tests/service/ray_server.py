"""A small HTTP server that speaks as much of Ray's interface as the dispatcher uses."""

from __future__ import annotations

import json
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class RayServer(ThreadingHTTPServer):
    """Ray's jobs and nodes, as a table that the test reads and writes."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.cpus = 2.0
        self.nodes = 1
        self.jobs: dict[str, dict[str, Any]] = {}
        self.refusal: str | None = None
        self.stopped: list[str] = []
        # Whether the API takes records is asked of this server too.
        self.api_answers = True

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
        if self.path.startswith("/api/v0/nodes"):
            node = {"state": "ALIVE", "resources_total": {"CPU": self.server.cpus, "memory": 2.0**33}}
            nodes = [node] * self.server.nodes + [node | {"state": "DEAD"}]
            self._answer(200, {"data": {"result": {"result": nodes}}})
            return
        _, _, _, submission_id, *rest = self.path.split("/")
        job = self.server.jobs.get(submission_id)
        if job is None:
            self._answer(404, "no such job")
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
            self.server.jobs[body["submission_id"]] = body | {"status": "RUNNING", "message": "is running"}
            self._answer(200, {"submission_id": body["submission_id"]})

    def log_message(self, format: str, *arguments: Any) -> None:
        """Be quiet."""
