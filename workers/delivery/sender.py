"""Delivery of a run's records to the API: each one once, whatever happens to the API meanwhile."""

from __future__ import annotations

import logging
import os
import random
import tempfile
import threading
import time
from http import HTTPStatus
from pathlib import Path
from typing import Any

import requests
from pydantic import ValidationError

from symadj.service.contract.order import RunOrder
from symadj.service.contract.records import (
    MAX_BATCH_BYTES,
    MAX_BATCH_RECORDS,
    PROBLEM_MEDIA_TYPE,
    AnyRecord,
    BatchAnswer,
)
from symadj.service.contract.states import StopReason
from symadj.workers.delivery.outbox import TelemetryError
from symadj.workers.delivery.spool import Spool
from symadj.workers.outcome import StopRequestedError

__all__ = ["Sender", "open_sender", "spool_folder"]

log = logging.getLogger(__name__)

SEND_INTERVAL_S = 0.5
# Of the first batch, and twice as much of each that follows, up to the other: a run's first step is seen at once.
FIRST_INTERVAL_S = 0.05
# After so long without records, an empty batch asks whether the job must stop.
SIGN_OF_LIFE_S = 2.0
SEND_AT_ONCE = 500  # records waiting
FIRST_RETRY_S = 0.1
LONGEST_RETRY_S = 5.0
REQUEST_TIMEOUT_S = 10.0

# The attempt is not wanted any more: its token was withdrawn, or the job was deleted or given to another attempt.
_NOT_WANTED = frozenset({HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN, HTTPStatus.NOT_FOUND, HTTPStatus.GONE})
_LATER = frozenset({HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_EARLY, HTTPStatus.TOO_MANY_REQUESTS})


class Sender:
    """Delivers one source's records to the API from a thread of its own, by way of a spool.

    Connection errors, timeouts, the API's own errors (5xx, 429) and what a proxy answers in its place are retried for
    ever with a growing, jittered pause, so that the API may be restarted or away for long without a record lost. A
    batch whose answer was lost is sent again, and the API sees by its sequence numbers which of its records are new.
    """

    def __init__(self, spool: Spool, api_url: str, token: str, source: str, checkpoints_asked: int = 0) -> None:
        self._spool = spool
        self._source = source
        self._url = f"{api_url.rstrip('/')}/api/v1/ingest/batches"
        self._headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
        self._acknowledged = 0
        self._interval = FIRST_INTERVAL_S
        self._stop: StopReason | None = None
        self._interrupted: StopReason | None = None
        self._checkpoints_asked = checkpoints_asked
        self._superseded = False
        self._error: TelemetryError | None = None
        self._flushing = 0
        self._closed = False
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._run, name=f"symadj-sender-{source}", daemon=True)
        self._thread.start()

    @property
    def spool(self) -> Path:
        """The file of the records on their way."""
        return self._spool.path

    @property
    def stop(self) -> StopReason | None:
        return self._stop or self._interrupted

    def interrupt(self, reason: StopReason) -> None:
        """Let the run stop for a reason that was found here; what the API asks for goes before it."""
        self._interrupted = reason

    @property
    def checkpoints_asked(self) -> int:
        return self._checkpoints_asked

    @property
    def superseded(self) -> bool:
        return self._superseded

    def put(self, record: AnyRecord) -> None:
        if self._error:
            raise self._error
        number = self._spool.append(record.model_dump_json().encode())
        if (number - self._acknowledged) % SEND_AT_ONCE == 0:
            with self._changed:
                self._changed.notify_all()

    def raise_if_stopped(self) -> None:
        if self.stop is not None:
            raise StopRequestedError(self.stop)

    def flush(self, timeout: float) -> bool:
        with self._changed:
            self._flushing += 1
            self._changed.notify_all()
            self._changed.wait_for(lambda: self._all_delivered or self._over, timeout)
            self._flushing -= 1
            if self._error:
                raise self._error
            return self._all_delivered

    def close(self) -> None:
        """Stop the thread; the spool's file is kept only where it holds records that were not delivered."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        self._thread.join()
        self._spool.close(delete=self._all_delivered or self._superseded)

    @property
    def _all_delivered(self) -> bool:
        return self._acknowledged >= self._spool.count

    @property
    def _over(self) -> bool:
        return self._closed or self._superseded or self._error is not None

    def _run(self) -> None:
        try:
            # Proxies of the environment are for the outside world; the API is a neighbour.
            with requests.Session() as session:
                session.trust_env = False
                session.headers.update(self._headers)
                while self._wait_for_work():
                    self._deliver(session)
                    self._interval = min(2 * self._interval, SEND_INTERVAL_S)
        except Exception as error:
            log.exception("telemetry of %s stopped", self._source)
            with self._changed:
                self._error = error if isinstance(error, TelemetryError) else TelemetryError(repr(error))
                self._changed.notify_all()

    def _wait_for_work(self) -> bool:
        """Wait until there is something to send or to ask; return False when there will never be."""
        ask_at = time.monotonic() + SIGN_OF_LIFE_S
        with self._changed:
            while not self._over:
                waiting = self._spool.count - self._acknowledged
                if waiting and (self._flushing or waiting >= SEND_AT_ONCE):
                    return True
                notified = self._changed.wait(self._interval)
                if not notified and (self._spool.count > self._acknowledged or time.monotonic() >= ask_at):
                    return True
            return False

    def _deliver(self, session: requests.Session) -> None:
        """Send batches until the API has answered one.

        A loop of our own: it waits on a condition that ``close`` notifies, and each try sends what was made meanwhile.
        """
        pause = FIRST_RETRY_S
        while not self._over:
            first = self._acknowledged + 1
            # Read anew for every try: records made meanwhile go along. Without records to send, an empty batch: its
            # answer says whether the job must stop.
            lines = self._spool.read(first, MAX_BATCH_RECORDS, MAX_BATCH_BYTES)
            # The records are JSON already: the batch is put together around them.
            head = f'{{"source":"{self._source}","first_seq":{first},"records":['.encode()
            try:
                answer = session.post(
                    self._url,
                    data=head + b",".join(lines) + b"]}",
                    timeout=REQUEST_TIMEOUT_S,
                    allow_redirects=False,
                )
            except requests.RequestException as error:
                problem = f"{type(error).__name__}: {error}"
            else:
                problem = f"status {answer.status_code}"
                if _is_of_another(answer):
                    problem += f", not of symadj's API: {answer.text[:200]!r}"
                elif not (answer.status_code >= HTTPStatus.INTERNAL_SERVER_ERROR or answer.status_code in _LATER):
                    moved = self._take(answer)
                    if moved or not lines:
                        return
            log.warning("telemetry of %s waits for %s: %s", self._source, self._url, problem)
            with self._changed:
                self._changed.wait_for(lambda: self._over, pause * random.uniform(0.5, 1.0))
            pause = min(2 * pause, LONGEST_RETRY_S)

    def _take(self, answer: requests.Response) -> bool:
        """Take an answer; return whether the API moved on, or ended the sending."""
        if answer.status_code == HTTPStatus.OK:
            read = BatchAnswer.model_validate_json(answer.content)
            self._stop, self._checkpoints_asked = read.stop, read.checkpoints_asked
            return self._continue_from(read.next_seq)
        if answer.status_code == HTTPStatus.CONFLICT and "next_seq" in (problem := _object_in(answer)):
            return self._continue_from(int(problem["next_seq"]))
        if answer.status_code in _NOT_WANTED:
            log.warning("the API does not want this attempt any more: %s", answer.text)
            with self._changed:
                self._superseded = True
                self._changed.notify_all()
            return True
        raise TelemetryError(
            f"{self._url} answered {answer.status_code} to records of {self._source} from number "
            f"{self._acknowledged + 1} on: {answer.text[:2000]}"
        )

    def _continue_from(self, number: int) -> bool:
        if not 1 <= number <= self._spool.count + 1:
            raise TelemetryError(
                f"{self._url} waits for record {number} of {self._source}, which has made {self._spool.count}: "
                "another process sends under the same name"
            )
        with self._changed:
            moved = self._acknowledged != number - 1
            self._acknowledged = number - 1
            self._changed.notify_all()
        return moved


def _is_of_another(answer: requests.Response) -> bool:
    """Return whether a proxy, or another server, says that a batch is taken, or that the attempt is not wanted."""
    if answer.status_code == HTTPStatus.OK:
        try:
            BatchAnswer.model_validate_json(answer.content)
        except ValidationError:
            return True
        return False
    return answer.status_code in _NOT_WANTED and not answer.headers.get("Content-Type", "").startswith(
        PROBLEM_MEDIA_TYPE
    )


def _object_in(answer: requests.Response) -> dict[str, Any]:
    """Return the JSON object that an answer holds, an empty one where it holds something else."""
    try:
        content = answer.json()
    except ValueError:
        return {}
    return content if isinstance(content, dict) else {}


def open_sender(order: RunOrder, token: str, source: str) -> Sender:
    """Start delivering the records of ``source`` of the attempt that ``order`` is for."""
    path = spool_folder(order) / f"{source}.jsonl"
    return Sender(Spool(path), order.api_url, token, source, order.checkpoints_asked)


def spool_folder(order: RunOrder) -> Path:
    """Return the folder on this node in which the sources of an attempt have their spools."""
    root = order.spool or os.path.join(tempfile.gettempdir(), "symadj-spool")
    return Path(root, order.job_id, str(order.attempt))
