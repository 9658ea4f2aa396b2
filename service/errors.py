"""Errors that are part of the interface; the API turns each into problem+json."""

from __future__ import annotations

from typing import Any

__all__ = [
    "BusyError",
    "ConflictError",
    "ContentTooLargeError",
    "DataOutOfReachError",
    "FlowMemoryError",
    "FlowProcessError",
    "FlowTimeoutError",
    "ForbiddenError",
    "ForeignOriginError",
    "IdempotencyMismatchError",
    "InvalidParameterError",
    "InvalidRowsError",
    "InvalidSpecError",
    "MisdirectedError",
    "NoRoomError",
    "NotAcceptableError",
    "NotFoundError",
    "RangeNotSatisfiableError",
    "SpecWouldFailError",
    "StorageFullError",
    "SymadjError",
    "TooManyRequestsError",
    "TooManyRowsError",
    "UnauthorizedError",
    "UnsupportedMediaTypeError",
]


class SymadjError(Exception):
    """Base: an HTTP status, a short code (the problem's type), a title, and the detail in ``str(error)``.

    ``retry_after`` is the number of seconds after which the same request may succeed, if time alone can mend it.
    """

    status = 500
    retry_after: int | None = None
    code = "internal"
    title = "Internal error"

    def __init__(self, detail: str, **extensions: Any) -> None:
        super().__init__(detail)
        self.extensions = extensions


class NotFoundError(SymadjError):
    """What was asked for does not exist."""

    status = 404
    code = "not-found"
    title = "Not found"


class ConflictError(SymadjError):
    """The thing exists but is not in a state that allows the request."""

    status = 409
    code = "conflict"
    title = "Conflict with the current state"


class ContentTooLargeError(SymadjError):
    """The body has more bytes than the request takes; the extension ``max_bytes`` is how many it takes."""

    status = 413
    code = "content-too-large"
    title = "Content too large"


class RangeNotSatisfiableError(SymadjError):
    """A part of a file is asked for that the file does not have."""

    status = 416
    code = "range-not-satisfiable"
    title = "Not a part of the file"


class InvalidParameterError(SymadjError):
    """A parameter has the right type but no meaning here."""

    status = 422
    code = "invalid-parameter"
    title = "Invalid parameter"


class InvalidSpecError(SymadjError):
    """A part of a job spec does not go with what is stored or installed; the extension ``pointer`` says which part."""

    status = 422
    code = "invalid-spec"
    title = "The job spec does not fit"


class SpecWouldFailError(SymadjError):
    """The job would fail if it started now; the extension ``findings`` says why."""

    status = 422
    code = "spec-would-fail"
    title = "The job would fail as things stand"


class TooManyRequestsError(SymadjError):
    """The owner has as much as the service grants one."""

    status = 429
    code = "too-many-requests"
    title = "Too many jobs of one owner"


class NoRoomError(SymadjError):
    """The files of the owner's jobs take as much of the disk as the service grants one."""

    status = 429
    code = "no-room"
    title = "The owner's share of the disk is used up"


class StorageFullError(SymadjError):
    """The disk of the files has no room for what is sent."""

    status = 507
    code = "storage-full"
    title = "The storage is full"


class BusyError(SymadjError):
    """The service does as much of this at once as it may."""

    status = 503
    code = "busy"
    title = "Too much of this at once"
    retry_after = 2


class IdempotencyMismatchError(SymadjError):
    """An Idempotency-Key was used before, with another body."""

    status = 422
    code = "idempotency-key-reused"
    title = "Idempotency-Key used with another body"


class UnsupportedMediaTypeError(SymadjError):
    """The body is not in a format that is understood."""

    status = 415
    code = "unsupported-media-type"
    title = "Unsupported media type"


class NotAcceptableError(SymadjError):
    """None of the formats that the client takes (Accept) is one in which this can be answered."""

    status = 406
    code = "not-acceptable"
    title = "Not in this format"


class InvalidRowsError(SymadjError):
    """What was sent does not fit the flow."""

    status = 422
    code = "invalid-rows"
    title = "The rows do not fit the flow"


class TooManyRowsError(SymadjError):
    """What is asked of a flow is more than one request may take."""

    status = 413
    code = "too-many-rows"
    title = "Too many rows"


class FlowTimeoutError(SymadjError):
    """A computation with a flow took longer than one may; it was ended."""

    status = 504
    code = "flow-timeout"
    title = "It took too long"


class FlowMemoryError(SymadjError):
    """A computation with a flow took more memory than one may; it was ended."""

    status = 503
    code = "flow-memory"
    title = "It takes too much memory"


class DataOutOfReachError(SymadjError):
    """Data that lie on the nodes of a cluster were to be read, and no node has done it."""

    status = 503
    code = "data-out-of-reach"
    title = "No node has read the data"
    retry_after = 2


class FlowProcessError(SymadjError):
    """The process that computes with flows died or did not start; nothing of the service was in it."""

    status = 503
    code = "flow-process"
    title = "The process that computes with flows died"
    retry_after = 2


class UnauthorizedError(SymadjError):
    """No key or token, or one that opens nothing here."""

    status = 401
    code = "unauthorized"
    title = "Unauthorized"


class ForbiddenError(SymadjError):
    """The key is known, and its role does not allow this."""

    status = 403
    code = "forbidden"
    title = "Not allowed"


class ForeignOriginError(SymadjError):
    """A web page of another origin tried to change something."""

    status = 403
    code = "foreign-origin"
    title = "A page of another origin"


class MisdirectedError(SymadjError):
    """The request names a host that this service is not."""

    status = 421
    code = "misdirected"
    title = "Not a name of this service"
