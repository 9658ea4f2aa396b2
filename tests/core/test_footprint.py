"""Peak memory of a training step above one warm use of the field: dimension 43, width 512, batch 500, 8 steps."""

from __future__ import annotations

import functools

import pytest
import torch

from symadj_core import FixedStep, gradients
from symadj_core.flows import Block, Flow, Hutchinson, MLPField, ProbeKey
from symadj_core.memory import LiveTensorMeter

DIM, WIDTH, BATCH, STEPS = 43, 512, 500, 8
MEGABYTE = 10**6


def make_field() -> MLPField:
    torch.manual_seed(0)
    return MLPField(DIM, (WIDTH, WIDTH))


@functools.cache
def one_use() -> int:
    """Peak of one use of the field and its divergence with backward."""
    field, x, index = make_field(), torch.randn(BATCH, DIM), torch.arange(BATCH)
    with LiveTensorMeter() as meter:
        y = x.clone().requires_grad_()
        outputs = Hutchinson().rates(field, ProbeKey(0), index, x)(torch.tensor(0.3), y)
        torch.autograd.backward(outputs, [torch.ones_like(out) for out in outputs])
    return meter.peak_bytes


@functools.cache
def above_one_use(gradient: str, **options: str) -> float:
    x, index = torch.randn(BATCH, DIM), torch.arange(BATCH)
    block = Block(make_field(), controller=FixedStep(1 / STEPS), gradient=gradients.by_name(gradient, **options))
    flow = Flow([block], DIM)
    with LiveTensorMeter() as meter:
        (-flow(x, seed=0, sample_index=index).mean()).backward()
    assert flow.last_stats.accepted == STEPS
    return (meter.peak_bytes - one_use()) / MEGABYTE


@pytest.mark.parametrize(("keep", "most"), [("steps", 9.0), ("stages", 12.0)])
def test_the_symplectic_adjoint_stays_within_its_budget(keep: str, most: float) -> None:
    assert above_one_use("symplectic", keep=keep) < most


def test_methods_are_ordered_by_memory_as_the_theory_says() -> None:
    peaks = [
        above_one_use("symplectic", keep="binomial(2)"),
        above_one_use("symplectic", keep="steps"),
        above_one_use("symplectic", keep="stages"),
        above_one_use("aca"),
        above_one_use("backprop"),
    ]
    assert peaks == sorted(peaks)
    assert peaks[-1] > 20 * peaks[2]
