"""What the API knows of Ray's nodes: asked seldom, whoever wants to know it."""

from __future__ import annotations

import contextlib
import threading
import time

from symadj.service.ray_jobs import NodeInUse, RayJobs, RayRefusedError, RayUnreachableError
from symadj.service.settings import Settings

__all__ = ["ClusterView"]

# For Ray to say what nodes there are: an answer without them is better than none.
_RAY_SECONDS = 3.0
# For which what it said, or that it said nothing, is taken for what is.
_FRESH_SECONDS = 5.0


class ClusterView:
    """The nodes as Ray said them last.

    Args:
        settings: which name Ray's address.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._asking = threading.Lock()
        self._asked: float | None = None
        self._nodes: list[NodeInUse] | None = None

    def nodes(self) -> list[NodeInUse] | None:
        """Return the living nodes of now or of some seconds ago; None where Ray does not answer.

        While one thread asks, the others take what was said before: a Ray that is slow to answer holds up no more.
        """
        if self._asking.acquire(blocking=self._asked is None):
            try:
                if self._asked is None or time.monotonic() - self._asked > _FRESH_SECONDS:
                    self._nodes = self._ask()
                    self._asked = time.monotonic()
            finally:
                self._asking.release()
        return self._nodes

    def _ask(self) -> list[NodeInUse] | None:
        token = self._settings.ray_token.get_secret_value() if self._settings.ray_token else None
        with contextlib.closing(RayJobs(self._settings.ray_address, token, timeout=_RAY_SECONDS)) as ray:
            try:
                return ray.nodes_in_use()
            except (RayUnreachableError, RayRefusedError):
                return None
