"""What is said of a field that is wrong: what it may be."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from symadj.service.contract.spec.section import kinds_of
from symadj.service.contract.spec.solver import Solver
from symadj.service.contract.spec.training import AdamOptimizer
from symadj.service.contract.states import JobState
from tests.api.test_jobs import assert_problem
from tests.conftest import TOY


@pytest.mark.parametrize(
    ("changes", "pointer", "told"),
    [
        ({"optimizer": {"rate": 1}}, "/optimizer/rate", ", ".join(AdamOptimizer.model_fields)),
        ({"optimizer": {"lr": 1}}, "/optimizer/lr", "did you mean 'learning_rate'"),
        ({"data": TOY["data"] | {"batchsize": 3}}, "/data/batchsize", "did you mean 'batch_size'"),
        ({"pretrainin": {}}, "/pretrainin", "did you mean 'pretraining'"),
        ({"regularisers": [{"kind": "kinetic", "wieght": 1}]}, "/regularisers/0/wieght", "did you mean 'weight'"),
        ({"evaluation": {"divergence": {"kind": "exact", "x": 1}}}, "/evaluation/divergence/x", "which has kind"),
        ({"ema": {"decai": 1}}, "/ema/decai", "did you mean 'decay'"),
        ({"gradient": "adjoint"}, "/gradient", "write {kind: adjoint}"),
        ({"gradient": []}, "/gradient", "[] is given where fields with values are expected"),
        ({"ema": 0.9}, "/ema", "0.9 is given where fields with values are expected"),
        ({"solver": {"kind": "dopri5"}}, "/solver", ", ".join(map(repr, kinds_of(Solver)))),
        ({"labels": {"run": 1}}, "/labels/run", "put it in quotes"),
        ({"name": 123}, "/name", "--set 'FIELD=\"123\"'"),
    ],
    ids=str,
)
def test_a_wrong_field_is_told_with_what_it_may_be(
    api: httpx.Client, changes: dict[str, Any], pointer: str, told: str
) -> None:
    problem = assert_problem(api.post("/api/v1/jobs", json=TOY | changes), 422)
    assert told in {error["pointer"]: error["detail"] for error in problem["errors"]}[pointer]


def test_several_values_in_one_are_told_how_they_are_given(api: httpx.Client) -> None:
    states = [JobState.QUEUED, JobState.RUNNING]
    (error,) = assert_problem(api.get("/api/v1/jobs", params={"state": ",".join(states)}), 422)["errors"]
    assert error["pointer"] == "state"
    assert "state=queued&state=running" in error["detail"]
    assert api.get("/api/v1/jobs", params={"state": states}).status_code == 200
