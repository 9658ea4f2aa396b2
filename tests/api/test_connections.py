"""Connections that clients keep: whose side closes them, and when."""

from __future__ import annotations

import asyncio
import socket
from pathlib import Path
from threading import Thread
from typing import Any

import httpx
import pytest
import uvicorn

from symadj.api import __main__ as module


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


def test_an_unused_connection_is_closed_after_its_time_and_half_a_request_after_its_own(given: dict[str, Any]) -> None:
    # Of the two times, the unused connection's is the shorter one here, so that neither is taken for the other.
    config = uvicorn.Config(greet, http=given["http"], timeout_keep_alive=0, lifespan="off", log_level="error")
    server = uvicorn.Server(config)
    request = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"
    with socket.create_server(("127.0.0.1", 0)) as listening:
        thread = Thread(target=lambda: asyncio.run(server.serve(sockets=[listening])))
        thread.start()
        try:
            for sent, answers in ((request, 1), (request * 2, 2), (b"", 0), (request[:-2], 0)):
                with socket.create_connection(listening.getsockname(), timeout=30) as client:
                    client.sendall(sent)
                    assert read_to_end(client).count(b"200 OK") == answers
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
