"""What a run stores is loaded back by `symadj_core.load`, and scores as the run's own test did."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import symadj_core
from symadj.service.contract.spec import JobSpec
from symadj.service.contract.spec.evaluation import Evaluation
from symadj.workers.data import DataRoots, load_table
from symadj_core.trained.build import MOST_ADAPTIVE_STEPS, MOST_FIXED_STEPS, USUAL_EVALUATION
from tests.workers.runs import SMALL, run

EVALUATION = {
    "validate_every_steps": None,
    "mixture_components": 0,
    "inverse_rows": 0,
    "two_sample_rows": 0,
    "plots": False,
}
RUNS: dict[str, dict[str, Any]] = {
    "a toy": {},
    "a fixed solver": {"solver": {"kind": "fixed", "method": "rk4", "steps": 3}},
    "an average of the weights": {"ema": {}},
    "columns compressed and standardised": {
        "data": SMALL["data"]
        | {"transforms": [{"kind": "arcsinh", "scale": 0.3, "columns": ["y"]}, {"kind": "standardise"}]}
    },
    "an estimated divergence": {"evaluation": EVALUATION | {"divergence": {"kind": "hutchinson", "probes": 2}}},
    "dequantised images": {
        "data": {"kind": "builtin", "name": "digits", "batch_size": 64},
        "flow": {"kind": "multiscale", "levels": 2, "blocks": 1, "hidden_channels": [4]},
        "solver": {"kind": "fixed", "method": "heun2", "steps": 1},
        "evaluation": EVALUATION | {"test_rows": 20, "tolerance_factor": 1, "divergence": {"kind": "hutchinson"}},
    },
}


@pytest.mark.parametrize("name", RUNS)
def test_the_mean_over_the_test_rows_is_the_jobs_figure(tmp_path: Path, name: str) -> None:
    changes = {"stop": {"kind": "steps", "max_steps": 3}, "evaluation": EVALUATION} | RUNS[name]
    outcome, _ = run(tmp_path, **changes)
    out = tmp_path / "job-1" / "artifacts" / "1"
    flow = symadj_core.load(out)
    data = JobSpec.model_validate(SMALL | changes).data
    raw = load_table(data, DataRoots(())).rows  # type: ignore[arg-type]
    numbers = np.load(out / "test_rows.npy")
    rows = raw[numbers].reshape(-1, *flow.event_shape)
    scores = flow.log_prob(rows, index=torch.from_numpy(numbers))
    assert not scores.requires_grad
    assert float(-scores.mean()) == pytest.approx(outcome.result.test_nll_original_units, abs=1e-5)
    drawn = flow.sample((3,))
    assert drawn.shape == (3, *flow.event_shape)
    assert bool(flow.support.check(drawn).all())


def test_a_conditional_flow_takes_its_context_in_the_units_of_the_data(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "data").mkdir()
    monkeypatch.setenv("SYMADJ_DATA_ROOTS", str(tmp_path / "data"))
    random = np.random.default_rng(0)
    age = random.uniform(20, 80, 300)
    income = 500 * age + random.normal(0, 4000, 300)
    np.savetxt(
        tmp_path / "data" / "people.csv", np.stack([age, income], 1), delimiter=",", header="age,income", comments=""
    )
    data = {"kind": "file", "path": str(tmp_path / "data" / "people.csv"), "batch_size": 32}
    outcome, _ = run(
        tmp_path / "store",
        data=data | {"columns": ["income"], "context_columns": ["age"]},
        stop={"kind": "steps", "max_steps": 3},
        evaluation=EVALUATION,
    )
    out = tmp_path / "store" / "job-1" / "artifacts" / "1"
    flow = symadj_core.load(out)
    numbers = np.load(out / "test_rows.npy")
    frame = {"age": age[numbers], "income": income[numbers]}
    assert float(-flow.log_prob(frame).mean()) == pytest.approx(outcome.result.test_nll_original_units, abs=1e-5)
    given = flow.log_prob(frame["income"][:, None], context=frame["age"][:, None])
    assert torch.equal(given, flow.log_prob(frame))


def test_what_a_folder_leaves_open_is_as_the_spec_has_it() -> None:
    usual = Evaluation().model_dump(mode="json")
    assert {name: usual[name] for name in USUAL_EVALUATION} == USUAL_EVALUATION
    bounds = JobSpec.model_json_schema()["$defs"]
    assert bounds["AdaptiveSolver"]["properties"]["max_steps"]["maximum"] == MOST_ADAPTIVE_STEPS
    assert bounds["FixedSolver"]["properties"]["steps"]["maximum"] == MOST_FIXED_STEPS
