"""What the ranks that died have printed last: brought to the API, and quoted in the failure.

A rank sends what it prints by itself, some moments later. What it prints as it dies is in a file of Ray's on its node,
where another process must look for it.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from symadj.service.contract.order import RunOrder
from symadj.service.contract.output import Mask, left_behind
from symadj.service.contract.records import LogRecord
from symadj.service.contract.states import ReasonCode
from symadj.workers.delivery.outbox import TelemetryError
from symadj.workers.delivery.sender import open_sender, spool_folder
from symadj.workers.outcome import Failure

__all__ = ["LastWords", "quote", "take_last_words"]

log = logging.getLogger(__name__)

# For the API to take what is left, and for processes on other nodes to start, look and answer.
_FLUSH_S = 5.0
_ANSWER_S = 30.0
_QUOTED_LINES = 15
_LINES_BEFORE, _LINES_OF_A_STACK = 8, 8
_LIST_OF_MODULES = "Extension modules:"
_LONGEST_QUOTE = 4000
# As Python's faulthandler and Ray's own handler tell of a signal.
_SIGNALS = {
    "Aborted": "SIGABRT",
    "Segmentation fault": "SIGSEGV",
    "Bus error": "SIGBUS",
    "Illegal instruction": "SIGILL",
    "Floating-point exception": "SIGFPE",
}
_FATAL = re.compile(rf"Fatal Python error: ({'|'.join(_SIGNALS)})|\*\*\* (SIG[A-Z]+) received")


@dataclass(frozen=True)
class LastWords:
    """The last lines of a rank that died.

    Attributes:
        signal: by which it died, as far as it could say so: SIGKILL leaves no trace.
    """

    rank: int
    lines: tuple[str, ...]
    signal: str | None


def take_last_words(order: RunOrder, token: str) -> list[LastWords]:
    """Deliver what the ranks that died have left on any node, and return the end of it, by rank.

    The worker group must be gone. A node that is gone, too, has nothing to say.
    """
    found = _look(order.model_dump_json(), token)
    own = ray.get_runtime_context().get_node_id()
    look = ray.remote(num_cpus=0, max_retries=0)(_look)
    asked = [
        look.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)).remote(
            order.model_dump_json(), token
        )
        for node in ray.nodes()
        if node["Alive"] and node["NodeID"] != own
    ]
    ready, _ = ray.wait(asked, num_returns=len(asked), timeout=_ANSWER_S) if asked else ([], [])
    for answer in ready:
        try:
            found += ray.get(answer)
        except ray.exceptions.RayError:  # the node is gone
            continue
    return sorted(found, key=lambda words: words.rank)


def _look(order_json: str, token: str) -> list[LastWords]:
    """Deliver and return what ranks have left on this node."""
    order = RunOrder.of_json(order_json)
    mask = Mask.of_environment(os.environ, token)
    found = []
    for note in sorted(spool_folder(order).glob("rank-*.outputs")):
        source = note.stem
        with left_behind(note.with_suffix(".jsonl"), mask) as (rest, last):
            if not last:
                continue
            sender = open_sender(order, token, source)
            try:
                for record in rest:
                    sender.put(record)
                sender.flush(_FLUSH_S)
            except (TelemetryError, OSError) as error:
                log.warning("the last lines of %s were not delivered: %s", source, error)
            finally:
                sender.close()
        found.append(_words(int(source.removeprefix("rank-")), last))
    return found


def _words(rank: int, printed: Sequence[LogRecord]) -> LastWords:
    """Choose what to quote: of stderr, where there is something, since libraries complain there."""
    by_stream: dict[str, list[str]] = {}
    for record in printed:
        by_stream.setdefault(record.stream, []).extend(line for line in record.lines if line.strip())
    lines = by_stream.get("stderr") or next(iter(by_stream.values()), [])
    told = [number for number, line in enumerate(lines) if _FATAL.search(line)]
    if not told:
        return LastWords(rank, tuple(lines[-_QUOTED_LINES:]), None)
    # What led to it and where it was: Ray tells of the frames of C, Python then of its own. Other threads come before
    # the one that crashed, and a list of modules last.
    first, last = told[0], told[-1]
    chosen = {*range(max(0, first - _LINES_BEFORE), first + _LINES_OF_A_STACK), last}
    current = next((number for number in range(last, len(lines)) if lines[number].startswith("Current thread")), None)
    if current is not None:
        chosen |= set(range(current, current + _LINES_OF_A_STACK))
    quoted = [line for number, line in enumerate(lines) if number in chosen and not line.startswith(_LIST_OF_MODULES)]
    match = _FATAL.search(lines[last])
    assert match is not None
    return LastWords(rank, tuple(quoted), match[2] or _SIGNALS[match[1]])


def quote(failure: Failure, dead: Iterable[int], words: Sequence[LastWords]) -> Failure:
    """Return ``failure`` with the rank that died, how, and what it printed last.

    Args:
        failure: of an attempt that lost a worker.
        dead: the ranks that Ray says have died; none: whoever has left something.
        words: of the ranks that have.
    """
    said = {one.rank: one for one in words}
    ranks = sorted(dead) or sorted(said)
    if failure.reason not in (ReasonCode.WORKER_LOST, ReasonCode.OUT_OF_MEMORY) or not ranks:
        return failure
    rank = next((rank for rank in ranks if rank in said and said[rank].signal), ranks[0])
    one = said.get(rank, LastWords(rank, (), None))
    how = one.signal or "without a trace, as by SIGKILL"
    message = f"{failure.message}: rank {rank} ({how})"
    if one.lines:
        last = "\n".join(one.lines)[-_LONGEST_QUOTE:]
        message = f"{message}.\nIt printed last:\n{last}"
    data = failure.data | {"rank": rank, "ranks_lost": ranks, "signal": one.signal}
    return replace(failure, message=message, data=data)
