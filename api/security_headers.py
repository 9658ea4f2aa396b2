"""What browsers are told of every answer, so that none of them is taken for a page of somebody else's making."""

from __future__ import annotations

from starlette.types import ASGIApp, Message, Receive, Scope, Send

__all__ = ["SECURITY_HEADERS", "AddSecurityHeaders"]

SECURITY_HEADERS = {
    # An artifact is what its Content-Type says, and nothing that a browser sees in it.
    "X-Content-Type-Options": "nosniff",
    # Data, in which nothing may be run or loaded. The page of the documentation has a policy of its own.
    "Content-Security-Policy": "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Frame-Options": "DENY",  # for browsers that don't know frame-ancestors
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}


_AS_SENT = {name.lower().encode(): value.encode() for name, value in SECURITY_HEADERS.items()}


class AddSecurityHeaders:
    """ASGI middleware: adds ``SECURITY_HEADERS`` to every answer, but those that it has already."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on."""

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = list(message["headers"])
                present = {name.lower() for name, _ in headers}
                message["headers"] = headers + [item for item in _AS_SENT.items() if item[0] not in present]
            await send(message)

        await self._app(scope, receive, send_with_headers if scope["type"] == "http" else send)
