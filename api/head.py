"""HEAD, wherever there is GET."""

from __future__ import annotations

import anyio
from starlette.types import ASGIApp, Message, Receive, Scope, Send

__all__ = ["AnswerHead"]


class AnswerHead:
    """ASGI middleware: answers HEAD with the status and the headers of GET, and makes no body.

    Starlette does so on its own routes; FastAPI's take the methods that they were declared with, and would describe
    each endpoint twice if HEAD were one of them.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on."""
        if scope["type"] != "http" or scope["method"] != "HEAD":
            await self._app(scope, receive, send)
            return
        as_get = dict(scope) | {"method": "GET"}
        rest = anyio.CancelScope()

        async def send_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                await send(message)
                await send({"type": "http.response.body", "body": b""})
                rest.cancel()  # no file is opened, and nothing is read from a bucket
            await anyio.lowlevel.checkpoint()

        try:
            with rest:
                await self._app(as_get, receive, send_headers)
        finally:
            scope["route"] = as_get.get("route")  # for whoever counts requests by route
