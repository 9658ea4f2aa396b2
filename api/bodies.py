"""Bodies of requests, of bounded size, read once all else about the request is right."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from anyio import CapacityLimiter
from anyio.to_thread import run_sync
from fastapi import Depends, HTTPException, Request
from fastapi.dependencies.models import Dependant
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ValidationError
from starlette.requests import ClientDisconnect

from symadj.api.problems import MOST_ERRORS
from symadj.api.repeated_keys import repeated_keys
from symadj.api.unreadable import place_and_reason
from symadj.api.wrong_fields import in_our_words
from symadj.service.contract.flow_question import MediaType
from symadj.service.errors import ContentTooLargeError, UnsupportedMediaTypeError

__all__ = [
    "BYTES",
    "Body",
    "InvalidBodyError",
    "Table",
    "Upload",
    "body_of",
    "bytes_body",
    "checked",
    "file_body",
    "json_body",
    "table_body",
]

Model = TypeVar("Model", bound=BaseModel)

# A file whose name says what it is.
BYTES = "application/octet-stream"

# That check the bodies of one endpoint.
THREADS = 4

# The attribute of a dependency by which the body that it reads is known.
_BODY = "__symadj_body__"

# JSON is the first.
_TABLES = tuple(map(str, MediaType))


@dataclass(frozen=True)
class Body:
    """What an endpoint reads: JSON as ``model`` (None: no JSON), or content of one of the media types ``beside`` it."""

    model: type[BaseModel] | None
    beside: tuple[str, ...] = ()
    required: bool = True


@dataclass(frozen=True)
class Table:
    """A table as it was sent. JSON is right as far as its model says; other content was not looked at."""

    media_type: MediaType
    content: bytes


class Upload:
    """A file that is the body of a request, not read yet.

    Attributes:
        media_type: of the file, as the request says.

    Args:
        request: whose body it is.
        media_type: as above.
    """

    def __init__(self, request: Request, media_type: str) -> None:
        self.media_type = media_type
        self._request = request

    async def pieces(self, most_bytes: int) -> AsyncIterator[bytes]:
        """Yield the file as it comes.

        Raises:
            ContentTooLargeError: it has more than ``most_bytes``.
            HTTPException: the connection ended before the body did (400).
        """
        async for piece in _pieces(self._request, most_bytes):
            yield piece


class InvalidBodyError(RequestValidationError):
    """The body is not what is asked for; ``count`` things are wrong, of which ``errors()`` has some."""

    def __init__(self, errors: list[Any], *, body: Any = None, count: int | None = None) -> None:
        super().__init__(errors, body=body)
        self.count = len(errors) if count is None else count


def json_body(
    model: type[Model],
    *,
    after: Callable[..., Any],
    most_bytes: int,
    most_values: int,
    unique_keys: bool = True,
    beside: tuple[str, ...] = (),
) -> Any:
    """Return the dependency that reads the body of a request as ``model``.

    FastAPI would read all of it before it asks who sends it, whatever its size, and would check it on the event loop.

    Args:
        model: what the body is.
        after: a dependency that refuses what must be refused before the body is read.
        most_bytes: of the body; more are refused, and not read (413).
        most_values: in the body: items of lists and of objects, at any depth. To check each takes time, and more of
            it to say what is wrong.
        unique_keys: whether a key that stands twice in an object is refused.
        beside: other media types that ``after`` lets through, of JSON too.
    """

    # Each endpoint has its own: the runs' batches wait for no thread that others use.
    threads = CapacityLimiter(THREADS)

    def parse(text: bytes) -> Model:
        return _validated(model, text, most_values, unique_keys=unique_keys)

    async def read(request: Request, _refused: Any = Depends(after)) -> Model:
        text = await _bounded(request, most_bytes)
        if not text:
            raise _missing()
        return await run_sync(parse, text, limiter=threads)

    setattr(read, _BODY, Body(model, beside))
    return Depends(read)


def table_body(
    model: type[BaseModel], *, after: Callable[..., Any], most_bytes: int, most_values: int, required: bool = True
) -> Any:
    """Return the dependency that reads the body of a request as a :class:`Table`, None where there is no body.

    Args:
        model: what the body is, if it is JSON.
        after, most_bytes, most_values: as in :func:`json_body`; ``most_values`` of JSON alone.
        required: whether there must be a body.
    """
    threads = CapacityLimiter(THREADS)

    def parse(text: bytes) -> bytes:
        return _validated(model, text, most_values, unique_keys=True).model_dump_json().encode()

    async def read(request: Request, _refused: Any = Depends(after)) -> Table | None:
        given = request.headers.get("content-type", "")
        media_type = given.partition(";")[0].strip().lower()
        unknown = UnsupportedMediaTypeError(
            f"Content-Type is {given or 'missing'}: send a table as {', '.join(MediaType)}, and say which it is"
        )
        if media_type not in _TABLES and (given or required):
            raise unknown
        content = await _bounded(request, most_bytes)
        if not content:
            if required:
                raise _missing()
            return None
        if not given:
            raise unknown
        if media_type == MediaType.JSON:
            content = await run_sync(parse, content, limiter=threads)
        return Table(MediaType(media_type), content)

    setattr(read, _BODY, Body(model, _TABLES[1:], required))
    return Depends(read)


def file_body(model: type[BaseModel], *, after: Callable[..., Any], most_bytes: int, most_values: int) -> Any:
    """Return the dependency that gives the body of a request as ``model``, if it is JSON, or as an :class:`Upload`.

    Args:
        model, after, most_bytes, most_values: as in :func:`json_body`; a file is not read here, and has no bound yet.
    """
    threads = CapacityLimiter(THREADS)

    def parse(text: bytes) -> BaseModel:
        return _validated(model, text, most_values, unique_keys=True)

    async def read(request: Request, _refused: Any = Depends(after)) -> BaseModel | Upload:
        given = request.headers.get("content-type", "")
        media_type = given.partition(";")[0].strip().lower()
        if media_type not in _TABLES:
            raise UnsupportedMediaTypeError(
                f"Content-Type is {given or 'missing'}: send JSON, or a file as {', '.join(_TABLES[1:])}, and say "
                "which it is"
            )
        if media_type != MediaType.JSON:
            return Upload(request, media_type)
        text = await _bounded(request, most_bytes)
        if not text:
            raise _missing()
        return await run_sync(parse, text, limiter=threads)

    setattr(read, _BODY, Body(model, _TABLES[1:]))
    return Depends(read)


def bytes_body(*, after: Callable[..., Any]) -> Any:
    """Return the dependency that gives the body of a request as an :class:`Upload`, whatever it holds.

    Args:
        after: as in :func:`json_body`.
    """

    async def read(request: Request, _refused: Any = Depends(after)) -> Upload:
        given = request.headers.get("content-type", "")
        if given.partition(";")[0].strip().lower() != BYTES:
            raise UnsupportedMediaTypeError(
                f"Content-Type is {given or 'missing'}: send the file as it is, with the header `Content-Type: {BYTES}`"
            )
        return Upload(request, BYTES)

    setattr(read, _BODY, Body(None, (BYTES,)))
    return Depends(read)


def body_of(dependant: Dependant | None) -> Body | None:
    """Return what an endpoint reads as its body, None if it reads none."""
    if dependant is None:
        return None
    body: Body | None = getattr(dependant.call, _BODY, None)
    for inner in dependant.dependencies:
        body = body or body_of(inner)
    return body


def _missing() -> InvalidBodyError:
    return InvalidBodyError([{"type": "missing", "loc": ("body",), "msg": "Field required"}])


def _validated(model: type[Model], text: bytes, most_values: int, *, unique_keys: bool) -> Model:
    # Each item of a list or of an object but the first stands behind a comma, and each of these begins with a bracket.
    if not unique_keys and text.count(b",") + text.count(b"[") + text.count(b"{") <= most_values:
        try:
            return model.model_validate_json(text)
        except ValidationError:
            pass  # what is wrong is told of the document, and what pydantic's reader alone does not take is read here
    document = _parsed(text, unique_keys=unique_keys)
    _refuse_more_values(document, most_values)
    return checked(model, document)


def checked(model: type[Model], document: Any) -> Model:
    """Return JSON values as ``model``.

    Raises:
        InvalidBodyError: they are not what it asks for.
    """
    try:
        return model.model_validate(document)
    except ValidationError as error:
        wrong = error.errors(include_url=False)[:MOST_ERRORS]
        located = [dict(item) | {"loc": ("body", *item["loc"]), "msg": in_our_words(item, model)} for item in wrong]
        raise InvalidBodyError(located, body=document, count=error.error_count()) from error


async def _bounded(request: Request, most_bytes: int) -> bytes:
    body = bytearray()
    async for piece in _pieces(request, most_bytes):
        body += piece
    return bytes(body)


async def _pieces(request: Request, most_bytes: int) -> AsyncIterator[bytes]:
    declared = request.headers.get("content-length", "")
    if declared.isdecimal() and int(declared) > most_bytes:
        raise _too_large(f"{declared} bytes", most_bytes)
    received = 0
    try:
        async for piece in request.stream():
            received += len(piece)
            if received > most_bytes:
                raise _too_large(f"more than {most_bytes} bytes", most_bytes)
            yield piece
    except ClientDisconnect:
        raise HTTPException(400, "the connection ended before the body did") from None


def _too_large(given: str, most_bytes: int) -> ContentTooLargeError:
    return ContentTooLargeError(f"the body has {given}: this request takes {most_bytes} at most", max_bytes=most_bytes)


def _parsed(text: bytes, *, unique_keys: bool) -> Any:
    try:
        document = json.loads(text)
        repeated = repeated_keys(text) if unique_keys else {}
    except UnicodeDecodeError as error:
        raise HTTPException(400, f"the body is not text in UTF-8: {error.reason} at byte {error.start}") from error
    except json.JSONDecodeError as error:
        wrong = {"type": "json_invalid", "loc": ("body", error.pos), "msg": error.msg, "ctx": {"error": error.msg}}
        raise InvalidBodyError([wrong]) from error
    except (RecursionError, ValueError) as error:
        pointer, reason = place_and_reason(text) or ("", str(error))
        raise InvalidBodyError([_at(pointer, reason)]) from error
    if repeated:
        wrong_keys = list(repeated.items())[:MOST_ERRORS]
        told = "the key stands {} times in its object: keep one of them"
        raise InvalidBodyError(
            [_at(pointer, told.format(count)) for pointer, count in wrong_keys], body=document, count=len(repeated)
        )
    return document


def _at(pointer: str, message: str) -> dict[str, Any]:
    return {"type": "unfit_body", "loc": ("body",), "msg": message, "ctx": {"pointer": pointer}}


# What JSON is read into: to look at its numbers and texts too would take half as long again.
_CONTAINERS = frozenset({dict, list})


def _refuse_more_values(document: Any, most: int) -> None:
    waiting = [document] if type(document) in _CONTAINERS else []
    count = 0
    while waiting:
        value = waiting.pop()
        count += len(value)
        if count > most:
            raise InvalidBodyError([_at("", f"lists and objects have more than {most} items in all")])
        inner = value.values() if type(value) is dict else value
        waiting += [item for item in inner if type(item) in _CONTAINERS]
