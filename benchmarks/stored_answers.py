"""A server that has nothing to do: it gives stored answers, as often as the API would (`make bench-load`)."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import get_context
from typing import Any
from urllib.parse import parse_qs

import httpx
import uvicorn

from symadj.api.__main__ import KEEP_ALIVE_SECONDS
from symadj.api.bulkheads import COSTLY_AT_ONCE, COSTLY_PER_SECOND, COSTLY_TURN_SECONDS, Pace
from symadj.api.long_polls import ANSWERS_PER_SECOND, LOOK_SECONDS
from symadj.service.errors import BusyError

__all__ = ["StoredAnswers", "serve"]


@dataclass
class StoredAnswers:
    """Answers of the API by kind of request, and what tells these apart."""

    bodies: dict[str, bytes]
    waiting: int = 0

    @classmethod
    def taken_from(cls, url: str, training: str, newest: int, long_series: str, values: int) -> StoredAnswers:
        """Ask the API once for each; a long poll's answer has so many values."""
        job, series = f"/jobs/{training}", f"/jobs/{long_series}/metrics/loss"
        new = f"after_seq={max(0, newest - 100 * values)}&limit={values}"
        paths = {
            "job": job,
            "memory": f"{job}/memory",
            "series": f"{job}/series?name=loss&name=step_seconds&{new}",
            "long poll": f"{job}/metrics/loss?{new}",
            "downsampled": f"{series}?points=1000",
        }
        with httpx.Client(base_url=f"{url}/api/v1", timeout=120, trust_env=False) as client:
            return cls({kind: client.get(path).raise_for_status().content for kind, path in paths.items()})

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Answer as ASGI has it."""
        if scope["type"] != "http":
            return
        path, query = scope["path"], parse_qs(scope["query_string"].decode())
        *_, last = path.rstrip("/").split("/")
        kind = last if last in {"memory", "series"} else "job"
        status, headers = 200, []
        if "wait" in query:
            kind = "series" if kind == "series" else "long poll"
            self.waiting += 1
            await asyncio.sleep(max(LOOK_SECONDS, self.waiting / ANSWERS_PER_SECOND))
            self.waiting -= 1
        elif "points" in query:
            kind = "downsampled"
            try:
                await self.pace.turn()
            except BusyError as error:
                status, headers = error.status, [(b"retry-after", str(error.retry_after).encode())]
        body = self.bodies[kind] if status == 200 else b"{}"
        headers += [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    def run(self, listening: socket.socket) -> None:
        """Serve until the process is ended."""
        self.pace = Pace(COSTLY_PER_SECOND, in_a_row=COSTLY_AT_ONCE, most_seconds=COSTLY_TURN_SECONDS)
        config = uvicorn.Config(
            self, http="h11", lifespan="off", log_level="warning", timeout_keep_alive=KEEP_ALIVE_SECONDS
        )
        uvicorn.Server(config).run(sockets=[listening])


@contextmanager
def serve(answers: StoredAnswers) -> Iterator[str]:
    """Serve in a process of its own until the block ends; yield the URL."""
    with socket.create_server(("127.0.0.1", 0), backlog=2048) as listening:
        process = get_context("spawn").Process(target=answers.run, args=(listening,), daemon=True)
        process.start()
        try:
            yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        finally:
            process.terminate()
            process.join()
