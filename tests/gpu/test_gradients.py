"""The five gradients of a flow on the device, in float64."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from symadj_core import IController
from symadj_core.flows import Block, Flow, MLPField, ResidualField
from symadj_core.gradients import GRADIENTS
from tests.core.systems import EXACT_GRADIENTS, gradient_of, relative_error

FIELDS = [lambda: MLPField(6, (32, 32)), lambda: ResidualField(6, 24, 1)]


def gradients_of(make: Callable[[], nn.Module], gradient: str, device: torch.device, rtol: float) -> list[Tensor]:
    """The loss of a flow and its gradients for the rows and the weights, the same flow and rows every time."""
    torch.manual_seed(0)
    controller = IController(rtol=rtol, atol=rtol / 10)
    blocks = [
        Block(make(), controller=controller, divergence="hutchinson", learn_end_time=bool(n)).double() for n in (0, 1)
    ]
    flow = Flow(blocks, 6).with_settings(gradient=gradient_of(gradient)).to(device)
    x = torch.randn(64, 6, dtype=torch.float64).to(device).requires_grad_()
    loss = -flow(x, seed=0).mean()
    loss.backward()
    return [loss.detach(), *(leaf.grad for leaf in (x, *flow.parameters()) if leaf.grad is not None)]


@pytest.mark.parametrize("make", FIELDS)
@pytest.mark.parametrize("gradient", EXACT_GRADIENTS)
def test_every_exact_gradient_of_a_flow_equals_backprop(
    make: Callable[[], nn.Module], gradient: str, device: torch.device
) -> None:
    expected = gradients_of(make, "backprop", device, 1e-4)
    assert relative_error(gradients_of(make, gradient, device, 1e-4), expected) < 1e-12


def test_the_continuous_adjoint_is_as_near_to_it_as_its_tolerances_say(device: torch.device) -> None:
    expected = gradients_of(FIELDS[0], "backprop", device, 1e-8)
    assert relative_error(gradients_of(FIELDS[0], "adjoint", device, 1e-8), expected) < 1e-5


@pytest.mark.parametrize("gradient", GRADIENTS)
def test_the_device_computes_what_the_cpu_does(gradient: str, device: torch.device) -> None:
    there, here = (gradients_of(FIELDS[0], gradient, place, 1e-6) for place in (device, torch.device("cpu")))
    assert relative_error([x.cpu() for x in there], here) < 1e-9
