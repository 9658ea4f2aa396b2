"""Flows of images, from a file to bits/dim."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from symadj.service.contract.order import RunOrder
from symadj.service.contract.spec import JobSpec
from symadj.service.contract.spec.flow import MultiscaleFlow
from symadj.service.contract.states import ReasonCode
from symadj.workers.data import DataError
from symadj.workers.model.build import build_flow, evaluation_flow, validation_flow
from symadj.workers.model.image_shapes import check_images
from symadj.workers.ray.reading import read_data
from tests.workers.runs import order, run

LEVELS = 256
IMAGES = np.random.default_rng(0).integers(0, LEVELS, (200, 4, 8), dtype=np.uint8)
DATA = {
    "kind": "file",
    "path": "noise-ubyte",
    "batch_size": 20,
    "transforms": [{"kind": "dequantise", "levels": LEVELS}, {"kind": "logit"}, {"kind": "standardise"}],
}
FLOW = {"kind": "multiscale", "levels": 2, "blocks": 1, "hidden_channels": [4], "zero_init": True}
WITHOUT_PLOTS = {"mixture_components": 0, "two_sample_rows": 0, "inverse_rows": 4, "plots": False}


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "datasets"
    folder.mkdir()
    monkeypatch.setenv("SYMADJ_DATA_ROOTS", str(folder))
    head = struct.pack(">BBBB3I", 0, 0, 0x08, 3, *IMAGES.shape)
    (folder / "noise-ubyte").write_bytes(head + IMAGES.tobytes())
    return folder


def order_of(folder: Path, flow: dict[str, Any], data: dict[str, Any] | None = None) -> RunOrder:
    return order(folder).model_copy(update={"spec": spec(flow, data)})


def spec(flow: dict[str, Any], data: dict[str, Any] | None = None, **sections: Any) -> JobSpec:
    digits = {"kind": "builtin", "name": "digits", "batch_size": 100}
    return JobSpec.model_validate({"data": data or digits, "flow": {"kind": "multiscale", **flow}, **sections})


@pytest.mark.usefixtures("root")
def test_images_of_uniform_noise_cost_the_bits_of_their_levels(tmp_path: Path) -> None:
    """No code of such images takes less than log2(256) = 8 bits a pixel.

    Their logits, standardised, are logistic: N(0, 1) takes KL = log(2 pi e) / 2 - 2 + log(pi / sqrt 3) = 0.0143 nats,
    or 0.0206 bits, more than that, and so does a flow that begins as the identity. The mean over the test rows strays
    by the spread of a pixel's code length, some 0.3 bits, over the root of 20 x 32 pixels.
    """
    outcome, outbox = run(
        tmp_path,
        data=DATA,
        flow=FLOW,
        stop={"kind": "steps", "max_steps": 3},
        optimizer={"kind": "adam", "learning_rate": 1e-3},
        evaluation=WITHOUT_PLOTS | {"validate_every_steps": 2, "plots": True},
    )
    assert outcome is not None
    assert outcome.state == "succeeded", outcome
    result = outcome.result
    assert 7.97 < result.test_bits_per_dim < 8.07
    assert result.test_bits_per_dim == pytest.approx(result.test_nll_original_units / (32 * np.log(2)))
    assert result.inverse_error.max < 0.05
    assert result.test_solver.divergence == "exact"
    assert len(outbox.series("loss")) == 3
    drawn = {a.name for a in outbox.of("artifact") if a.media_type == "image/png"}
    assert drawn == {"curve.png", "images.png", "trajectories.png", "steps.png"}


@pytest.mark.usefixtures("root")
def test_pre_training_and_regularisers_work_for_images(tmp_path: Path) -> None:
    outcome, outbox = run(
        tmp_path,
        data=DATA,
        flow=FLOW,
        pretraining={"kind": "flow_matching", "steps": 2},
        regularisers=[{"kind": "kinetic", "weight": 0.01}, {"kind": "jacobian_frobenius", "weight": 0.01}],
        stop={"kind": "steps", "max_steps": 4},
        evaluation=None,
    )
    assert outcome is not None
    assert outcome.state == "succeeded", outcome
    assert len(outbox.series("flow_matching_loss")) == len(outbox.series("kinetic")) == 2


def test_the_exact_trace_gives_way_to_an_estimate_where_there_are_many_columns() -> None:
    order = spec({"levels": 1, "blocks": 1, "hidden_channels": [2]})
    assert order.evaluation is not None
    flow = build_flow(order, 64, shape=(1, 8, 8))
    _, how = evaluation_flow(flow, order, order.evaluation)
    assert how.divergence == "exact"
    assert how.probes is None
    assert validation_flow(flow, order)[1] == "hutchinson"
    few = order.evaluation.model_copy(
        update={"divergence": order.evaluation.divergence.model_copy(update={"exact_up_to": 63})}
    )
    tested, how = evaluation_flow(flow, order, few)
    assert (how.divergence, how.probes) == ("hutchinson", 4)
    assert {block.settings.divergence.name for block in tested.stack()} == {"hutchinson"}


def test_the_spec_says_all_about_the_flow() -> None:
    order = spec(
        {
            "levels": 3,
            "blocks": 2,
            "hidden_channels": [3, 5],
            "time": "fourier",
            "activation": "silu",
            "end_time": 0.5,
            "learn_end_time": True,
            "dtype": "float64",
        }
    )
    assert JobSpec.model_validate(order.stored()) == order
    flow = build_flow(order, 64, shape=(1, 8, 8))
    assert [block.field.shape for block in flow.stack()] == [
        shape for shape in [(1, 8, 8), (4, 4, 4), (2, 4, 4), (8, 2, 2), (4, 2, 2)] for _ in range(2)
    ]
    assert {block.end_time.item() for block in flow.stack()} == {0.5}
    assert all(str(p.dtype) == "torch.float64" for p in flow.parameters())


@pytest.mark.parametrize(
    "data",
    [
        {"kind": "toy", "name": "moons"},
        {"kind": "builtin", "name": "iris", "batch_size": 10},
        {"kind": "maf", "name": "power", "path": "power"},
        {"kind": "file", "path": "rows.csv"},
        {"kind": "file", "path": "images.npy", "columns": ["x0", "x1"]},
    ],
)
def test_data_that_are_no_images_are_refused_by_the_spec_where_it_can_tell(data: dict[str, Any]) -> None:
    with pytest.raises(ValidationError) as caught:
        spec({}, data)
    (error,) = caught.value.errors()
    assert error["ctx"]["pointer"] == "/flow/kind"
    assert f"data.kind {data['kind']}" in error["msg"]
    assert "take digits or a file" in error["msg"]


def test_a_regulariser_of_potentials_is_refused() -> None:
    with pytest.raises(ValidationError, match=r"flow\.kind multiscale has none"):
        spec({}, regularisers=[{"kind": "hjb", "weight": 1.0}])


@pytest.mark.parametrize(
    ("shape", "levels", "words"),
    [
        (None, 1, r"not images.*give an array \[rows, height, width\]"),
        ((1, 28, 28), 4, r"28 x 28 can't be halved 3 times.*flow\.levels 3 at most.*multiples of 8"),
        ((3, 7, 8), 2, r"7 x 8 can't be halved 1 times.*flow\.levels 1 at most"),
    ],
)
def test_images_of_a_size_that_does_not_fit_are_refused_with_the_numbers(
    shape: tuple[int, int, int] | None, levels: int, words: str
) -> None:
    with pytest.raises(DataError, match=words):
        check_images(MultiscaleFlow(kind="multiscale", levels=levels), shape)


def test_the_driver_refuses_them_before_any_worker_is_placed(root: Path, tmp_path: Path) -> None:
    np.save(root / "rows.npy", np.random.default_rng(0).normal(size=(300, 3)))
    for path, flow, words in (("noise-ubyte", {"levels": 4}, "4 x 8"), ("rows.npy", {}, "not images")):
        data = {"kind": "file", "path": path, "batch_size": 20}
        summary, refusal = read_data(order_of(tmp_path, flow, data))
        assert summary is not None
        assert refusal is not None
        assert refusal.reason == ReasonCode.DATA_ERROR
        assert words in refusal.message
    assert read_data(order_of(tmp_path, {"levels": 3}, DATA))[1] is None
