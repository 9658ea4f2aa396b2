"""The plan of a run, and what becomes of one whose workers take more than they were given."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from symadj.service.contract.plan import PLANNED_STEPS, Plan
from symadj.service.contract.spec import JobSpec
from symadj.service.contract.spec.section import kinds_of
from symadj.service.contract.spec.solver import Keep, NamedGradient
from symadj.workers.model.build import build_flow
from symadj.workers.planning import make_plan
from symadj.workers.training.state import TrainingState
from tests.workers.runs import SMALL, run

BUDGET = {"kind": "cpu", "memory_budget": "2GiB"}

pytestmark = pytest.mark.planned


# Two stages a step: it takes the least time to rehearse.
QUICK = SMALL | {"solver": {"kind": "adaptive", "method": "adaptive_heun"}}


def planned(*, all_gradients: bool = True, **changes: Any) -> Plan:
    spec = JobSpec.model_validate(QUICK | changes)
    return make_plan(spec, build_flow(spec, 2), all_gradients=all_gradients)


def test_a_plan_has_every_gradient_with_everything_that_it_may_keep() -> None:
    plan = planned(resources=BUDGET, gradient={"kind": "symplectic", "keep": {"kind": "binomial", "states": 3}})
    found = [(item.gradient["kind"], item.gradient.get("keep", {}).get("kind")) for item in plan.gradients]
    assert {kind for kind, _ in found} == kinds_of(NamedGradient).keys()
    assert {keep for kind, keep in found if kind == "symplectic"} == kinds_of(Keep).keys()
    assert plan.chosen.gradient["keep"] == {"kind": "binomial", "states": 3}
    for item in plan.gradients:
        assert [peak.steps for peak in item.peaks] == list(PLANNED_STEPS)
        assert [peak.worker_bytes for peak in item.peaks] == [plan.worker_bytes(item, n) for n in PLANNED_STEPS]
        assert [item.step_bytes(peak.steps) for peak in item.peaks] == [peak.step_bytes for peak in item.peaks]
        assert all(peak.fits_budget for peak in item.peaks)


def test_a_plan_is_of_the_phase_that_holds_the_most_and_names_it() -> None:
    of_training = {"optimizer": {"kind": "adam"}, "stop": {"kind": "steps", "max_steps": 9}, "evaluation": None}
    wide = {"flow": {"kind": "cnf", "blocks": 3, "field": {"hidden": [64] * 3}}}
    matching = {"pretraining": {"kind": "flow_matching", "steps": 5}}
    validating = {"evaluation": {"validate_every_steps": 2, "validation_rows": 2000, "test": False}}
    testing = {"evaluation": {"validate_every_steps": None}}
    for phase, words, changes in (
        ("pretraining", "the pass backward through block 0", wide | matching),
        ("validation", "a validation, of 2000 rows at once", validating),
        ("evaluation", "the evaluation, of 5000 rows at once", testing),
    ):
        plan = planned(all_gradients=False, **of_training | changes)
        assert [item.phase for item in plan.phases] == [phase]
        least = plan.chosen.peaks[0]
        assert least.limited_by == words
        held = max([least.step_bytes, *(item.peak_bytes for item in plan.phases)])
        assert least.worker_bytes == plan.resting_bytes + held


def test_with_fixed_steps_a_plan_is_of_their_number() -> None:
    plan = planned(solver={"kind": "fixed", "method": "heun2", "steps": 7})
    assert all([peak.steps for peak in item.peaks] == [7] for item in plan.gradients)


@pytest.mark.parametrize("optimizer", ["adam", "adamw", "sgd"])
def test_what_the_optimiser_is_said_to_take_is_what_it_takes(optimizer: str) -> None:
    spec = JobSpec.model_validate(QUICK | {"optimizer": {"kind": optimizer}})
    flow = build_flow(spec, 2)
    state = TrainingState(spec, flow)
    flow.log_prob(torch.zeros(3, 2)).sum().backward()
    state.optimizer.step()
    kept = [x for values in state.optimizer.state.values() for x in values.values() if x is not None and x.dim()]
    assert make_plan(spec, flow, all_gradients=False).optimizer_bytes == sum(x.nbytes for x in kept)


def test_the_largest_batch_fits_and_a_larger_one_does_not() -> None:
    changes = {"solver": {"kind": "fixed", "method": "heun2", "steps": 20}, "gradient": {"kind": "backprop"}}
    plan = planned(all_gradients=False, resources=BUDGET, **changes)
    assert plan.largest_batch is not None
    largest = plan.largest_batch[20]

    def fits(rows: int) -> bool | None:
        data = SMALL["data"] | {"rows": 10_000_000, "batch_size": rows}
        peak: bool | None = (
            planned(all_gradients=False, resources=BUDGET, data=data, **changes).chosen.peaks[0].fits_budget
        )
        return peak

    assert fits(int(largest * 0.99))
    assert not fits(int(largest * 1.01))


def test_the_largest_batch_is_found_from_one_too_small_for_an_accelerators_blocks() -> None:
    """Blocks of 512 bytes hold one row of this flow as well as two."""
    flow = {"kind": "cnf", "blocks": 1, "field": {"kind": "mlp", "hidden": [2]}}
    tiny = {"data": SMALL["data"] | {"batch_size": 1}, "flow": flow, "pretraining": {"steps": 1}}
    spec = JobSpec.model_validate(SMALL | tiny | {"resources": {"kind": "gpu", "workers": 1}, "evaluation": None})
    plan = make_plan(spec, build_flow(spec, 2), available_bytes=2**30, all_gradients=False)
    assert plan.largest_batch is not None
    assert all(10_000 < rows < 10_000_000 for rows in plan.largest_batch.values())


def test_a_run_says_what_it_will_take_before_its_first_step(tmp_path: Path) -> None:
    _, outbox = run(tmp_path, evaluation=None)
    kinds = [record.kind for record in outbox.records]
    assert kinds.index("plan") < kinds.index("step")
    (record,) = outbox.of("plan")
    assert [item.chosen for item in record.plan.gradients] == [True]


def test_a_run_whose_plan_exceeds_the_budget_fails_before_its_first_step_if_the_spec_asks_for_it(
    tmp_path: Path,
) -> None:
    resources = {"memory_budget": "2MiB", "over_budget": "fail"}
    outcome, outbox = run(tmp_path, resources=resources, evaluation=None)
    assert (outcome.state, outcome.reason) == ("failed", "out_of_memory")
    assert "resources.memory_budget is 2 MiB" in outcome.message
    assert outcome.data["planned_bytes"] > outcome.data["memory_budget_bytes"] == 2 * 2**20
    assert outbox.of("step") == []


def test_without_that_it_is_told_with_the_numbers_and_trains(tmp_path: Path) -> None:
    outcome, outbox = run(tmp_path, resources={"memory_budget": "2MiB"}, evaluation=None)
    assert outcome.state == "succeeded"
    (event,) = [event for event in outbox.of("event") if event.name == "memory_budget_too_small"]
    assert event.data["planned_bytes"] > event.data["memory_budget_bytes"] == 2 * 2**20
