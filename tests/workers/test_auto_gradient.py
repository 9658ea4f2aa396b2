"""`gradient.kind: auto`: as many states as the budget has room for."""

from __future__ import annotations

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


def test_a_budget_too_small_for_all_stages_is_kept_and_gives_the_same_bits(tmp_path: Path) -> None:
    _, all_stages = run(tmp_path, **LONG)
    if all_stages.of("memory")[0].host_peak_bytes is None:
        pytest.skip("this kernel gives no host peaks")
    room = 60 * MIB
    assert min(peaks(all_stages)) > 1.3 * room
    limited = resources(room, over_budget="fail")
    outcome, kept = run(tmp_path, **LONG, resources=limited)
    assert outcome is not None
    assert outcome.state == "succeeded"
    assert kept.series("loss") == all_stages.series("loss")
    # More than once, if the process has come to hold more beside the states meanwhile.
    chosen = [event.data for event in kept.of("event") if event.name == "gradient_kept_states_chosen"]
    assert chosen[0]["step"] == 2
    assert all(0 < choice["size_bytes"] < room for choice in chosen)
    assert peaks(kept)[0] < peaks(kept)[3]
    # Not above what the process held before the step: that may be less than when the budget was made.
    assert max(record.host_peak_bytes for record in kept.of("memory")) < int(limited["memory_budget"].removesuffix("B"))
    # What has no room is computed again.
    uses = kept.series("nfe_backward")
    assert uses[0] > uses[3] > all_stages.series("nfe_backward")[3]


def test_the_same_budget_is_too_small_for_another_gradient(tmp_path: Path) -> None:
    outcome, _ = run(tmp_path, **LONG, gradient={"kind": "backprop"}, resources=resources(60 * MIB, over_budget="fail"))
    assert outcome is not None
    assert outcome.reason == "out_of_memory"


def test_where_all_has_room_nothing_is_computed_again(tmp_path: Path) -> None:
    _, free = run(tmp_path, stop={"kind": "steps", "max_steps": 4}, evaluation=None)
    _, kept = run(tmp_path, stop={"kind": "steps", "max_steps": 4}, evaluation=None, resources=resources(100 * MIB))
    assert kept.series("nfe_backward")[2:] == free.series("nfe_backward")[2:]
