"""When a request is sent again, and after what pause: for both clients."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import tenacity

from symadj.api.client.errors import ApiProblemError, ApiUnreachableError
from symadj.api.client.request import Request

__all__ = ["Attempts", "Patience", "Silence", "is_away", "pause_seconds"]

# How long a submission whose answer was lost is repeated: a killed API is back after some seconds.
SUBMIT_SECONDS = 60.0
PAUSE_SECONDS = 1.0
# For how long a request is repeated that a server refuses for now and says when to come again.
BUSY_SECONDS = 60.0
# How long what broke off, a download or a stream, is asked for again while nothing of it comes.
RESUME_SECONDS = 60.0


def pause_seconds() -> float:
    """Return the seconds between two tries, where the server names none."""
    return PAUSE_SECONDS


class Silence:
    """That a server is away, told when it begins and when it ends.

    Args:
        tell: gets a sentence.
    """

    def __init__(self, tell: Callable[[str], None]) -> None:
        self._tell = tell
        self._told = False

    def begins(self, error: BaseException | None) -> None:
        """Note a request that was not answered."""
        if not self._told:
            self._told = True
            cause = f"status {error.status}" if isinstance(error, ApiProblemError) else "no connection"
            self._tell(f"the API does not answer ({cause}); asking again until it does, jobs run on")

    def ends(self) -> None:
        """Note a request that was answered."""
        if self._told:
            self._told = False
            self._tell("the API answers again")


class Attempts:
    """The tries at one request.

    Attributes:
        policy: arguments of tenacity's ``Retrying`` and ``AsyncRetrying``.

    Args:
        request: that is sent.
        tell: gets a sentence when a read begins to wait for a server that is away, however long, and when it is back;
            None: it does not wait.
    """

    def __init__(self, request: Request[Any], tell: Callable[[str], None] | None) -> None:
        self._request = request
        self._silence = None if tell is None or request.method != "GET" else Silence(tell)
        self._sent = False
        self.policy: dict[str, Any] = {"wait": _pause, "reraise": True}
        if self._silence is not None:
            self.policy |= {"retry": tenacity.retry_if_exception(is_away), "before_sleep": self._note_silence}
        elif request.makes_job:
            stop = tenacity.stop_before_delay(SUBMIT_SECONDS)
            self.policy |= {"retry": tenacity.retry_if_exception(self._may_have_arrived), "stop": stop}
        else:
            stop = tenacity.stop_before_delay(BUSY_SECONDS)
            self.policy |= {"retry": tenacity.retry_if_exception(_is_busy), "stop": stop}

    def answered(self) -> None:
        """Say that the server is back, if it was said to be away."""
        if self._silence is not None:
            self._silence.ends()

    def explained(self, error: ApiUnreachableError) -> ApiUnreachableError:
        """Return an error after which no more tries are made, with what the caller can do."""
        if not self._request.makes_job or not self._sent:
            return error
        return ApiUnreachableError(
            f"{error}. The job may have been accepted: repeat the same request under the Idempotency-Key "
            f"{self._request.headers['Idempotency-Key']}, and there is one job in any case",
            sent=True,
        )

    def _may_have_arrived(self, error: BaseException) -> bool:
        behind_a_proxy = isinstance(error, ApiProblemError) and error.status in {502, 503, 504}
        self._sent = self._sent or behind_a_proxy or (isinstance(error, ApiUnreachableError) and error.sent)
        return behind_a_proxy or (self._sent and isinstance(error, ApiUnreachableError))

    def _note_silence(self, state: tenacity.RetryCallState) -> None:
        if self._silence is not None and state.outcome is not None:
            self._silence.begins(state.outcome.exception())


class Patience:
    """How long something that breaks off again and again is begun again: while parts of it come."""

    def __init__(self) -> None:
        self._since = time.monotonic()

    def progressed(self) -> None:
        """Note that a part has come."""
        self._since = time.monotonic()

    def allows(self, error: BaseException) -> bool:
        """Return whether to begin again after an error."""
        return is_away(error) and not self.is_over

    @property
    def is_over(self) -> bool:
        """Whether nothing has come for too long."""
        return time.monotonic() - self._since > RESUME_SECONDS

    @property
    def policy(self) -> dict[str, Any]:
        """Arguments of tenacity's ``Retrying`` and ``AsyncRetrying``."""
        retry = tenacity.retry_if_exception(is_away)
        return {"retry": retry, "stop": lambda _state: self.is_over, "wait": _pause, "reraise": True}


def is_away(error: BaseException) -> bool:
    """Return whether an error says that the server may be back later."""
    return isinstance(error, ApiUnreachableError) or (isinstance(error, ApiProblemError) and error.status >= 500)


def _is_busy(error: BaseException) -> bool:
    # Nothing was changed, so whatever it was may be sent again.
    return isinstance(error, ApiProblemError) and error.status == 503 and error.retry_after is not None


def _pause(state: tenacity.RetryCallState) -> float:
    """Return how long to wait for the next try: as the server says, where it does."""
    error = state.outcome.exception() if state.outcome is not None else None
    told = error.retry_after if isinstance(error, ApiProblemError) else None
    return told if told is not None else PAUSE_SECONDS
