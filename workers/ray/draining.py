"""Notices that a node of the run is about to go: it was sent SIGTERM, or a cloud takes it back.

Ray Train has a watcher for this, which is a process of its own for each run, and asks all ranks in a barrier.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import ray
from ray._private.worker import global_worker

from symadj.service.contract.states import StopReason
from symadj.workers.distributed.ranks import Ranks

__all__ = ["watch_nodes"]

log = logging.getLogger(__name__)

_LOOK_EVERY_S = 1.0
_ASK_TIMEOUT_S = 5.0


@contextmanager
def watch_nodes(driver_node: str, ranks: Ranks, stop: Callable[[StopReason], None]) -> Iterator[None]:
    """Call ``stop``, from another thread, when Ray drains a node of the run; all ranks must enter the block.

    Rank 0 alone looks: where it must stop, all do.
    """
    nodes = {*ranks.gather(ray.get_runtime_context().get_node_id()), driver_node}
    if ranks.rank != 0:
        yield
        return
    over = threading.Event()

    def look() -> None:
        while not over.wait(_LOOK_EVERY_S):
            try:
                draining = _draining_nodes() & nodes
            except Exception as error:  # Ray's head is away, perhaps: what follows from that others find out
                log.debug("which nodes are drained is not known now: %s", error)
                continue
            if draining:
                log.warning("Ray drains %s: the run stops", ", ".join(sorted(draining)))
                stop(StopReason.NODE_DRAINED)
                return

    # A daemon: a question that gets no answer must not hold up the end of the process.
    threading.Thread(target=look, name="symadj-draining", daemon=True).start()
    try:
        yield
    finally:
        over.set()


def _draining_nodes() -> set[str]:
    return set(global_worker.gcs_client.get_draining_nodes(timeout=_ASK_TIMEOUT_S))
