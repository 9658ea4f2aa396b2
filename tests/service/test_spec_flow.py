"""The model's part of the spec."""

from __future__ import annotations

from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from symadj.service.contract.spec import JobSpec
from symadj.service.contract.spec.flow import ActivationName, CnfFlow, Divergence, MlpField, TimeMode
from symadj.service.contract.spec.section import kinds_of


def any_of(union: Any) -> st.SearchStrategy[dict[str, Any]]:
    """Any kind of a union of sections, with its defaults."""
    return st.sampled_from([{"kind": kind} for kind in kinds_of(union)])


perceptrons = st.fixed_dictionaries(
    {"kind": st.just("mlp")},
    optional={
        "hidden": st.lists(st.integers(1, 512), min_size=1, max_size=4),
        "time": st.sampled_from(get_args(get_args(TimeMode)[0])),
        "activation": st.sampled_from(get_args(ActivationName)),
        "zero_init": st.booleans(),
    },
)
residuals = st.fixed_dictionaries({"kind": st.just("residual")}, optional={"width": st.integers(1, 512)})
potentials = st.fixed_dictionaries({"kind": st.just("potential")}, optional={"rank": st.integers(1, 20)})
plugins = st.fixed_dictionaries({"kind": st.just("plugin"), "name": st.just("equivariant")})
flows = st.fixed_dictionaries(
    {"kind": st.just("cnf")},
    optional={
        "blocks": st.integers(1, 8),
        "field": st.one_of(perceptrons, residuals, potentials, plugins),
        "end_time": st.floats(0.1, 10),
        "learn_end_time": st.booleans(),
        "divergence": any_of(Divergence),
        "field_dtype": st.sampled_from([None, "bfloat16"]),
    },
)


def spec(flow: dict[str, Any]) -> JobSpec:
    return JobSpec.model_validate({"data": {"kind": "builtin", "name": "flow_cytometry"}, "flow": flow})


@given(flows)
def test_a_stored_model_reads_back_as_the_same_model(flow: dict[str, Any]) -> None:
    read = spec(flow)
    assert JobSpec.model_validate(read.stored()) == read


def test_a_field_without_a_kind_is_a_perceptron() -> None:
    flow = spec({"kind": "cnf", "field": {"hidden": [8]}}).flow
    assert isinstance(flow, CnfFlow)
    assert flow.field == MlpField(hidden=(8,))


@pytest.mark.parametrize(
    ("change", "place", "words"),
    [
        ({"hidden": [64]}, ("hidden",), "Extra inputs"),
        ({"field": {"kind": "mlp", "hidden": [64, 0]}}, ("field", "mlp", "hidden", 1), "greater than or equal to 1"),
        ({"field": {"kind": "mlp", "time": "film"}}, ("field", "mlp", "time"), "'concat', 'concatsquash' or 'fourier'"),
        ({"field": {"kind": "potential", "depth": 1}}, ("field", "potential", "depth"), "greater than or equal to 2"),
        ({"field": {"kind": "potential", "time": "concat"}}, ("field", "potential", "time"), "Extra inputs"),
        ({"divergence": {"kind": "hutchpp", "probes": 4}}, ("divergence", "hutchpp", "probes"), "multiple of 3"),
        ({"field_dtype": "float16"}, ("field_dtype",), "fall below the one"),
        ({"dtype": "float16"}, ("dtype",), "take bfloat16"),
        ({"dtype": "bfloat16"}, ("dtype",), "'float32' or 'float64'"),
        ({"dtype": "float64", "field_dtype": "bfloat16"}, (), "needs dtype float32, not float64"),
    ],
)
def test_a_wrong_field_of_the_model_is_named_with_what_is_allowed(
    change: dict[str, Any], place: tuple[Any, ...], words: str
) -> None:
    with pytest.raises(ValidationError) as caught:
        spec({"kind": "cnf", **change})
    (error,) = caught.value.errors()
    assert error["loc"] == ("flow", *place) or error["loc"] == ("flow", "cnf", *place)
    assert words in error["msg"]
