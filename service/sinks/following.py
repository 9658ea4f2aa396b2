"""Feeds a sink with what is stored, from where it was."""

from __future__ import annotations

import logging
import threading

from symadj.service.contract.states import TERMINAL, JobState
from symadj.service.sinks.sink import Sink, SinkError
from symadj.service.store import Database, artifacts, metrics, sinks
from symadj.service.store.tables import Job, SinkPosition

__all__ = ["Follower"]

log = logging.getLogger("symadj.sinks")

LOOK_SECONDS = 2.0
LONGEST_PAUSE_SECONDS = 300.0
# Numbers of metrics that are given to a sink at once.
PIECE = 5000


class Follower:
    """One sink, and how far it was fed of each job, which is stored after the sink has taken it.

    Args:
        database: the store.
        name: by which the sink is known in the store.
        sink: to feed.
        api_url: before the addresses of files.
    """

    def __init__(self, database: Database, name: str, sink: Sink, *, api_url: str) -> None:
        self._database, self._name, self._sink, self._api_url = database, name, sink, api_url.rstrip("/")
        self._begun: set[str] = set()

    def run(self, stopping: threading.Event) -> None:
        """Feed the sink until ``stopping`` is set, and wait ever longer for one that is away."""
        pause = LOOK_SECONDS
        while not stopping.wait(pause):
            try:
                self.look()
                pause = LOOK_SECONDS
            except Exception as error:
                # Files are opened, and runs looked for, anew: who knows what it has kept.
                self._begun.clear()
                pause = min(2 * pause, LONGEST_PAUSE_SECONDS)
                trouble = isinstance(error, SinkError | OSError)
                log.warning("%s: tried again in %g s: %s", self._name, pause, error, exc_info=not trouble)

    def look(self) -> None:
        """Feed the sink once with all that is new.

        Raises:
            SinkError, OSError: it can't be fed now.
        """
        with self._database.read_session() as session:
            unfinished = sinks.unfinished(session, self._name)
        for job, position in unfinished:
            self._feed(job, position)

    def _feed(self, job: Job, position: SinkPosition) -> None:
        ended = JobState(job.state) in TERMINAL
        if job.metric_seq <= position.metric_seq and not ended:
            return
        if job.id not in self._begun:
            self._sink.begin(job, position.metric_seq)
            self._begun.add(job.id)
        while position.metric_seq < job.metric_seq:
            up_to = min(job.metric_seq, position.metric_seq + PIECE)
            with self._database.read_session() as session:
                names = [item.name for item in metrics.series(session, job.id)]
                points = metrics.between(session, job.id, names, after_seq=position.metric_seq, up_to_seq=up_to)
            self._sink.take(job, points)
            position.metric_seq = up_to
            self._store(position)
        if ended:
            with self._database.read_session() as session:
                names = [item.name for item in artifacts.of_job(session, job.id)]
            self._sink.end(job, [f"{self._api_url}/api/v1/jobs/{job.id}/artifacts/{name}" for name in names])
            position.ended = True
            self._store(position)
            self._begun.discard(job.id)

    def _store(self, position: SinkPosition) -> None:
        with self._database.session() as session:
            sinks.put(session, position)
