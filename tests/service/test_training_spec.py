"""The parts of the spec that say how weights are moved, and what they must agree on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from symadj.service.contract.spec import JobSpec
from symadj.service.contract.spec.usual import OF_TRAINING, USUAL_TRAINING

MINIMAL = {"data": {"kind": "toy", "name": "moons"}}
ADAM: dict[str, Any] = {"kind": "adam"}
VALIDATES_NOTHING = {"validate_every_steps": None}


# Trained by the defaults of the sections: it says so of one of them.
PLAIN = MINIMAL | {"pretraining": None}


def test_a_spec_that_says_nothing_about_training_has_the_usual_one_written_out() -> None:
    spec = JobSpec.model_validate(MINIMAL)
    assert spec == JobSpec.model_validate(MINIMAL | USUAL_TRAINING)
    assert spec != JobSpec.model_validate(PLAIN)
    assert spec.stored()["pretraining"]["kind"] == "flow_matching"


@pytest.mark.parametrize("rows", [2, 120, 499, 500, 999, 5000, 10**7])
@pytest.mark.parametrize("batch", [2, 100, 500])
def test_the_usual_training_sees_no_row_often_enough_to_learn_it_by_heart(rows: int, batch: int) -> None:
    asked = JobSpec.model_validate({"data": {"kind": "file", "path": "rows.csv", "batch_size": batch}})
    taken = asked.for_rows(rows).stored()
    steps, most = taken["pretraining"]["steps"], taken["pretraining"]["max_epochs"]
    assert steps == 1 or steps * batch <= most * rows
    assert steps == 5000 or most * rows < (steps + 1) * batch
    assert taken["stop"]["max_steps"] == steps + 50, "the likelihood keeps its steps"


@pytest.mark.parametrize(
    ("rows", "batch", "every"), [(142, 142, 140), (1437, 500, 402), (8000, 500, 1000), (2, 100, 2)]
)
def test_the_usual_training_of_few_rows_is_validated_more_often(rows: int, batch: int, every: int) -> None:
    asked = JobSpec.model_validate({"data": {"kind": "file", "path": "rows.csv", "batch_size": batch}})
    evaluation = asked.for_rows(rows).evaluation
    assert evaluation is not None
    assert evaluation.validate_every_steps == every


@pytest.mark.parametrize("evaluation", [None, {"validate_every_steps": None}])
def test_the_usual_training_goes_by_no_validation_where_the_spec_asks_for_none(
    evaluation: dict[str, Any] | None,
) -> None:
    spec = JobSpec.model_validate(MINIMAL | {"evaluation": evaluation})
    assert spec.early_stop is None
    assert spec.pretraining is not None


def test_a_spec_of_its_own_takes_the_steps_that_it_names_however_few_the_rows() -> None:
    spec = JobSpec.model_validate(MINIMAL | {"pretraining": {"steps": 1000}})
    assert spec.for_rows(50) is spec


@pytest.mark.parametrize("section", OF_TRAINING)
def test_a_spec_that_says_something_about_training_has_the_defaults_of_the_sections(section: str) -> None:
    plain = JobSpec.model_validate(PLAIN)
    assert JobSpec.model_validate(MINIMAL | {section: plain.stored()[section]}) == plain


@pytest.mark.parametrize("section", sorted(USUAL_TRAINING.keys() - set(OF_TRAINING)))
def test_a_section_of_the_spec_stays_as_given_beside_the_usual_training(section: str) -> None:
    given = JobSpec.model_validate(PLAIN).stored()[section]
    usual = JobSpec.model_validate(MINIMAL).stored()
    assert JobSpec.model_validate(MINIMAL | {section: given}).stored() == usual | {section: given}


def test_a_spec_that_was_stored_without_a_section_of_training_does_not_get_the_usual_one() -> None:
    plain = JobSpec.model_validate(PLAIN)
    older = {name: section for name, section in plain.stored().items() if name not in OF_TRAINING}
    assert JobSpec.of_stored(older) == plain


def test_what_is_left_out_has_its_default() -> None:
    stored = JobSpec.model_validate(PLAIN).stored()
    assert stored["regularisers"] == []
    assert stored["pretraining"] is stored["ema"] is stored["early_stop"] is None
    short = {
        "pretraining": {"steps": 5},
        "ema": {},
        "early_stop": {},
        "regularisers": [{"kind": "kinetic", "weight": 1}],
    }
    stored = JobSpec.model_validate(MINIMAL | short).stored()
    assert stored["pretraining"] == {
        "kind": "flow_matching",
        "steps": 5,
        "max_epochs": None,
        "optimal_transport": True,
        "context_ratio": None,
        "learning_rate": None,
        "schedule": {"kind": "constant", "warmup_steps": 0},
    }
    assert stored["ema"] == {"decay": 0.999}
    assert stored["early_stop"] == {"patience": 30, "min_improvement": 0.0, "count_pretraining": False}
    assert stored["regularisers"] == [{"kind": "kinetic", "weight": 1.0, "schedule": {"kind": "constant"}}]


factors = st.floats(0, 10)
schedules = st.one_of(
    st.fixed_dictionaries({"kind": st.just("constant"), "warmup_steps": st.integers(0, 400)}),
    st.fixed_dictionaries({"kind": st.just("cosine"), "final_fraction": st.floats(0, 1)}),
    st.fixed_dictionaries({"kind": st.just("plateau"), "patience": st.integers(1, 9), "factor": st.floats(0.1, 0.9)}),
)
weights = st.one_of(
    st.just({"kind": "constant"}),
    st.builds(
        lambda first, length, start, end: {
            "kind": "linear",
            "from_step": first,
            "to_step": first + length,
            "start": start,
            "end": end,
        },
        st.integers(0, 1000),
        st.integers(1, 1000),
        factors,
        factors,
    ),
)
regularisers = st.lists(st.sampled_from(["kinetic", "jacobian_frobenius", "transport"]), unique=True).flatmap(
    lambda kinds: st.tuples(
        *(
            st.fixed_dictionaries({"kind": st.just(kind), "weight": st.floats(1e-6, 1e3), "schedule": weights})
            for kind in kinds
        )
    ).map(list)
)
specs = st.fixed_dictionaries(
    {},
    optional={
        "regularisers": regularisers,
        "pretraining": st.fixed_dictionaries(
            {"steps": st.integers(1, 1500)},
            optional={"optimal_transport": st.booleans(), "schedule": st.just({"kind": "cosine"})},
        ),
        "optimizer": st.fixed_dictionaries({"kind": st.sampled_from(["adam", "adamw", "sgd"]), "schedule": schedules}),
        "ema": st.fixed_dictionaries({"decay": st.floats(0.01, 0.9999)}),
        "early_stop": st.fixed_dictionaries({"patience": st.integers(1, 50)}),
        "evaluation": st.fixed_dictionaries(
            {},
            optional={
                "test_rows": st.integers(2, 100),
                "divergence": st.sampled_from([{"kind": "exact"}, {"kind": "hutchinson", "probes": 4}]),
            },
        ),
    },
)


@given(specs)
def test_a_stored_spec_reads_back_as_the_same_spec(document: dict[str, Any]) -> None:
    spec = JobSpec.model_validate(MINIMAL | document)
    assert JobSpec.model_validate(spec.stored()) == spec
    assert JobSpec.model_validate_json(spec.model_dump_json()) == spec


@pytest.mark.parametrize(
    ("change", "pointer", "words"),
    [
        ({"pretraining": {"steps": 2000}}, "/pretraining/steps", "not below stop.max_steps 2000, which counts both"),
        (
            {"pretraining": {"steps": 5, "schedule": {"warmup_steps": 5}}},
            "/pretraining/schedule/warmup_steps",
            "not below pretraining.steps 5",
        ),
        (
            {"pretraining": {"steps": 5, "optimal_transport": False, "context_ratio": 0.1}},
            "/pretraining/context_ratio",
            "leave it out, or take optimal_transport true",
        ),
        (
            {"pretraining": {"steps": 1500}, "optimizer": ADAM | {"schedule": {"warmup_steps": 500}}},
            "/optimizer/schedule/warmup_steps",
            "not below stop.max_steps 2000 less the 1500 of pretraining",
        ),
        (
            {"early_stop": {}, "evaluation": VALIDATES_NOTHING},
            "/early_stop",
            "set evaluation.validate_every_steps",
        ),
        ({"early_stop": {}, "evaluation": None}, "/early_stop", "set evaluation.validate_every_steps"),
        (
            {"optimizer": ADAM | {"schedule": {"kind": "plateau"}}, "evaluation": VALIDATES_NOTHING},
            "/optimizer/schedule/kind",
            "plateau goes by the validation NLL",
        ),
        (
            {"regularisers": [{"kind": "kinetic", "weight": 1}] * 2},
            "/regularisers/1/kind",
            "kinetic stands twice",
        ),
        (
            {"regularisers": [{"kind": "hjb", "weight": 1}]},
            "/regularisers/0/kind",
            "flow.field.kind mlp has none: take potential",
        ),
        (
            {
                "regularisers": [{"kind": "jacobian_frobenius", "weight": 1}],
                "flow": {"kind": "cnf", "divergence": {"kind": "hutchpp"}},
            },
            "/regularisers/0/kind",
            "take hutchinson or exact",
        ),
        (
            {
                "regularisers": [
                    {"kind": "kinetic", "weight": 1, "schedule": {"kind": "linear", "from_step": 9, "to_step": 9}}
                ]
            },
            "/regularisers/0/schedule/to_step",
            "to_step 9 is not after from_step 9",
        ),
    ],
)
def test_parts_that_do_not_fit_together_are_refused_at_their_place(
    change: dict[str, Any], pointer: str, words: str
) -> None:
    with pytest.raises(ValidationError) as caught:
        JobSpec.model_validate(MINIMAL | change)
    (error,) = caught.value.errors()
    assert error["ctx"]["pointer"] == pointer
    assert words in error["msg"]


def test_the_usual_training_on_its_page_is_that_of_the_spec() -> None:
    page = Path(__file__).parents[2].joinpath("docs", "training.md").read_text().partition("## The usual training")[2]
    written = page.partition("```yaml")[2].partition("```")[0]
    assert yaml.safe_load(written) == USUAL_TRAINING
