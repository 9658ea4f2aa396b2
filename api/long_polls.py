"""Requests that wait for new values of a series: looked after together, and answered at a pace."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Hashable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TypeVar

import anyio

from symadj.api.bulkheads import InFlight, Pace

__all__ = ["Awaited", "LongPolls"]

Result = TypeVar("Result")

# Between two looks at a series for those who wait for it, at least.
LOOK_SECONDS = 0.25
# Of all who wait together, about: the more there are, the longer each look lets values gather.
ANSWERS_PER_SECOND = 100.0


@dataclass
class Awaited:
    """A series that somebody waits for: how many do, its highest number at the last look (-1: none yet), and what is
    being read for several of them at once."""

    waiting: int = 0
    seen: int = -1
    reads: InFlight = field(default_factory=InFlight)


class LongPolls:
    """All who wait. Those who wait for the same share the looks at it, and what they read.

    ``per_second`` of them are answered a second, about; ``pause`` is what passes the time between two looks.
    """

    def __init__(
        self, per_second: float = ANSWERS_PER_SECOND, pause: Callable[[float], Awaitable[None]] = anyio.sleep
    ) -> None:
        self._per_second = per_second
        self._pause = pause
        self._awaited: dict[Hashable, Awaited] = {}
        # Those whom one look answers are answered one after another, until shortly before the next look: in a burst
        # they would keep all other requests waiting.
        self._pace = Pace(1.25 * per_second)

    @property
    def waiting(self) -> int:
        """How many wait, for whatever series."""
        return sum(awaited.waiting for awaited in self._awaited.values())

    @contextmanager
    def waiting_for(self, key: Hashable) -> Iterator[Awaited]:
        """Count one who waits for a series, until the block ends."""
        awaited = self._awaited.setdefault(key, Awaited())
        awaited.waiting += 1
        try:
            yield awaited
        finally:
            awaited.waiting -= 1
            if not awaited.waiting:
                del self._awaited[key]

    async def look(self, awaited: Awaited, read: Callable[[], Awaitable[Result]]) -> Result:
        """Return what ``read`` returns at the next look, which is one for all who wait for the series."""

        async def after_a_pause() -> Result:
            await self._pause(max(LOOK_SECONDS, self.waiting / self._per_second))
            return await read()

        return await awaited.reads.join("look", after_a_pause)

    async def turn(self) -> None:
        """Return when it is the caller's turn to be answered."""
        await self._pace.turn()
