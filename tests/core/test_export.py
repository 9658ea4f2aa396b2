"""Trained flows as programs: with fixed steps, in the units of the data, for any number of rows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import symadj_core
from symadj_core import TrainedFlow
from symadj_core.solvers.tableaus import TABLEAUS
from symadj_core.trained.export import sampler, scorer
from tests.core.test_trained import ARCSINH, CONDITIONAL, FLOW, IMAGES, MLP, STANDARDISE, config, folder, rows

POTENTIAL = {"kind": "potential", "width": 8, "depth": 3, "rank": 4, "zero_init": False}
RESIDUAL = {"kind": "residual", "width": 8, "depth": 1, "time": "fourier", "activation": "silu", "zero_init": False}
FIELDS: dict[str, dict[str, Any]] = {
    "two hidden layers": MLP | {"hidden": [8, 8]},
    "three hidden layers": MLP | {"hidden": [8, 8, 8], "activation": "silu", "time": "fourier"},
    "a potential": POTENTIAL,
}
AGES = torch.linspace(20, 70, 6, dtype=torch.float64)[:, None]


def of_field(field: dict[str, Any], **changes: Any) -> dict[str, Any]:
    flow = FLOW | {"field": field, "blocks": 1, "dtype": "float64"}
    return config(spec=config()["spec"] | {"flow": flow}, **changes)


def loaded(path: Path, described: dict[str, Any]) -> TrainedFlow:
    path.mkdir(exist_ok=True)
    return symadj_core.load(folder(path / "out", described))


@pytest.mark.parametrize("field", FIELDS)
def test_with_enough_steps_rows_and_densities_are_those_of_the_flow(tmp_path: Path, field: str) -> None:
    transforms = [ARCSINH, STANDARDISE | {"mean": [9.0, -3.0], "std": [1.0, 0.5]}]
    flow = loaded(tmp_path, of_field(FIELDS[field], transforms=transforms)).with_settings(rtol=1e-9, atol=1e-9)
    x = rows()
    torch.testing.assert_close(scorer(flow, steps=40)(x), flow.log_prob(x), rtol=0, atol=1e-6)
    z = flow.to_base(x)
    torch.testing.assert_close(sampler(flow, steps=40)(z), flow.from_base(z), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("method", TABLEAUS)
def test_any_method_takes_the_steps_and_keeps_its_order(tmp_path: Path, method: str) -> None:
    flow = loaded(tmp_path, of_field(MLP))
    few, many = (scorer(flow, steps=steps, method=method)(rows()) for steps in (8, 16))
    exact = flow.with_settings(rtol=1e-11, atol=1e-11).log_prob(rows())
    # 2^-order, and a factor of two: of an error that is not yet the order's alone.
    bound = 2.0 ** (1 - TABLEAUS[method].order) * float((few - exact).abs().max())
    assert (many - exact).abs().max() < max(bound, 1e-9)


@pytest.mark.parametrize("make", [sampler, scorer])
def test_a_program_takes_any_number_of_rows_with_their_contexts(tmp_path: Path, make: Any) -> None:
    flow = loaded(tmp_path, CONDITIONAL)
    module = make(flow, steps=1, method="heun2")
    dim = torch.export.Dim("rows")
    program = torch.export.export(module, (rows(), AGES), dynamic_shapes=({0: dim}, {0: dim})).module()
    more = (rows(9), AGES.repeat(2, 1)[:9])
    torch.testing.assert_close(program(*more), module(*more))


def test_the_weights_of_a_module_are_its_own(tmp_path: Path) -> None:
    flow = loaded(tmp_path, config())
    before = flow.log_prob(rows())
    module = scorer(flow, steps=1, dtype=torch.float64)
    for weight in module.parameters():
        weight.zero_()
    assert torch.equal(flow.log_prob(rows()), before)


def test_images_are_sampled_as_images_of_whole_numbers(tmp_path: Path) -> None:
    flow = loaded(tmp_path, IMAGES)
    drawn = sampler(flow, steps=4)(torch.randn(3, 32, dtype=torch.float64))
    assert drawn.shape == (3, 2, 4, 4)
    assert torch.equal(drawn, drawn.round())
    noisy = flow.sample((3,)) + 0.5
    torch.testing.assert_close(scorer(flow, steps=20)(noisy), flow.log_prob(noisy), rtol=0, atol=1e-3)


def test_what_can_not_be_exported_is_refused(tmp_path: Path) -> None:
    flow = loaded(tmp_path, of_field(RESIDUAL))
    assert sampler(flow, steps=1)(torch.zeros(2, 2, dtype=torch.float64)).shape == (2, 2)
    with pytest.raises(ValueError, match=r"log_prob can't be exported: the field of block 0, ResidualField"):
        scorer(flow, steps=1)
    changed = loaded(tmp_path / "changed", config())
    changed.flow.stack()[1].field.register_forward_hook(lambda *_: None)
    with pytest.raises(ValueError, match="the field of block 1, MLPField, has no closed form"):
        scorer(changed, steps=1)
    with pytest.raises(ValueError, match="steps must be at least 1, not 0"):
        sampler(flow, steps=0)
    with pytest.raises(ValueError, match="unknown solver 'rk5'"):
        sampler(flow, steps=1, method="rk5")
    with pytest.raises(ValueError, match="this flow takes no context"):
        sampler(flow, steps=1)(torch.zeros(2, 2, dtype=torch.float64), AGES[:2])
