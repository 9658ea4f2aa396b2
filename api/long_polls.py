"""Requests that wait for what is new in a series (metrics, logs): looked after together, and answered at a pace."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Hashable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Protocol, TypeVar

import anyio
from anyio.to_thread import run_sync

from symadj.api.bulkheads import InFlight, Pace

__all__ = ["Awaited", "Growing", "LongPolls", "Page", "Series", "State", "awaited_page", "next_state"]

Result = TypeVar("Result")

# Between two looks at a series for those who wait for it, at least.
LOOK_SECONDS = 0.25
# Of all who wait together, about: the more there are, the longer each look lets values gather.
ANSWERS_PER_SECOND = 25.0


@dataclass(frozen=True)
class State:
    """How far a series is: the number of its newest item, whether its job has ended, and was thinned since."""

    last_seq: int
    ended: bool
    thinned: bool = False


@dataclass(frozen=True)
class Page:
    """An answer, and where the next one goes on.

    Attributes:
        empty: it has no item.
        full: it has as many items as were asked for.
        complete: the job has ended, and nothing comes after this answer.
        thinned: some of what came before was removed since.
    """

    body: bytes
    next_after: int
    empty: bool
    full: bool
    complete: bool
    thinned: bool = False


class Growing(Protocol):
    """Something of a job that grows, looked at by threads."""

    @property
    def key(self) -> Hashable:
        """What distinguishes it from all others."""

    def state(self) -> State:
        """Return how far it is."""


class Series(Growing, Protocol):
    """Numbered items of a job, read by threads."""

    def page(self, after: int, limit: int) -> Page:
        """Return the items after a number."""


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


async def awaited_page(polls: LongPolls, series: Series, after: int, limit: int, deadline: float) -> Page:
    """Return a page as it is now if it is full or the last one, else at the next look that finds an item for it."""
    # Who is to be answered counts as waiting: they ask again as soon as they are.
    with polls.waiting_for(series.key) as awaited:

        async def read() -> Page:
            # All who wait from the same number on get the same page.
            return await awaited.reads.join((after, limit), lambda: run_sync(series.page, after, limit))

        page = await read() if not 0 <= awaited.seen <= after else None
        if page is None or not (page.full or page.complete):
            while True:
                await next_state(polls, awaited, series, after=after, deadline=deadline)
                page = await read()
                if not page.empty or page.complete or anyio.current_time() >= deadline:
                    break
        await polls.turn()
        return page


async def next_state(
    polls: LongPolls, awaited: Awaited, series: Growing, *, after: int, deadline: float
) -> State | None:
    """Return how far a series is at a look that finds an item after ``after``, or its job ended; None: too late."""

    async def look() -> State:
        state = await run_sync(series.state)
        awaited.seen = state.last_seq
        return state

    with anyio.move_on_after(deadline - anyio.current_time()):
        while True:
            state = await polls.look(awaited, look)
            if state.last_seq > after or state.ended:
                return state
    return None
