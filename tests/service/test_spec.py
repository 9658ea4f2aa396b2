"""The job spec as a user meets it."""

from __future__ import annotations

from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from symadj.service.contract.spec import JobSpec
from symadj.service.contract.spec.data import BUILTIN_COLUMNS, BUILTIN_ROWS, ToyData
from symadj.service.contract.spec.section import kinds_of

MINIMAL = {"data": {"kind": "builtin", "name": "flow_cytometry"}}


def test_every_default_is_written_out_in_the_stored_spec() -> None:
    stored = JobSpec.model_validate(MINIMAL | {"stop": {}}).stored()
    assert stored["gradient"] == {"kind": "symplectic", "keep": {"kind": "stages"}}
    numbers = {"rtol": 1e-5, "atol": 1e-6, "max_steps": 1000}
    assert stored["solver"] == {"kind": "adaptive", "method": "dopri5", **numbers, "shared_steps": False}
    assert stored["optimizer"]["schedule"] == {"kind": "constant", "warmup_steps": 0}
    assert stored["data"]["transforms"] == [
        {"kind": "arcsinh", "scale": 150.0, "columns": None},
        {"kind": "standardise", "columns": None},
    ]


positive = st.floats(1e-8, 1)
labels = st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cs"]), max_size=20)
specs = st.fixed_dictionaries(
    {
        "data": st.sampled_from(
            [
                MINIMAL["data"],
                {"kind": "builtin", "name": "digits"},
                {"kind": "toy", "name": "moons", "rows": 5000},
                {"kind": "file", "path": "mine/rows.csv.gz", "columns": ["a", "b"], "context_columns": ["c"]},
                {"kind": "file", "path": "train-images-idx3-ubyte.gz", "test_path": "t10k-images-idx3-ubyte.gz"},
                {"kind": "maf", "name": "power", "path": "power"},
            ]
        ),
        "seed": st.integers(0, 2**32 - 1),
    },
    optional={
        "labels": st.dictionaries(st.from_regex(r"\A[a-z][a-z0-9/._-]{0,20}\Z"), labels, max_size=3),
        "solver": st.one_of(
            st.fixed_dictionaries({"kind": st.just("adaptive"), "rtol": positive, "atol": positive}),
            st.fixed_dictionaries({"kind": st.just("fixed"), "steps": st.integers(1, 1000)}),
        ),
        "gradient": st.sampled_from(
            [{"kind": kind} for kind in ("symplectic", "backprop", "onecheckpoint", "aca", "adjoint")]
        ),
        "resources": st.fixed_dictionaries(
            {"kind": st.sampled_from(["cpu", "gpu"]), "workers": st.sampled_from([1, 2, 4, 5])},
            optional={"memory_budget": st.sampled_from(["12GiB", "512MiB", "1.5GB", "1234567B"])},
        ),
        "evaluation": st.none(),
    },
)


@given(specs)
def test_a_stored_spec_reads_back_as_the_same_spec(document: dict[str, Any]) -> None:
    spec = JobSpec.model_validate(document)
    assert JobSpec.model_validate(spec.stored()) == spec
    assert JobSpec.model_validate_json(spec.model_dump_json()) == spec


@pytest.mark.parametrize(
    ("section", "kind"),
    [
        ({"resources": {"workers": 2}}, "cpu"),
        ({"solver": {"rtol": 1e-3}}, "adaptive"),
        ({"stop": {"max_steps": 5}}, "steps"),
        ({"optimizer": {"learning_rate": 1e-2}}, "adam"),
        ({"gradient": {"keep": {"kind": "steps"}}}, "symplectic"),
    ],
)
def test_a_section_without_a_kind_is_of_the_usual_one(section: dict[str, Any], kind: str) -> None:
    (name,) = section
    assert JobSpec.model_validate(MINIMAL | section).stored()[name]["kind"] == kind


@pytest.mark.parametrize("budget", [10**400, 2147483648, "2147483648", "9" * 400 + "B", "1.5", "-1GiB", True])
def test_a_memory_budget_without_unit_or_sense_is_refused(budget: object) -> None:
    with pytest.raises(ValidationError):
        JobSpec.model_validate(MINIMAL | {"resources": {"kind": "cpu", "memory_budget": budget}})


def test_a_memory_budget_keeps_its_unit() -> None:
    resources = {"kind": "cpu", "memory_budget": "12 GiB"}
    spec = JobSpec.model_validate(MINIMAL | {"resources": resources})
    assert spec.resources.memory_budget == 12 * 2**30
    assert spec.stored()["resources"]["memory_budget"] == "12GiB"


@pytest.mark.parametrize(
    ("change", "place", "words"),
    [
        ({"data": {"kind": "builtin", "name": "mnist"}}, ("data", "builtin", "name"), "flow_cytometry"),
        ({"gradient": {"kind": "magic"}}, ("gradient",), "'symplectic', 'backprop'"),
        ({"solver": {"kind": "adaptive", "rtol": 0}}, ("solver", "adaptive", "rtol"), "greater than 0"),
        ({"solver": {"kind": "adaptive", "rtol": float("nan")}}, ("solver", "adaptive", "rtol"), "finite"),
        ({"learning_rate": 1}, ("learning_rate",), "Extra inputs"),
        ({"seed": True}, ("seed",), "seed is true"),
        ({"data": {"kind": "toy", "name": True}}, ("data", "toy", "name"), "name is true"),
        ({"flow": {"field": {"hidden": [8, True]}}}, ("flow", "cnf", "field", "mlp", "hidden", 1), "1 is true"),
        (
            {"checkpoints": {"keep_best": 0}},
            ("checkpoints", "keep_best"),
            "write true or false",
        ),
        ({"evaluation": {"plots": "yes"}}, ("evaluation", "plots"), "plots is 'yes'"),
        ({"flow": {"field": {"zero_init": 1.0}}}, ("flow", "cnf", "field", "mlp", "zero_init"), "zero_init is 1.0"),
        ({"data": {"name": "moons"}}, ("data",), "data.kind is missing: one of 'builtin', 'toy'"),
        (
            {"data": {"kind": "toy", "name": "moons", "rows": 100, "batch_size": 500}},
            ("data", "toy"),
            "larger than the 80 training rows",
        ),
        (
            {"data": {"kind": "builtin", "name": "iris", "batch_size": 500}},
            ("data", "builtin"),
            "larger than the 120 training rows",
        ),
        ({"data": {"kind": "file", "path": "../a.csv"}}, ("data", "file", "path"), "no `..`"),
        ({"data": {"kind": "file", "path": "s3://bucket/a.csv"}}, ("data", "file", "path"), "can't be a URL"),
        ({"data": {"kind": "file", "path": "a.npy", "header": False}}, ("data", "file"), "a npy file has no such line"),
        (
            {"data": {"kind": "file", "path": "a.csv", "test_path": "a.csv"}},
            ("data", "file"),
            "tested on rows it has seen",
        ),
        ({"data": {"kind": "file", "path": "a.npy", "compensate": True}}, ("data", "file"), "has no spillover"),
        ({"data": {"kind": "file", "path": "a.npy", "data_set": 2}}, ("data", "file"), "a npy file has no data sets"),
        ({"data": {"kind": "file", "path": "a.txt"}}, ("data", "file"), "set data.format"),
        ({"data": {"kind": "file", "path": "a.csv", "key": "x"}}, ("data", "file"), "a csv file has none"),
        (
            {"data": {"kind": "file", "path": "a.csv", "test_fraction": None}},
            ("data", "file"),
            "give exactly one of the two",
        ),
        (
            {"data": {"kind": "file", "path": "a.csv", "columns": ["x", "y"], "context_columns": ["y"]}},
            ("data", "file"),
            "named more often: y",
        ),
        (
            {"data": {"kind": "toy", "name": "moons", "transforms": [{"kind": "logit"}, {"kind": "dequantise"}]}},
            ("data", "toy", "transforms"),
            "must be the first",
        ),
        (
            {"optimizer": {"kind": "adam", "schedule": {"kind": "constant", "warmup_steps": 2000}}},
            (),
            "not below stop.max_steps 2000",
        ),
        (
            {"data": MINIMAL["data"] | {"batch_size": 500}, "resources": {"kind": "cpu", "workers": 3}},
            (),
            "batch_size 500 is not a multiple of resources.workers 3",
        ),
        ({"data": {"kind": "builtin", "name": "iris"}, "resources": {"workers": 121}}, (), "the 120 training rows"),
        (
            {
                "optimizer": {"kind": "adam", "schedule": {"kind": "cosine"}},
                "stop": {"kind": "minutes", "max_minutes": 1},
            },
            (),
            "cosine needs stop.kind steps",
        ),
        (
            {"resources": {"kind": "cpu", "memory_budget": "12 parsecs"}},
            ("resources", "cpu", "memory_budget"),
            "parsecs",
        ),
    ],
)
def test_a_wrong_field_is_named_with_what_is_allowed(
    change: dict[str, Any], place: tuple[str, ...], words: str
) -> None:
    with pytest.raises(ValidationError) as caught:
        JobSpec.model_validate(MINIMAL | change)
    (error,) = caught.value.errors()
    assert error["loc"] == place
    assert words in error["msg"]


@pytest.mark.parametrize(
    "change",
    [
        {"data": {"kind": "file", "path": "a.csv", "columns": ["a\nb"]}},
        {"labels": {"note": "a\nb"}},
        {"evaluation": {"tolerance_factor": 1e-12, "test_rows": 10**400}},
        {"flow": {"end_time": 1e-9}},
        {"data": {"kind": "toy", "name": "moons"}, "evaluation": {"divergence": {"kind": "hutchpp"}}},
    ],
)
def test_what_was_accepted_before_stays_readable(change: dict[str, Any]) -> None:
    stored = JobSpec.model_validate(MINIMAL).stored() | change
    with pytest.raises(ValidationError):
        JobSpec.model_validate(stored)
    spec = JobSpec.of_stored(stored)
    assert JobSpec.of_stored(spec.stored()) == spec


KNOWN_SETS = [
    *({"kind": "toy", "name": name} for name in get_args(ToyData.model_fields["name"].annotation)),
    *({"kind": "builtin", "name": name, "batch_size": 1} for name in BUILTIN_COLUMNS),
]


@pytest.mark.parametrize("section", ["flow", "evaluation"])
@pytest.mark.parametrize("data", KNOWN_SETS, ids=lambda data: data["name"])
def test_hutchpp_takes_fewer_probes_than_there_are_columns(data: dict[str, Any], section: str) -> None:
    columns = JobSpec.model_validate({"data": data}).data.dim
    assert columns is not None
    for probes in (3, columns // 3 * 3 + 3):
        document = {"data": data, section: {"divergence": {"kind": "hutchpp", "probes": probes}}}
        if probes < columns:
            JobSpec.model_validate(document)
            continue
        with pytest.raises(ValidationError, match=f"fewer than the {columns} columns") as caught:
            JobSpec.model_validate(document)
        (error,) = caught.value.errors()
        assert error["ctx"]["pointer"] == f"/{section}/divergence/{'probes' if columns > 3 else 'kind'}"


def test_a_multiscale_flow_takes_fewer_probes_than_its_smallest_part_has_values() -> None:
    flow = {"kind": "multiscale", "levels": 3, "divergence": {"kind": "hutchpp", "probes": 15}}
    document = {"data": {"kind": "builtin", "name": "digits"}, "flow": flow}
    assert JobSpec.model_validate(document).flow.fewest_moved(64) == 16
    with pytest.raises(ValidationError, match="fewer than the 16 columns that a block moves"):
        JobSpec.model_validate(document | {"flow": flow | {"divergence": {"kind": "hutchpp", "probes": 18}}})


def test_every_number_of_the_evaluation_has_bounds() -> None:
    for name, field in JobSpec.model_json_schema()["$defs"]["Evaluation"]["properties"].items():
        for kind in field.get("anyOf", [field]):
            if kind.get("type") in {"integer", "number"}:
                assert {"minimum", "maximum"} <= kind.keys(), name


@pytest.mark.parametrize("data", KNOWN_SETS, ids=lambda data: data["name"])
def test_every_set_can_be_trained_on_by_default(data: dict[str, Any]) -> None:
    plain = {name: value for name, value in data.items() if name != "batch_size"}
    spec = JobSpec.model_validate({"data": plain})
    rows = BUILTIN_ROWS.get(data["name"], 10_000)
    assert 0.79 * min(rows, 600) < spec.data.batch_size <= min(0.8 * rows, 500)
    assert JobSpec.model_validate(spec.stored()) == spec


SMALLEST_DATA: dict[str, dict[str, Any]] = {
    "file": {"path": "cells.csv"},
    "maf": {"name": "power", "path": "power"},
    "parquet_stream": {"path": "cells"},
    "toy": {"name": "moons", "rows": 250},
    "builtin": {"name": "iris"},
}


@pytest.mark.parametrize("workers", [1, 3, 7])
@pytest.mark.parametrize("kind", kinds_of(JobSpec.model_fields["data"].annotation))
def test_a_batch_that_is_not_named_fits_the_rows_in_equal_shares(kind: str, workers: int) -> None:
    asked = JobSpec.model_validate({"data": {"kind": kind} | SMALLEST_DATA[kind], "resources": {"workers": workers}})
    asked = JobSpec.of_stored(asked.stored())
    for rows in (7, 120, 499, 10**6) if asked.data.training_rows is None else (asked.data.training_rows,):
        spec = asked.for_rows(rows)
        assert spec.batch_size % workers == 0
        assert min(rows, spec.data.usual_batch_size) - workers < spec.batch_size <= min(rows, asked.batch_size)
        assert (spec.too_few(rows), spec.too_few(workers - 1) is None) == (None, False)
        assert all(spec.batch_size % count == 0 for count in range(1, 8) if asked.rows_to_share % count == 0)


@pytest.mark.parametrize("kind", kinds_of(JobSpec.model_fields["data"].annotation))
def test_a_batch_that_is_named_stays(kind: str) -> None:
    asked = JobSpec.model_validate({"data": {"kind": kind, "batch_size": 64} | SMALLEST_DATA[kind]})
    assert {asked.for_rows(rows).batch_size for rows in (10, 64, 10_000)} == {64}
