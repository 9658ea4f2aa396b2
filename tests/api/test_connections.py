"""Connections that clients keep: whose side closes them, and when."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Iterator
from pathlib import Path
from threading import Semaphore, Thread
from typing import Any

import httpx
import pytest
import uvicorn

from symadj.api import __main__ as module
from symadj.api.slow_clients import protocol_with_deadline
from symadj.service.contract.records import MAX_METRICS


@pytest.fixture
def given(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> dict[str, Any]:
    """What `python -m symadj.api` gives uvicorn; a request must be complete within 0.3 s."""
    arguments: dict[str, Any] = {}
    monkeypatch.setenv("SYMADJ_DATA", str(tmp_path))
    monkeypatch.setenv("SYMADJ_REQUEST_SECONDS", "0.3")
    monkeypatch.setattr("sys.argv", ["symadj.api"])
    monkeypatch.setattr(uvicorn, "run", lambda _app, **named: arguments.update(named))
    module.main()
    return arguments


async def greet(scope: Any, receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"0")]})
    await send({"type": "http.response.body", "body": b""})


def test_a_client_closes_an_unused_connection_before_the_server_does(given: dict[str, Any]) -> None:
    expiry = httpx.Limits().keepalive_expiry
    assert expiry is not None
    assert given["timeout_keep_alive"] > 2 * expiry


def test_a_request_with_the_most_names_of_metrics_is_read_in_however_many_parts_it_comes(given: dict[str, Any]) -> None:
    read = Semaphore(0)

    class Told(protocol_with_deadline(60)):  # type: ignore[misc]
        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            read.release()

    changes = {"http": Told, "factory": False, "lifespan": "off", "log_level": "error"}
    names = "&".join(f"name={'m' * 100}" for _ in range(MAX_METRICS))
    head = f"GET /api/v1/jobs/x/series?{names} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode()
    with served(uvicorn.Config(greet, **given | changes)) as address, socket.create_connection(address, 30) as client:
        client.sendall(head[:-2])
        read.acquire()  # all but the end, or a first part of it
        client.sendall(head[-2:])
        assert b"200 OK" in read_to_end(client)


def test_an_unused_connection_is_closed_after_its_time_and_half_a_request_after_its_own(given: dict[str, Any]) -> None:
    # Of the two times, the unused connection's is the shorter one here, so that neither is taken for the other.
    config = uvicorn.Config(greet, http=given["http"], timeout_keep_alive=0, lifespan="off", log_level="error")
    request = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"
    with served(config) as address:
        for sent, answers in ((request, 1), (request * 2, 2), (b"", 0), (request[:-2], 0)):
            with socket.create_connection(address, timeout=30) as client:
                client.sendall(sent)
                assert read_to_end(client).count(b"200 OK") == answers


@contextlib.contextmanager
def served(config: uvicorn.Config) -> Iterator[tuple[str, int]]:
    """Serve in a thread; yield the address."""
    server = uvicorn.Server(config)
    with socket.create_server(("127.0.0.1", 0)) as listening:
        thread = Thread(target=lambda: asyncio.run(server.serve(sockets=[listening])))
        thread.start()
        try:
            yield listening.getsockname()
        finally:
            server.should_exit = True
            thread.join()


def read_to_end(client: socket.socket) -> bytes:
    """Return what comes until the other side closes the connection."""
    received = b""
    try:
        while part := client.recv(2**16):
            received += part
    except ConnectionResetError:
        pass
    return received
