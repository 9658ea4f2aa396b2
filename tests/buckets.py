"""A server that answers as S3 does (moto's), on this machine."""

from __future__ import annotations

import logging
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count

import fsspec
import pytest
from moto.server import ThreadedMotoServer

__all__ = ["BucketServer"]


class BucketServer:
    """The server, in a thread of the tests; what it stores outlives its stops.

    The AWS variables name it, and tell the library not to try again and again where nobody answers.

    Args:
        environment: where the variables are set.
        host: the address at which it listens.
    """

    def __init__(self, environment: pytest.MonkeyPatch, host: str = "127.0.0.1") -> None:
        logging.getLogger("werkzeug").setLevel(logging.ERROR)
        self._host, self._port = host, 0
        self._numbers = count(1)
        self._start()
        variables = {
            "AWS_ENDPOINT_URL": f"http://{host}:{self._port}",
            "AWS_ACCESS_KEY_ID": "access",
            "AWS_SECRET_ACCESS_KEY": "a-secret-that-nobody-is-told",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_MAX_ATTEMPTS": "1",
        }
        for name, value in variables.items():
            environment.setenv(name, value)
        self.files = fsspec.filesystem("s3", use_listings_cache=False)

    def _start(self) -> None:
        self._server = ThreadedMotoServer(self._host, self._port, verbose=False)
        self._server.start()
        _, self._port = self._server.get_host_and_port()

    def new_bucket(self) -> str:
        """Make a bucket; return the URL of a place in it."""
        name = f"bucket-{next(self._numbers)}"
        self.files.mkdir(name)
        return f"s3://{name}/some/prefix"

    @contextmanager
    def away(self) -> Iterator[None]:
        """Let nobody answer at the endpoint within the block."""
        self._server.stop()
        try:
            yield
        finally:
            self._start()

    @contextmanager
    def silent(self) -> Iterator[None]:
        """Let somebody take every question at the endpoint, and answer none, within the block."""
        with self.away(), socket.create_server((self._host, self._port)):
            yield

    def stop(self) -> None:
        """Stop it for good."""
        self._server.stop()
