"""What a job in an answer can do by itself: the methods of its client, for this job."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Coroutine
from functools import wraps
from typing import Any, Concatenate, Generic, ParamSpec, Self, TypeVar, overload

from symadj.api.client import display
from symadj.api.schemas.jobs import JobSummary

__all__ = ["Handle", "of_job"]

P = ParamSpec("P")
R = TypeVar("R")


class of_job(Generic[P, R]):  # noqa: N801 - it makes methods
    """A method of a client whose first argument is a job's id, as a method of the job.

    An answer that is this job brings it up to date.
    """

    def __init__(self, method: Callable[Concatenate[Any, str, P], R]) -> None:
        self._method = method

    @overload
    def __get__(self, job: None, owner: Any) -> Self: ...
    @overload
    def __get__(self, job: Handle, owner: Any) -> Callable[P, R]: ...
    def __get__(self, job: Any, owner: Any) -> Any:
        """Return the method of a job."""
        if job is None:
            return self

        @wraps(self._method)
        def call(*arguments: P.args, **named: P.kwargs) -> Any:
            answer = self._method(job._client, job.id, *arguments, **named)
            return _awaited(job, answer) if inspect.iscoroutine(answer) else _up_to_date(job, answer)

        # Without the client and the id, which the caller does not give.
        signature = inspect.signature(self._method)
        left = list(signature.parameters.values())[2:]
        call.__signature__ = signature.replace(parameters=left)  # type: ignore[attr-defined]
        return call


async def _awaited(job: Handle, answer: Coroutine[Any, Any, Any]) -> Any:
    return _up_to_date(job, await answer)


def _up_to_date(job: Handle, answer: Any) -> Any:
    if type(answer) is not type(job) or answer.id != job.id:
        return answer
    # What was found of a spec is told once, when it is submitted.
    job.__dict__.update({name: value for name, value in answer.__dict__.items() if name != "findings"})
    return job


class Handle(JobSummary):
    """A job that knows the client that read it."""

    _client: Any = None

    def model_post_init(self, context: Any) -> None:
        """Remember the client, which reads answers with itself as the context."""
        self._client = context

    def __repr__(self) -> str:
        return display.job_line(self)

    __str__ = __repr__

    def _repr_html_(self) -> str:
        return display.job_html(self)
