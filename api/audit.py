"""What the audit log is told of the requests, and the id that each gets."""

from __future__ import annotations

import asyncio
import re
import time
from datetime import UTC, datetime

from fastapi import Request
from fastapi.routing import iter_route_contexts
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from symadj.api.monitoring import CLIENT_LEFT
from symadj.service.audit import AuditLog
from symadj.service.contract.storable import storable_details
from symadj.service.identifiers import new_audit_id
from symadj.service.roles import Principal
from symadj.service.store.tables import AuditEntry

__all__ = ["REQUEST_ID", "RecordAudit", "note_asker", "note_change", "note_made"]

REQUEST_ID = "X-Request-ID"
# What a client, or a proxy before us, may call a request.
_ID = re.compile(r"[A-Za-z0-9._-]{1,64}", re.ASCII)
_READS = {"GET", "HEAD", "OPTIONS"}
_REFUSED = {401, 403}
# Of requests without a valid key: strangers must not be able to fill the store.
STRANGERS_A_MINUTE = 60


def note_asker(request: Request, asker: Principal) -> None:
    """Say who sent a request."""
    request.state.asker = asker


def note_change(request: Request) -> None:
    """Say that a request changes something, if its method is not one of those that read."""
    request.state.changes = True


def note_made(request: Request, made: str) -> None:
    """Say which thing a request made, where the answer has no ``Location`` that ends with its id."""
    request.state.made = made


class RecordAudit:
    """ASGI middleware: gives every request an id, and notes those that change something or are refused (401, 403).

    A client's own ``X-Request-ID`` is kept. Runs, which send what they measure under tokens of their own, are not
    noted.
    """

    def __init__(self, app: ASGIApp, audit_log: AuditLog) -> None:
        self._app = app
        self._audit_log = audit_log
        self._strangers = _Strangers()
        self._paths: dict[int, str] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        given = Headers(scope=scope).get(REQUEST_ID, "")
        request_id = given if _ID.fullmatch(given) else new_audit_id().removeprefix("aud-")
        state = scope.setdefault("state", {})
        status, location = 500, ""

        async def watch(message: Message) -> None:
            nonlocal status, location
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers[REQUEST_ID] = request_id
                status, location = message["status"], headers.get("location", "")
            await send(message)

        try:
            await self._app(scope, receive, watch)
        except asyncio.CancelledError:
            status = CLIENT_LEFT
            raise
        finally:
            changes = state.get("changes", False) and scope["method"] not in _READS
            of_a_run = scope["path"].startswith("/api/v1/ingest/")
            if changes or (status in _REFUSED and not of_a_run):
                self._note(scope, status, request_id, location.rpartition("/")[2])

    def _path_of(self, scope: Scope) -> str:
        """Return the path of a request's route with the names of its parameters: no text of the request's own."""
        if not self._paths:
            # A route knows its path within its router alone.
            contexts = iter_route_contexts(scope["app"].routes)
            self._paths = {id(context.original_route): str(context.path) for context in contexts}
        return self._paths.get(id(scope.get("route")), "none")

    def _note(self, scope: Scope, status: int, request_id: str, located: str) -> None:
        state = scope["state"]
        asker: Principal | None = state.get("asker")
        left_out = 0 if asker is not None else self._strangers.left_out()
        if left_out is None:
            return
        target = "/".join(map(str, scope.get("path_params", {}).values()))
        self._audit_log.note(
            AuditEntry(
                id=new_audit_id(),
                time=datetime.now(UTC),
                who=asker.name if asker else None,
                role=asker.role.value if asker else None,
                key_id=asker.key_id if asker else None,
                method=scope["method"][:16],
                route=self._path_of(scope),
                target=storable_details(target)[:200] or None,
                made=state.get("made") or located or None,
                status=status,
                request_id=request_id,
                address=scope["client"][0][:64] if scope.get("client") else None,
                left_out=left_out,
            )
        )


class _Strangers:
    """Counts the requests without a valid key, of which only so many a minute are noted."""

    def __init__(self) -> None:
        self._minute, self._noted, self._left_out = 0.0, 0, 0

    def left_out(self) -> int | None:
        """Return how many were not noted since the last one that was; None: this one is not noted either."""
        now = time.monotonic()
        if now - self._minute >= 60:
            self._minute, self._noted = now, 0
        if self._noted >= STRANGERS_A_MINUTE:
            self._left_out += 1
            return None
        self._noted += 1
        counted, self._left_out = self._left_out, 0
        return counted
