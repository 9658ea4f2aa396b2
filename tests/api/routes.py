"""What the application serves, taken from it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path

from fastapi.dependencies.models import Dependant
from fastapi.routing import iter_route_contexts

from symadj.api.app import create_app
from symadj.api.bodies import body_of
from symadj.service.settings import Settings

__all__ = ["Endpoint", "endpoints"]


@dataclass(frozen=True)
class Endpoint:
    """A method of a path; ``dependant`` is None for the pages that FastAPI adds, ``has_body``: its request has JSON."""

    method: str
    path: str
    dependant: Dependant | None
    has_body: bool

    def __str__(self) -> str:
        return f"{self.method} {self.path}"

    def at(self, job_id: str, sweep_id: str = "none") -> str:
        """Return its address, for the things of a job that has the metric `loss` and the file `a`, or of a sweep."""
        name = "loss" if "/metrics/" in self.path else "a"
        others = {"key_id": "none", "comparison_id": "none", "webhook_id": "none", "upload_id": "none"}
        return self.path.format(job_id=job_id, sweep_id=sweep_id, name=name, **others)


def takes_json(dependant: Dependant | None) -> bool:
    """Return whether the body of a request may be JSON."""
    body = body_of(dependant)
    return body is not None and body.model is not None


@cache
def endpoints() -> tuple[Endpoint, ...]:
    """Return every endpoint of the application, which takes a second of a core to make."""
    found = []
    for route in iter_route_contexts(create_app(Settings(data=Path("not-made"))).routes):
        for method in sorted((route.methods or set()) - {"HEAD"}):
            dependant = getattr(route, "dependant", None)
            found.append(Endpoint(method, str(route.path), dependant, takes_json(dependant)))
    return tuple(found)
