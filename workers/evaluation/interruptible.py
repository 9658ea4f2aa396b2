"""Work that can't be stopped, in a run that must stop when it is asked to."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future, wait
from typing import TypeVar

from symadj.workers.delivery.outbox import Outbox

__all__ = ["interruptible"]

T = TypeVar("T")

_LOOK_EVERY_S = 0.1


def interruptible(outbox: Outbox, work: Callable[[], T]) -> T:
    """Return ``work()``, but stop waiting for it when the run must stop.

    ``work`` runs in a thread of its own, which can't be stopped: it continues until it is done or the process ends,
    which is soon after. So it must not change anything that other parts see.

    Raises:
        Exception: that of ``outbox.raise_if_stopped`` when the run must stop, or of ``work``.
    """
    result: Future[T] = Future()

    def run() -> None:
        try:
            result.set_result(work())
        except BaseException as error:
            result.set_exception(error)

    # A daemon thread: a process waits for all others before it ends, including those of an executor.
    threading.Thread(target=run, name="symadj-evaluation", daemon=True).start()
    while not wait([result], _LOOK_EVERY_S).done:
        outbox.raise_if_stopped()
    return result.result()
