"""What goes wrong between a client and a server."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import httpx
from pydantic import ValidationError

__all__ = [
    "ApiProblemError",
    "ApiUnreachableError",
    "BadRequestError",
    "DownloadError",
    "is_answer",
    "problem_of",
    "read_by",
    "told_in_words",
]

T = TypeVar("T")


class ApiProblemError(Exception):
    """The server answered with an error, or with what is no answer of symadj's.

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


def is_answer(response: httpx.Response) -> bool:
    """Return whether it may be what was asked for: no error, and no page or redirect that a proxy sends to browsers."""
    return response.is_success and not response.headers.get("Content-Type", "").startswith("text/html")


def problem_of(response: httpx.Response) -> ApiProblemError:
    """Return what is wrong with an answer, which was read, as it says or, where it is not symadj's, as it looks."""
    told = response.headers.get("Retry-After", "")
    retry_after = float(told) if told.isdecimal() else None
    if not response.is_error:
        place = response.headers.get("Location")
        found = f"a redirect to {place}" if place else f"a page: {response.text[:200]!r}"
        return _not_ours(response.status_code, f"{response.url} answers with {found}")
    try:
        body = response.json()
        errors = [(str(item["pointer"]), str(item["detail"])) for item in body.get("errors", [])]
        return ApiProblemError(response.status_code, body["title"], body["detail"], errors, retry_after)
    except (ValueError, KeyError, TypeError, AttributeError):
        # Not from us: a proxy in between, perhaps.
        return ApiProblemError(response.status_code, response.reason_phrase, response.text[:500], [], retry_after)


def read_by(read: Callable[[bytes], T], content: bytes) -> T:
    """Return what an answer is read as.

    Raises:
        ApiProblemError: it is not as symadj's are, or as those of this version.
    """
    try:
        return read(content)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(map(str, first["loc"]))
        found = f"{place}: {first['msg']}" if place else first["msg"]
        raise _not_ours(200, f"it begins with {content[:200].decode(errors='replace')!r} ({found})") from error


def _not_ours(status: int, found: str) -> ApiProblemError:
    advice = "the address may be another server's, a proxy may ask for a name, or the versions differ (`symadj doctor`)"
    return ApiProblemError(status, "This is not an answer of symadj", f"{found}: {advice}", [])
