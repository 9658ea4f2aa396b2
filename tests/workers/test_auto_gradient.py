"""`gradient.kind: auto`: as many states as the budget has room for."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from symadj.service.contract.spec import JobSpec
from tests.workers.runs import KeepingOutbox, held_bytes, run

MIB = 2**20
DATA = {"kind": "toy", "name": "moons"}

# 80 steps of 4 stages: their states take 80 MiB, the steps' alone 20, the graph of one stage little.
LONG: dict[str, Any] = {
    "data": {"kind": "builtin", "name": "digits", "batch_size": 1000},
    "flow": {"kind": "cnf", "blocks": 2, "field": {"hidden": [4]}},
    "solver": {"kind": "fixed", "method": "rk4", "steps": 40},
    "stop": {"kind": "steps", "max_steps": 4},
    "evaluation": None,
}


def resources(room: int, **more: Any) -> dict[str, Any]:
    """Return resources whose budget is so many bytes more than this process holds."""
    return {"kind": "cpu", "memory_budget": f"{held_bytes() + room}B"} | more


def peaks(outbox: KeepingOutbox) -> list[int]:
    """Return the peak of each step above what the process held before it."""
    found: dict[int, int] = {}
    for record in outbox.of("memory"):
        found[record.step] = max(found.get(record.step, 0), record.host_peak_bytes - record.host_idle_bytes)
    return list(found.values())


def test_it_is_the_default_where_a_budget_is_given_and_no_gradient() -> None:
    budget = {"resources": {"memory_budget": "1GiB"}}
    assert JobSpec.model_validate({"data": DATA} | budget).gradient.kind == "auto"
    assert JobSpec.model_validate({"data": DATA} | budget | {"gradient": {"kind": "aca"}}).gradient.kind == "aca"
    assert JobSpec.model_validate({"data": DATA}).gradient.kind == "symplectic"


def test_a_spec_of_before_that_has_a_budget_keeps_its_gradient() -> None:
    stored = JobSpec.model_validate({"data": DATA}).stored()
    stored["resources"]["memory_budget"] = "1GiB"
    assert JobSpec.of_stored(stored).gradient.kind == "symplectic"


# With the heap that the processes of runs have: glibc's has holes, of a size that differs by process.
AS_A_RANK = """
import json, sys
from symadj.workers.warm.heap import restart_with_jemalloc
restart_with_jemalloc()
from tests.workers.test_auto_gradient import with_all_stages_and_within
print(json.dumps(with_all_stages_and_within(60 * 2**20, sys.argv[1])))
"""


def with_all_stages_and_within(room: int, storage: str) -> list[dict[str, Any]]:
    """Return what came of a run that keeps all stages, and of one whose budget is so many bytes above what is held."""
    _, free = run(storage, **LONG)
    if free.of("memory")[0].host_peak_bytes is None:
        return []
    limited = resources(room, over_budget="fail")
    outcome, kept = run(storage, **LONG, resources=limited)
    budget = int(limited["memory_budget"].removesuffix("B"))
    return [
        {
            "state": outcome.state,
            "loss": outbox.series("loss"),
            "uses": outbox.series("nfe_backward"),
            "peaks": peaks(outbox),
            "highest_of_budget": max(record.host_peak_bytes for record in outbox.of("memory")) - budget,
            "chosen": [event.data for event in outbox.of("event") if event.name == "gradient_kept_states_chosen"],
        }
        for outbox in (free, kept)
    ]


def test_a_budget_too_small_for_all_stages_is_kept_and_gives_the_same_bits(tmp_path: Path) -> None:
    environment = os.environ | {"RAY_LD_PRELOAD_ON_WORKERS": "1"}
    command = [sys.executable, "-c", AS_A_RANK, str(tmp_path)]
    both = json.loads(subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout)
    if not both:
        pytest.skip("this kernel gives no host peaks")
    free, kept = both
    room = 60 * MIB
    assert min(free["peaks"]) > 1.3 * room
    assert kept["state"] == "succeeded"
    assert kept["loss"] == free["loss"]
    # Once to see what a byte of states takes of the process's memory, and once knowing that.
    tried, taken = kept["chosen"]
    assert (tried["step"], taken["step"]) == (2, 3)
    assert 0 < tried["size_bytes"] < taken["size_bytes"] < room
    first, second, third, fourth = kept["peaks"]
    assert max(first, second) < third < fourth
    assert kept["highest_of_budget"] < 0
    # What has no room is computed again.
    assert kept["uses"][0] > kept["uses"][2] > kept["uses"][3] > free["uses"][3]


def test_the_same_budget_is_too_small_for_another_gradient(tmp_path: Path) -> None:
    outcome, _ = run(tmp_path, **LONG, gradient={"kind": "backprop"}, resources=resources(60 * MIB, over_budget="fail"))
    assert outcome is not None
    assert outcome.reason == "out_of_memory"


def test_where_all_has_room_nothing_is_computed_again(tmp_path: Path) -> None:
    _, free = run(tmp_path, stop={"kind": "steps", "max_steps": 4}, evaluation=None)
    _, kept = run(tmp_path, stop={"kind": "steps", "max_steps": 4}, evaluation=None, resources=resources(100 * MIB))
    assert kept.series("nfe_backward")[2:] == free.series("nfe_backward")[2:]
