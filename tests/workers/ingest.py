"""A small real HTTP server that takes batches as the API does, and can be told to misbehave."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import threading
from collections import defaultdict, deque
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from symadj.service.contract.order import RunOrder
from symadj.service.contract.records import PROBLEM_MEDIA_TYPE, RecordBatch
from symadj.service.contract.spec import JobSpec
from symadj.service.contract.states import StopReason
from symadj.service.settings import Settings

TOKEN = "token-of-the-attempt"


@dataclass(frozen=True)
class OfAnother:
    """What a proxy answers in the API's place, which stores nothing."""

    status: int
    text: str


class IngestServer:
    """Stores each record once, in memory that outlives ``stop`` and ``start``, as the API's store does.

    ``faults`` are used up by the next requests, one each: a status to answer without storing anything, or
    ``"drop"`` to store the batch and close the connection without an answer, or :class:`OfAnother`. A status in
    ``always`` answers every request.
    """

    def __init__(self) -> None:
        self.records: dict[str, list[dict[str, Any]]] = defaultdict(list)
        self.requests = 0
        self.faults: deque[int | str | OfAnother] = deque()
        self.always: int | None = None
        self.stop_wish: StopReason | None = None
        self.changed = threading.Condition()
        self._port = 0
        self._connections: list[socket.socket] = []
        self.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    def start(self) -> None:
        owner = self
        self._connections = connections = []

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def setup(self) -> None:
                super().setup()
                connections.append(self.connection)

            def do_POST(self) -> None:
                owner._post(self)

            def log_message(self, *args: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", self._port), Handler)
        self._server.daemon_threads = True
        self._port = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        for connection in self._connections:
            # Those that the client keeps alive would otherwise be served on.
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def wait_for(self, condition: Any, timeout: float = 20.0) -> None:
        with self.changed:
            assert self.changed.wait_for(condition, timeout), "the server did not see what the test waits for"

    def order(self, spec: dict[str, Any], storage: str = "unused") -> RunOrder:
        settings = Settings()
        return RunOrder(
            job_id="job-1",
            attempt=1,
            api_url=self.url,
            storage=storage,
            workers=1,
            data_roots=settings.resolved_data_roots(),
            spool=os.environ.get("SYMADJ_SPOOL"),
            spec=JobSpec.model_validate(spec),
        )

    def _post(self, request: BaseHTTPRequestHandler) -> None:
        raw = request.rfile.read(int(request.headers["Content-Length"]))
        with self.changed:
            self.requests += 1
            status, answer = self._answer(request, raw)
            self.changed.notify_all()
        if status == "drop":
            request.close_connection = True
            return
        if isinstance(status, OfAnother):
            body, media_type, code = status.text.encode(), "text/html", status.status
        else:
            body, code = json.dumps(answer).encode(), int(status)
            media_type = PROBLEM_MEDIA_TYPE if code >= 400 else "application/json"
        request.send_response(code)
        request.send_header("Content-Type", media_type)
        request.send_header("Content-Length", str(len(body)))
        request.end_headers()
        request.wfile.write(body)

    def _answer(self, request: BaseHTTPRequestHandler, raw: bytes) -> tuple[int | str | OfAnother, dict[str, Any]]:
        fault = self.faults.popleft() if self.faults else self.always
        if isinstance(fault, int | OfAnother):
            return fault, {"title": "told to fail"}
        if request.path != "/api/v1/ingest/batches":
            return 404, {}
        if request.headers["Authorization"] != f"Bearer {TOKEN}":
            return 401, {}
        batch = RecordBatch.model_validate_json(raw)
        stored = self.records[batch.source]
        if batch.first_seq > len(stored) + 1:
            return 409, {"next_seq": len(stored) + 1}
        stored.extend(json.loads(raw)["records"][len(stored) + 1 - batch.first_seq :])
        return fault or 200, {"next_seq": len(stored) + 1, "stop": self.stop_wish, "checkpoints_asked": 0}
