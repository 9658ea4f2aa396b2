"""Bounds between kinds of requests, so that many of one kind leave the others their threads and connections."""

from __future__ import annotations

import asyncio
import math
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Hashable
from typing import Any, TypeVar

from anyio import CapacityLimiter
from anyio.to_thread import run_sync

from symadj.service.errors import BusyError
from symadj.service.store import Database

__all__ = ["CostlyReads", "InFlight", "IngestLane", "Pace"]

Result = TypeVar("Result")

INGEST_THREADS = 8
# Tokens of attempts that are remembered, of the runs that have sent something last.
MOST_TOKENS = 1000
# A costly read takes a core for seconds, and the training may need the others. After a rest as many need not wait for
# their turn: a page's curves and its memory.
COSTLY_AT_ONCE = 2
# An answer of some 200 KB, kept or not, takes 4 ms of a core here, and as long again at the client's.
COSTLY_PER_SECOND = 20.0
COSTLY_TURN_SECONDS = 0.5
KEPT_BYTES = 4 * 2**20


class IngestLane:
    """The way of the runs' records into the store: threads and connections that nothing else uses.

    Requests on it must not take a thread from the common ones either: their dependencies are coroutines.
    """

    def __init__(self, store_url: str) -> None:
        self.database = Database(store_url, connections=INGEST_THREADS)
        self._limiter = CapacityLimiter(INGEST_THREADS)
        self._tokens: OrderedDict[bytes, None] = OrderedDict()

    def knows(self, token_hash: bytes) -> bool:
        """Return whether a token of this hash has belonged to an attempt."""
        return token_hash in self._tokens

    def remember(self, token_hash: bytes) -> None:
        """Let the hash of an attempt's token be known; of too many, the one that was found first is forgotten."""
        self._tokens[token_hash] = None
        if len(self._tokens) > MOST_TOKENS:
            self._tokens.popitem(last=False)

    async def run(self, work: Callable[[Database], Result]) -> Result:
        """Return what ``work`` returns, when one of the threads has done it."""
        return await run_sync(work, self.database, limiter=self._limiter)


class Pace:
    """Turns at something: ``per_second`` in the long run, of which ``in_a_row`` come at once after as long a rest.

    Nobody waits for a turn for longer than ``most_seconds``.
    """

    def __init__(self, per_second: float, *, in_a_row: int = 1, most_seconds: float = math.inf) -> None:
        self._between = 1.0 / per_second
        self._ahead = (in_a_row - 1) * self._between
        self._most_seconds = most_seconds
        # When the next turn would be due if none came in a row with others.
        self._next = 0.0

    async def turn(self) -> None:
        """Return when it is the caller's turn.

        Raises:
            BusyError: it would take too long.
        """
        now = time.monotonic()
        turn = max(now, self._next - self._ahead)
        if turn - now > self._most_seconds:
            raise BusyError(
                f"no more than {1 / self._between:g} of these are answered a second: repeat the request after the "
                "seconds that Retry-After says"
            )
        self._next = max(now, self._next) + self._between
        await asyncio.sleep(turn - now)


class InFlight:
    """Work that several requests ask for at the same time is done once for all of them."""

    def __init__(self) -> None:
        self._tasks: dict[Hashable, asyncio.Task[Any]] = {}

    async def join(self, key: Hashable, work: Callable[[], Awaitable[Result]]) -> Result:
        """Return the result of the work under way for ``key``; begin ``work`` if there is none.

        It goes on for the others if one of them leaves.
        """
        task = self._tasks.get(key)
        if task is None:
            task = asyncio.ensure_future(self._run(key, work))
            self._tasks[key] = task
            task.add_done_callback(asyncio.Task.exception)  # it counts as seen, even if all have left
        result: Result = await asyncio.shield(task)
        return result

    def __len__(self) -> int:
        return len(self._tasks)

    def __contains__(self, key: Hashable) -> bool:
        return key in self._tasks

    async def _run(self, key: Hashable, work: Callable[[], Awaitable[Result]]) -> Any:
        try:
            return await work()
        finally:
            del self._tasks[key]


class CostlyReads:
    """Answers whose making takes seconds: few are made at once, each for all who ask, and the last ones are kept.

    All of them are large, so only so many are given a second (``COSTLY_PER_SECOND``). Whoever comes when too many are
    being made, or wait to be given, is told to come again.
    """

    def __init__(self, per_second: float = COSTLY_PER_SECOND) -> None:
        self._limiter = CapacityLimiter(COSTLY_AT_ONCE)
        self._pace = Pace(per_second, in_a_row=COSTLY_AT_ONCE, most_seconds=COSTLY_TURN_SECONDS)
        self._in_flight = InFlight()
        self._kept: OrderedDict[Hashable, bytes] = OrderedDict()
        self._kept_bytes = 0

    async def read(self, key: Hashable, work: Callable[[], bytes], *, keep: bool = True) -> bytes:
        """Return the answer for ``key``: the kept one, the one that is being made, or what ``work`` makes now.

        With ``keep``, the key must change whenever the answer does.

        Raises:
            BusyError: as many others are being made, or wait to be given, as may be.
        """
        await self._pace.turn()
        kept = self._kept.get(key)
        if kept is not None:
            self._kept.move_to_end(key)
            return kept
        if key not in self._in_flight and len(self._in_flight) >= COSTLY_AT_ONCE:
            raise BusyError(
                f"{COSTLY_AT_ONCE} costly reads (downsampled series, memory, usage) are being made, and no more at "
                "once: repeat the request after the seconds that Retry-After says"
            )

        async def make() -> bytes:
            answer = await run_sync(work, limiter=self._limiter)
            if keep:
                self._keep(key, answer)
            return answer

        return await self._in_flight.join(key, make)

    def _keep(self, key: Hashable, answer: bytes) -> None:
        self._kept[key] = answer
        self._kept_bytes += len(answer)
        while self._kept_bytes > KEPT_BYTES:
            _, oldest = self._kept.popitem(last=False)
            self._kept_bytes -= len(oldest)
