"""Whether the kernel has killed a process of Ray's, on any node, because memory ran out.

A process that is killed so can't say why it died, Ray says only that it did, and a job that needs too much memory would
be tried again in vain. The kernel counts such kills for each control group (container).
"""

from __future__ import annotations

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from symadj.service.contract.sizes import readable
from symadj.service.contract.states import ReasonCode
from symadj.workers.control_group import ControlGroup
from symadj.workers.outcome import LESS_MEMORY, Failure

__all__ = ["NodeMemory"]

# For processes on other nodes to start, look and answer.
_ANSWER_S = 30.0

_Asked = dict[str, "ray.ObjectRef[ControlGroup]"]


class NodeMemory:
    """Compares the nodes' counts with those of when it was made."""

    def __init__(self) -> None:
        self._own = ray.get_runtime_context().get_node_id()
        self._before, self._asked_before = ControlGroup.read(), self._ask_others()

    def explain(self, failure: Failure, budget: int | None) -> Failure:
        """Return ``failure``, with figures where memory ran out, which it also did if the kernel killed for that.

        Args:
            budget: of a worker, bytes.
        """
        if failure.reason not in (ReasonCode.WORKER_LOST, ReasonCode.OUT_OF_MEMORY):
            return failure
        now = {self._own: ControlGroup.read()} | _answers(self._ask_others())
        group, message = self._killed(now), failure.message
        if failure.reason is ReasonCode.WORKER_LOST:
            if group is None:
                return failure
            limit = "all memory of its node" if group.limit is None else f"the {readable(group.limit)} of its container"
            message = f"the kernel killed a process of the run: memory ran out, {limit} was used up"
        if group is None:  # of several nodes, Ray's message names the one on which Ray itself ended a process
            group = next((g for node, g in now.items() if node in failure.message or not self._asked_before), None)
        has = "was not set" if budget is None else f"is {readable(budget)}"
        data = {
            "of": "host",
            "memory_limit_bytes": None if group is None else group.limit,
            "container_peak_bytes": None if group is None else group.peak,
            "memory_budget_bytes": budget,
            "advice": f"{LESS_MEMORY}; or give the container more memory",
        }
        message = f"{message}; resources.memory_budget {has}"
        return Failure(ReasonCode.OUT_OF_MEMORY, message, failure.data | data)

    def _killed(self, now: dict[str, ControlGroup]) -> ControlGroup | None:
        """Return the control group in which the kernel has killed since, None if it did in none."""
        before = {self._own: self._before} | _answers(self._asked_before)
        return next((group for node, group in now.items() if node in before and _more(before[node], group)), None)

    def _ask_others(self) -> _Asked:
        """Have a process on each other node look; none is waited for."""
        look = ray.remote(num_cpus=0, max_retries=0)(_look)
        nodes = [node["NodeID"] for node in ray.nodes() if node["Alive"] and node["NodeID"] != self._own]
        return {
            node: look.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=False)).remote()
            for node in nodes
        }


def _look() -> ControlGroup:
    return ControlGroup.read()


def _more(before: ControlGroup, now: ControlGroup) -> bool:
    return before.oom_kills is not None and now.oom_kills is not None and now.oom_kills > before.oom_kills


def _answers(asked: _Asked) -> dict[str, ControlGroup]:
    """Return what those say that answer."""
    if not asked:
        return {}
    ready, _ = ray.wait(list(asked.values()), num_returns=len(asked), timeout=_ANSWER_S)
    found = {}
    for node, answer in asked.items():
        if answer in ready:
            try:
                found[node] = ray.get(answer)
            except ray.exceptions.RayError:  # the node is gone
                continue
    return found
