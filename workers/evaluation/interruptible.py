"""Work that can't stop by itself, in a run that must stop all the same."""

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
    """Return ``work()``, but give up waiting for it where the run must stop.

    ``work`` runs in a thread of its own and can't be stopped: given up, it goes on until it is done or the process
    ends, which it then does soon. So it must change nothing that others see.

    Raises:
        Exception: what ``outbox.raise_if_stopped`` raises where the run must stop, or what ``work`` raised.
    """
    result: Future[T] = Future()

    def run() -> None:
        try:
            result.set_result(work())
        except BaseException as error:
            result.set_exception(error)

    # A daemon: a process waits for other threads before it ends, and for those of an executor, too.
    threading.Thread(target=run, name="symadj-evaluation", daemon=True).start()
    while not wait([result], _LOOK_EVERY_S).done:
        outbox.raise_if_stopped()
    return result.result()
