"""How long ago something began, whatever is done to the machine's clock meanwhile."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass
from datetime import UTC, datetime

__all__ = ["Stopwatches", "wall_clock"]

_DAY_S = 86_400.0


def wall_clock() -> datetime:
    """Return the time of day, which an administrator or a time server may set forward or back."""
    return datetime.now(UTC)


@dataclass
class _Stopwatch:
    since: datetime
    began: float
    read_at: float


class Stopwatches:
    """Measures by this process's own clock from the first time that it is asked.

    The wall clock says only how long before that something began: another process wrote that down. So a jump of the
    wall clock after the first look changes nothing.

    Args:
        clock: seconds that only ever pass.
        wall: the time of day.
    """

    def __init__(self, clock: Callable[[], float], wall: Callable[[], datetime]) -> None:
        self._clock, self._wall = clock, wall
        self._running: dict[str, dict[Hashable, _Stopwatch]] = {}

    def elapsed(self, of: str, what: Hashable, since: datetime) -> float:
        """Return the seconds since ``what`` of ``of`` began at ``since``; another ``since`` begins anew."""
        known = self._running.setdefault(of, {})
        watch = known.get(what)
        if watch is None or watch.since != since:
            before = max(0.0, (self._wall() - since).total_seconds())
            now = self._clock()
            watch = known[what] = _Stopwatch(since, now - before, now)
        watch.read_at = self._clock()
        return watch.read_at - watch.began

    def last(self, of: str, what: Hashable) -> float | None:
        """Return the last reading, None where there is none."""
        watch = self._running.get(of, {}).get(what)
        return None if watch is None else watch.read_at - watch.began

    def forget_old(self) -> None:
        """Forget what was not looked at for a day."""
        day_ago = self._clock() - _DAY_S
        self._running = {
            of: watches
            for of, watches in self._running.items()
            if any(watch.read_at > day_ago for watch in watches.values())
        }
