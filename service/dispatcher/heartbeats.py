"""Notices who was not heard of for too long, by this process's own clock."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from datetime import datetime

__all__ = ["Heartbeats"]


class Heartbeats:
    """Counts for how long the time at which each source was last heard of has not changed.

    That time itself is only compared with itself, so whose clock made it does not matter. Looks must follow each other
    closely: one that comes late (the machine slept, the dispatcher was stopped) starts all clocks afresh, as
    :meth:`start_afresh` does when something failed that every heartbeat depends on.
    """

    def __init__(self, lease_seconds: float, clock: Callable[[], float]) -> None:
        self._lease_seconds = lease_seconds
        self._clock = clock
        self._looked_at = clock()
        self._heard: dict[Hashable, tuple[datetime, float]] = {}

    def start_afresh(self) -> None:
        """Forget all that was seen."""
        self._heard.clear()

    def look(self, seen_at: Mapping[Hashable, datetime]) -> dict[Hashable, float]:
        """Take when each source was heard of last; return those that were silent for too long, and the seconds."""
        now = self._clock()
        if now - self._looked_at > self._lease_seconds / 2:
            self.start_afresh()
        self._looked_at = now
        before, self._heard = self._heard, {}
        for source, time in seen_at.items():
            known = before.get(source)
            self._heard[source] = known if known is not None and known[0] == time else (time, now)
        silent = {source: now - since for source, (_, since) in self._heard.items()}
        return {source: seconds for source, seconds in silent.items() if seconds >= self._lease_seconds}
