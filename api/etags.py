"""ETags of all answers in JSON, so that who asks again gets them only if they have changed."""

from __future__ import annotations

import hashlib
from typing import Annotated

from fastapi import Header
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

__all__ = ["AddEtags", "IfNoneMatch", "holds"]

IfNoneMatch = Annotated[
    str | None, Header(max_length=200, description="The ETag of an answer that is there: 304 if nothing is new.")
]


def holds(if_none_match: str, etag: str) -> bool:
    """Return whether the header ``If-None-Match`` names the ETag; what proxies make weak is the same (RFC 9110)."""
    return any(tag.strip().removeprefix("W/") in {etag, "*"} for tag in if_none_match.split(","))


class AddEtags:
    """ASGI middleware: gives an answer to GET in JSON the sum of its body as ETag, and answers 304 to who has it.

    What has an ETag already, or is sent in parts, passes as it is.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on."""
        if scope["type"] != "http" or scope["method"] != "GET":
            await self._app(scope, receive, send)
            return
        held: Message | None = None

        async def send_marked(message: Message) -> None:
            nonlocal held
            if message["type"] == "http.response.start" and _takes_etag(message):
                held = message
                return
            if held is not None and message["type"] == "http.response.body":
                start, held = held, None
                if not message.get("more_body"):
                    start, message = _marked(start, message, Headers(scope=scope).get("if-none-match", ""))
                await send(start)
            await send(message)

        await self._app(scope, receive, send_marked)


def _takes_etag(start: Message) -> bool:
    headers = Headers(raw=start["headers"])
    kind = headers.get("content-type", "").partition(";")[0]
    return start["status"] == 200 and kind == "application/json" and "etag" not in headers


def _marked(start: Message, body: Message, if_none_match: str) -> tuple[Message, Message]:
    headers = MutableHeaders(raw=list(start["headers"]))
    etag = f'"{hashlib.sha256(body["body"]).hexdigest()[:32]}"'
    headers["ETag"] = etag
    if not holds(if_none_match, etag):
        return {**start, "headers": headers.raw}, body
    for name in ("content-length", "content-type"):
        del headers[name]
    return {**start, "status": 304, "headers": headers.raw}, {**body, "body": b""}
