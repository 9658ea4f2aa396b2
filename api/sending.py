"""Files that go out, read by threads of their own: a storage that is slow, or silent, holds up no other request."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import TypeVar

from anyio import CapacityLimiter
from anyio.to_thread import run_sync

from symadj.service.contract.storage import Storage

__all__ = ["ask", "pieces"]

Result = TypeVar("Result")

# Questions to the storage at once: the others wait for their turn, between two pieces of a file, too.
_threads = CapacityLimiter(16)
# How much of a file is passed on at once.
_PIECE_BYTES = 2**20


async def ask(question: Callable[[], Result]) -> Result:
    """Return what the storage answers, whoever waits for others meanwhile.

    Raises:
        OSError: as ``question``.
    """
    return await run_sync(question, limiter=_threads)


async def pieces(storage: Storage, path: str, first: int, end: int) -> AsyncIterator[bytes]:
    """Yield the bytes of a file from ``first`` to before ``end``."""
    stream = await ask(lambda: storage.open(path))
    with stream:

        def read() -> bytes:
            stream.seek(first)
            return stream.read(min(_PIECE_BYTES, end - first))

        while first < end and (piece := await ask(read)):
            first += len(piece)
            yield piece
