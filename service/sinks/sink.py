"""What a sink is, and what every sink is told of a job."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import httpx

from symadj.service.store.metrics import MetricPoint
from symadj.service.store.tables import Job

__all__ = ["Point", "Sink", "SinkError", "content_of", "figures", "flattened"]

# A metric's name, and a value of it.
Point = tuple[str, MetricPoint]


class SinkError(Exception):
    """The sink can't be fed now, or does not take what it is fed."""


class Sink(Protocol):
    """A tracker of others. What it was given before it died may be given to it again."""

    def begin(self, job: Job, after_seq: int) -> None:
        """Take a job that begins, or goes on after this number of its metrics.

        Raises:
            SinkError, OSError: not now.
        """

    def take(self, job: Job, points: Sequence[Point]) -> None:
        """Take values of metrics, of a job that has begun.

        Raises:
            SinkError, OSError: not now.
        """

    def end(self, job: Job, files: Sequence[str]) -> None:
        """Take that a job has ended: how, its result, and the addresses of its files.

        Raises:
            SinkError, OSError: not now.
        """


def content_of(answer: httpx.Response) -> dict[str, Any]:
    """Return the JSON object that a tracker's server has answered with.

    Raises:
        SinkError: it refused, or answers with something else, as no such server does.
    """
    if not answer.is_success:
        raise SinkError(f"status {answer.status_code}: {answer.text[:500]}")
    try:
        content = answer.json()
    except ValueError:
        content = None
    if not isinstance(content, dict):
        raise SinkError(f"{answer.url} answers with no JSON object, so no such server is there: {answer.text[:200]}")
    return content


def flattened(values: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """Yield what JSON values hold, by dotted names: ``solver.rtol``."""
    if isinstance(values, dict) and values:
        for key, value in values.items():
            yield from flattened(value, f"{name}.{key}" if name else str(key))
    elif isinstance(values, list) and any(isinstance(item, dict | list) for item in values):
        for number, value in enumerate(values):
            yield from flattened(value, f"{name}.{number}")
    else:
        yield name, values


def figures(job: Job) -> Iterator[tuple[str, float]]:
    """Yield the numbers of a job's result, by dotted names."""
    for name, value in flattened(job.result or {}):
        if isinstance(value, int | float) and not isinstance(value, bool):
            yield name, float(value)
