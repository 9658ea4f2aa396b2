"""Gives queued jobs to Ray when it has room for them, and makes sure that none of them is forgotten.

``python -m symadj.service.dispatcher`` runs one. It holds nothing that the store does not hold: killed at any moment,
the next one goes on from there. Several may run at once.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import datetime

from symadj.service.dispatcher.heartbeats import Heartbeats
from symadj.service.dispatcher.starting import MAX_REFUSALS, Starter
from symadj.service.dispatcher.stopwatches import Stopwatches, wall_clock
from symadj.service.dispatcher.stored_specs import StoredSpecs
from symadj.service.dispatcher.sweeps import SweepRunner
from symadj.service.dispatcher.tidying import Tidier
from symadj.service.dispatcher.watching import Watcher
from symadj.service.ray_jobs import RayJobs
from symadj.service.settings import Settings
from symadj.service.store import Database, jobs

__all__ = ["MAX_REFUSALS", "Dispatcher"]


class Dispatcher:
    """One dispatcher. Call :meth:`round` again and again."""

    def __init__(
        self,
        database: Database,
        ray: RayJobs,
        settings: Settings,
        *,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], datetime] = wall_clock,
    ) -> None:
        self._database = database
        specs = StoredSpecs()
        self._heartbeats = Heartbeats(settings.run_lease_seconds, clock)
        self._tidier = Tidier(database, ray, settings, clock, wall)
        self._watcher = Watcher(database, ray, settings, self._heartbeats, Stopwatches(clock, wall), specs)
        self._sweeps = SweepRunner(database, settings, clock)
        self._starter = Starter(database, ray, settings, self._tidier, specs, wall)

    def round(self) -> None:
        """Look once at every active job, carry on the sweeps, start what the cluster has room for, then tidy up.

        Raises:
            RayUnreachableError: Ray does not answer; nothing is lost, the next round will see.
            RayRefusedError: Ray says no; likewise.
        """
        try:
            self._watcher.look()
        except Exception:
            # A dispatcher that could not look does not know that a run was silent.
            self._heartbeats.start_afresh()
            raise
        self._sweeps.carry_on()
        self._starter.start()
        self._tidier.tidy()

    def newest_job(self) -> str | None:
        """Return the id of the job that was submitted last: another one is a reason for a round at once."""
        with self._database.read_session() as session:
            return jobs.newest_id(session)

    def drain(self) -> bool:
        """Ask every active run to stop, with a checkpoint, look once at each, and start nothing.

        Returns:
            Whether any is still active.

        Raises:
            RayUnreachableError: Ray does not answer; nothing is lost, the next round will see.
            RayRefusedError: Ray says no; likewise.
        """
        return self._watcher.drain()

    def close(self) -> None:
        """Close what the dispatcher opened itself."""
        self._sweeps.close()
        self._watcher.close()
