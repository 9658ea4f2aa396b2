"""Clients that leave before they have their answer."""

from __future__ import annotations

import anyio
from starlette.types import ASGIApp, Message, Receive, Scope, Send

__all__ = ["EndForDeparted"]


class EndForDeparted:
    """ASGI middleware: a read whose client has left is ended, and what of it waits for a thread never begins.

    What a thread is doing is done to its end. Requests that change something are left alone.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on."""
        if scope["type"] != "http" or scope["method"] not in {"GET", "HEAD"}:
            await self._app(scope, receive, send)
            return
        answered = False
        left = anyio.Event()

        async def note_end(message: Message) -> None:
            nonlocal answered
            answered = message["type"] == "http.response.body" and not message.get("more_body", False)
            await send(message)

        body_given = False

        async def receive_no_body() -> Message:
            nonlocal body_given
            if not body_given:
                body_given = True
                return {"type": "http.request", "body": b"", "more_body": False}
            await left.wait()
            return {"type": "http.disconnect"}

        async with anyio.create_task_group() as tasks:

            async def watch() -> None:
                while (await receive())["type"] != "http.disconnect":
                    pass  # a body, of which a read has no need
                left.set()
                if not answered:
                    tasks.cancel_scope.cancel()

            tasks.start_soon(watch)
            await self._app(scope, receive_no_body, note_end)
            tasks.cancel_scope.cancel()
