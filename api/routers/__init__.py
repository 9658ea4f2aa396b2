"""Endpoints, a module a resource: its ``router``, and what it answers where no other module needs that.

Every module of this folder is served under ``/api/v1``, by itself, to callers with an API key. What an endpoint says
of itself, beside its parameters and its answer:

- ``responses=describe(404, ...)``: the problems that it may answer with beyond those of every endpoint (401, 405, 421,
  422, 503). :data:`~symadj.api.dependencies.JobId` may answer 404, :data:`~symadj.api.dependencies.Owner` 403,
  :func:`~symadj.api.dependencies.require_json` 415, :func:`~symadj.api.bodies.json_body` 400 and 413.
- :data:`~symadj.api.dependencies.JobId` for the id of a job: it checks that the caller may see the job.
- :data:`~symadj.api.dependencies.Owner` for whatever changes something: it refuses a viewer's key.
"""

from __future__ import annotations

import importlib
import pkgutil

from fastapi import APIRouter

__all__ = ["resources"]

# Their callers have no API key: runs, which have tokens of their own, monitoring, and a browser that loads a page.
_WITHOUT_API_KEY = {"documentation", "health", "ingest", "page"}
# What is asked for most comes first: the route of a request is looked for in one after another.
_FOLLOWED = ("metrics", "stream", "series", "logs", "jobs", "memory")


def resources() -> list[APIRouter]:
    """Return the routers of all modules whose callers need an API key."""
    names = {module.name for module in pkgutil.iter_modules(__path__)} - _WITHOUT_API_KEY
    in_order = (*_FOLLOWED, *sorted(names.difference(_FOLLOWED)))
    return [importlib.import_module(f"{__name__}.{name}").router for name in in_order]
