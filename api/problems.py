"""Every error of the API as application/problem+json (RFC 9457)."""

from __future__ import annotations

import http
import json
import logging
from collections.abc import Mapping
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from fastapi.routing import iter_route_contexts
from pydantic import BaseModel, Field
from sqlalchemy.exc import OperationalError
from sqlalchemy.exc import TimeoutError as NoConnectionError
from starlette.exceptions import HTTPException
from starlette.routing import compile_path

from symadj.api.security_headers import SECURITY_HEADERS
from symadj.service.contract.records import PROBLEM_MEDIA_TYPE
from symadj.service.contract.storage import StorageError
from symadj.service.errors import SymadjError

__all__ = ["MOST_ERRORS", "FieldError", "Problem", "answer", "describe", "field_error", "install"]

log = logging.getLogger("symadj.api")

# Of one answer: a body may have a hundred thousand.
MOST_ERRORS = 50


class FieldError(BaseModel):
    """One thing that is wrong with a request."""

    location: str = Field(description="body, query, path or header.")
    pointer: str = Field(description="In the body a JSON pointer (RFC 6901); elsewhere the parameter's name.")
    detail: str = Field(description="What is wrong there, and what is allowed.")


class Problem(BaseModel):
    """An error, in the form of RFC 9457."""

    type: str = Field(description="urn:symadj:problem: and a short code.")
    title: str = Field(description="What is wrong, in a few words.")
    status: int = Field(description="HTTP status of the answer.")
    detail: str = Field(description="What is wrong with this request, and what to do.")
    instance: str = Field(description="The path of the request.")
    errors: list[FieldError] = Field(default_factory=list, description=f"The first {MOST_ERRORS}.")
    error_count: int = Field(0, description="How many there are in all.")


class _ProblemResponse(JSONResponse):
    """A problem, whatever the request that it speaks of: JSON may have halves of characters, which UTF-8 has not."""

    media_type = PROBLEM_MEDIA_TYPE

    def render(self, content: Any) -> bytes:
        return json.dumps(content, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace")


def _response(
    request: Request,
    status: int,
    code: str,
    title: str,
    detail: str,
    *,
    errors: list[FieldError] | None = None,
    error_count: int | None = None,
    extensions: dict[str, Any] | None = None,
    headers: dict[str, str] | None = None,
) -> JSONResponse:
    problem = Problem(
        type=f"urn:symadj:problem:{code}",
        title=title,
        status=status,
        detail=detail,
        instance=request.url.path,
        errors=errors or [],
        error_count=len(errors or []) if error_count is None else error_count,
    )
    return _ProblemResponse({**(extensions or {}), **problem.model_dump()}, status, headers=headers)


def _pointer(location: tuple[int | str, ...], body: Any) -> str:
    """Return the JSON pointer of a pydantic location.

    Pydantic names the chosen member of a union within the location (``solver.adaptive.rtol``); the document
    has no such level, so what the document does not contain there is left out.
    """
    parts = []
    place = body
    for index, part in enumerate(location):
        last = index == len(location) - 1
        if isinstance(place, dict) and part not in place and not last:
            continue
        parts.append(str(part).replace("~", "~0").replace("/", "~1"))
        if isinstance(place, dict):
            place = place.get(str(part))
        elif isinstance(place, list) and isinstance(part, int) and part < len(place):
            place = place[part]
        else:
            place = None
    return "".join(f"/{part}" for part in parts)


def field_error(error: Mapping[str, Any], body: Any) -> FieldError:
    """Return one of pydantic's errors about ``body`` as people read it."""
    where, *location = error["loc"]
    detail = str(error["msg"])
    if error["type"] == "json_invalid":
        return FieldError(
            location="body", pointer="", detail=f"not JSON: {error['ctx']['error']} at character {location[0]}"
        )
    if "pointer" in error.get("ctx", {}):
        return FieldError(location=str(where), pointer=error["ctx"]["pointer"], detail=detail)
    pointer = _pointer(tuple(location), body) if where == "body" else ".".join(map(str, location))
    given = error.get("input")
    if where == "query" and isinstance(given, str) and "," in given and len(location) > 1:
        name, pointer = location[0], str(location[0])
        values = "&".join(f"{name}={value}" for value in given[:200].split(","))
        detail += f": each value is given by itself, {values}"
    if isinstance(given, str | int | float | bool) and error["type"] != "missing":
        detail += f" (given: {str(given)[:200]!r})"
    return FieldError(location=str(where), pointer=pointer, detail=detail)


def answer(request: Request, error: SymadjError) -> JSONResponse:
    """Return the answer to a request that ``error`` refuses."""
    extensions = dict(error.extensions)
    pointer = extensions.pop("pointer", None)
    where = "body" if pointer is not None and pointer.startswith("/") else "query"
    errors = [FieldError(location=where, pointer=pointer, detail=str(error))] if pointer is not None else None
    headers = {"WWW-Authenticate": "Bearer"} if error.status == 401 else {}
    if error.retry_after is not None:
        headers["Retry-After"] = str(error.retry_after)
    return _response(
        request,
        error.status,
        error.code,
        error.title,
        str(error),
        errors=errors,
        extensions=extensions,
        headers=headers,
    )


async def _on_symadj_error(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, SymadjError)
    return answer(request, error)


async def _on_validation_error(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    found = error.errors()
    count = getattr(error, "count", len(found))
    errors = [field_error(item, error.body) for item in found[:MOST_ERRORS]]
    detail = "; ".join(f"{item.pointer or item.location}: {item.detail}" for item in errors[:3])
    if count > 3:
        detail += f"; and {count - 3} more"
    return _response(request, 422, "validation", "The request is not valid", detail, errors=errors, error_count=count)


async def _on_http_exception(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    title = http.HTTPStatus(error.status_code).phrase
    detail = str(error.detail)
    if error.status_code == 404 and detail == title:
        detail = f"there is nothing at {request.url.path}; /docs and /openapi.json show what there is"
    headers = dict(error.headers) if error.headers else None
    if error.status_code == 405:
        allowed = ", ".join(_methods_of(request))
        detail = f"{request.url.path} does not take {request.method}; it takes {allowed}"
        headers = {"Allow": allowed}
    code = title.lower().replace(" ", "-")
    return _response(request, error.status_code, code, title, detail, headers=headers)


def _methods_of(request: Request) -> list[str]:
    """Return the methods of all routes with the request's path, each of which takes some."""
    found = {"HEAD"}
    for route in iter_route_contexts(request.app.routes):
        if compile_path(str(route.path))[0].match(request.url.path):
            found |= route.methods or set()
    return sorted(found if "GET" in found else found - {"HEAD"})


async def _on_store_trouble(request: Request, error: Exception) -> JSONResponse:
    log.exception("the store does not answer", exc_info=error)
    return _response(
        request,
        503,
        "store-unavailable",
        "The store does not answer",
        "The database is busy or unreachable; nothing was changed. Repeat the request.",
        headers={"Retry-After": "2"},
    )


async def _on_no_connection(request: Request, error: Exception) -> JSONResponse:
    log.warning("%s %s: %s", request.method, request.url.path, error)
    return _response(
        request,
        503,
        "busy",
        "Too much of this at once",
        "Other requests use all connections to the database; nothing was changed. Repeat the request after the seconds "
        "that Retry-After says.",
        headers={"Retry-After": "2"},
    )


async def _on_storage_trouble(request: Request, error: Exception) -> JSONResponse:
    log.error("%s %s: %s", request.method, request.url.path, error)
    return _response(
        request,
        503,
        "storage-unavailable",
        "The storage does not answer",
        "The bucket of the jobs' files can't be reached or used; nothing was changed. Repeat the request.",
        headers={"Retry-After": "2"},
    )


async def _on_any_exception(request: Request, error: Exception) -> JSONResponse:
    log.exception("%s %s failed", request.method, request.url.path, exc_info=error)
    detail = "A fault of ours: the server's log has the details."
    # It is answered outside of all middleware, and then uvicorn closes the connection: the client must know.
    headers = {**SECURITY_HEADERS, "Connection": "close"}
    return _response(request, 500, "internal", "Internal error", detail, headers=headers)


def install(app: FastAPI) -> None:
    """Make every error of ``app`` a problem."""
    app.add_exception_handler(SymadjError, _on_symadj_error)
    app.add_exception_handler(RequestValidationError, _on_validation_error)
    app.add_exception_handler(HTTPException, _on_http_exception)
    app.add_exception_handler(OperationalError, _on_store_trouble)
    app.add_exception_handler(NoConnectionError, _on_no_connection)
    app.add_exception_handler(StorageError, _on_storage_trouble)
    app.add_exception_handler(Exception, _on_any_exception)


def describe(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Return OpenAPI responses for the problems that an operation may answer with."""
    content = {PROBLEM_MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}}
    return {status: {"description": http.HTTPStatus(status).phrase, "content": content} for status in statuses}
