"""Clients that take their time to send a request."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

__all__ = ["protocol_with_deadline"]

# A client that keeps on sending so much gets the time for it.
_PACE_BYTES_PER_SECOND = 2**20


def protocol_with_deadline(seconds: float) -> type[asyncio.Protocol]:
    """Return uvicorn's protocol for HTTP, with a deadline for every request.

    A connection is closed if its client has not sent the whole of a request so many seconds after it could begin, and a
    second more for each MiB that has come: a large file may take its time. Uvicorn itself waits for ever for the end of
    a header or of a body.
    """

    class Deadline(H11Protocol):
        def __init__(self, *arguments: Any, **named: Any) -> None:
            super().__init__(*arguments, **named)
            self._deadline: asyncio.TimerHandle | None = None
            self._received = 0
            self._granted = 0.0

        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            super().connection_made(cast(asyncio.Transport, transport))
            self._watch()

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            self._received += len(data)
            self._watch()

        def connection_lost(self, exc: Exception | None) -> None:
            self._stop()
            super().connection_lost(exc)

        def _watch(self) -> None:
            if self.conn.their_state not in {h11.IDLE, h11.SEND_BODY}:
                self._stop()  # the request is complete
            elif self._deadline is None:
                self._received, self._granted = 0, 0.0
                self._deadline = self.loop.call_later(seconds, self._expire)

        def _expire(self) -> None:
            earned = self._received / _PACE_BYTES_PER_SECOND
            more, self._granted = earned - self._granted, earned
            if more < 1:
                self.transport.abort()
            else:
                self._deadline = self.loop.call_later(more, self._expire)

        def _stop(self) -> None:
            if self._deadline is not None:
                self._deadline.cancel()
                self._deadline = None

    return Deadline
