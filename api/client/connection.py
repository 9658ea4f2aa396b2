"""What both clients have: an address, a key, and the patience to wait for a server that is away."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

from symadj.api.client.errors import BadRequestError
from symadj.api.client.request import Request

__all__ = ["PIECE_BYTES", "Connection"]

# Of files on their way.
PIECE_BYTES = 2**18


class Connection:
    """The address of a server, and how requests are sent to it.

    Attributes:
        url: of the server.
        has_key: whether requests are sent with an API key.
    """

    def __init__(self, url: str, api_key: str | None) -> None:
        self.url = url.rstrip("/")
        self._on_silence: Callable[[str], None] | None = None
        self._key_header = _key_header(api_key or os.environ.get("SYMADJ_API_KEY"))
        self.has_key = bool(self._key_header)

    @contextmanager
    def patience(self, tell: Callable[[str], None]) -> Iterator[None]:
        """Let reads and `follow` wait for a server that is away, however long.

        ``tell`` gets a sentence when that begins, and when it ends.
        """
        self._on_silence = tell
        try:
            yield
        finally:
            self._on_silence = None

    @contextmanager
    def _checking_address(self) -> Iterator[None]:
        try:
            yield
        except httpx.InvalidURL as error:
            raise BadRequestError(
                f"{self.url!r} is not the address of a server ({error}): write http://host:port"
            ) from error


def arguments_of(request: Request[Any]) -> dict[str, Any]:
    """Return httpx's arguments for a request whose body is not a file."""
    arguments: dict[str, Any] = {"params": request.params, "headers": request.headers, "json": request.json}
    if isinstance(request.content, bytes):
        arguments["content"] = request.content
    if request.timeout is not None:
        arguments["timeout"] = request.timeout
    return arguments


def pieces_of(file: Path) -> Iterator[bytes]:
    """Yield a file in pieces."""
    with file.open("rb") as stream:
        while piece := stream.read(PIECE_BYTES):
            yield piece


def _key_header(api_key: str | None) -> dict[str, str]:
    if not api_key:
        return {}
    if re.fullmatch(r"[\x21-\x7e]+", api_key) is None:
        raise BadRequestError("what was given as the API key is none: it is one word that begins with symadj_")
    return {"Authorization": f"Bearer {api_key}"}
