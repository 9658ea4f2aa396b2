"""A job's stream of server-sent events, begun again where it broke off: for both clients."""

from __future__ import annotations

import time
from collections.abc import Callable

from symadj.api.client.attempts import Patience, Silence, is_away
from symadj.api.client.request import Request
from symadj.api.client.requests import job_path
from symadj.api.schemas.jobs import EventRead
from symadj.api.schemas.telemetry import MetricList

__all__ = ["Following"]


class Following:
    """How far a job was followed.

    Attributes:
        ended: whether the job has ended, and all that happened was read.
        must_pause: whether to wait before the next connection: the last one broke, or brought nothing.

    Args:
        job_id: of the job.
        wait: seconds after which the server ends a stream, so that another is begun.
        timeout: seconds for all of it; None: until the job has ended.
        tell: gets a sentence when the server is away, which is then waited for, however long, and when it is back;
            None: for a minute.
    """

    def __init__(
        self,
        job_id: str,
        *,
        wait: float = 600.0,
        timeout: float | None = None,
        tell: Callable[[str], None] | None = None,
    ) -> None:
        self.ended = False
        self.must_pause = False
        self._job_id = job_id
        self._wait = wait
        self._timeout = timeout
        self._began = time.monotonic()
        self._place: str | None = None
        self._fields: dict[str, str] = {}
        self._patience = Patience()
        self._silence = None if tell is None else Silence(tell)

    def request(self) -> Request[bytes]:
        """Return the request for what comes next.

        Raises:
            TimeoutError: the job has not ended in time.
        """
        wait = self._wait
        if self._timeout is not None:
            left = self._timeout - (time.monotonic() - self._began)
            if left <= 0:
                raise TimeoutError(f"{self._job_id} has not ended within {self._timeout:g} s; it goes on")
            wait = min(wait, left)
        self._fields, self.must_pause = {}, True
        headers = {} if self._place is None else {"Last-Event-ID": self._place}
        return Request("GET", f"{job_path(self._job_id)}/stream", bytes, params={"wait": wait}, headers=headers)

    def opened(self, status: int) -> None:
        """Note the status of the answer: 204 says that there is nothing more."""
        self.ended = status == 204
        if self._silence is not None:
            self._silence.ends()

    def read(self, line: str) -> EventRead | MetricList | None:
        """Take a line of the stream; return what it completes, if it does."""
        name, _, value = line.partition(": ")
        if name:
            self._fields[name] = value
            return None
        if "data" not in self._fields:
            return None
        fields, self._fields = self._fields, {}
        kind, self._place = fields["event"], fields["id"]
        self.must_pause = False
        self._patience.progressed()
        if kind == "end":
            self.ended = True
            return None
        read: type[EventRead] | type[MetricList] = EventRead if kind == "event" else MetricList
        return read.model_validate_json(fields["data"])

    def goes_on_after(self, error: BaseException) -> bool:
        """Return whether another stream is begun after an error."""
        self.must_pause = True
        if self._silence is not None and is_away(error):
            self._silence.begins(error)
            return True
        return self._patience.allows(error)
