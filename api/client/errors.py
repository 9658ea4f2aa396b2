"""What goes wrong between a client and a server."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import httpx

__all__ = ["ApiProblemError", "ApiUnreachableError", "BadRequestError", "DownloadError", "problem_of", "told_in_words"]


class ApiProblemError(Exception):
    """The server answered with an error.

    Attributes: ``status`` (HTTP), ``title``, ``detail``, ``errors``: (pointer, detail) of each wrong field, and
    ``retry_after``: the seconds after which the server wants to be asked again, where it says so.
    """

    def __init__(
        self,
        status: int,
        title: str,
        detail: str,
        errors: list[tuple[str, str]],
        retry_after: float | None = None,
    ) -> None:
        super().__init__(f"{title}: {detail}")
        self.status = status
        self.title = title
        self.detail = detail
        self.errors = errors
        self.retry_after = retry_after


class BadRequestError(ValueError):
    """What was asked for can't be sent: an address, a job id, an API key or a repeatable key that can't be one."""


class DownloadError(Exception):
    """What was downloaded is not what the run stored."""


class ApiUnreachableError(Exception):
    """No answer from the server.

    Attributes: ``sent``: whether the request may have reached it.
    """

    def __init__(self, message: str, *, sent: bool) -> None:
        super().__init__(message)
        self.sent = sent


@contextmanager
def told_in_words(url: str) -> Iterator[None]:
    """Say in our words what goes wrong with a request to ``url`` within the block."""
    try:
        yield
    except httpx.UnsupportedProtocol as error:
        raise BadRequestError(f"{url!r} is not the address of a server: write http://host:port") from error
    except httpx.TransportError as error:
        raise ApiUnreachableError(
            f"no answer from {url} ({error or type(error).__name__}): is the service running there? "
            "`symadj serve` starts one, --url names another",
            sent=not isinstance(error, httpx.ConnectError | httpx.ConnectTimeout),
        ) from error


def problem_of(response: httpx.Response) -> ApiProblemError:
    """Return what an answer, which was read, says to be wrong."""
    told = response.headers.get("Retry-After", "")
    retry_after = float(told) if told.isdecimal() else None
    try:
        body = response.json()
        errors = [(str(item["pointer"]), str(item["detail"])) for item in body.get("errors", [])]
        return ApiProblemError(response.status_code, body["title"], body["detail"], errors, retry_after)
    except (ValueError, KeyError, TypeError, AttributeError):
        # Not from us: a proxy in between, perhaps.
        return ApiProblemError(response.status_code, response.reason_phrase, response.text[:500], [], retry_after)
