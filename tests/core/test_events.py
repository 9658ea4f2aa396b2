"""Events: their time and state by signs alone, and their derivative, by every function."""

from __future__ import annotations

import math
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from symadj_core import SolverError, odeint, odeint_event
from tests.core.test_odeint import FUNCTIONS

each_function = pytest.mark.parametrize("name", list(FUNCTIONS))

# Conditions whose sign changes where y crosses a half, and which have no derivative there.
WITHOUT_DERIVATIVE: dict[str, Callable[[Tensor, Tensor], Any]] = {
    "a comparison": lambda t, y: y > 0.5,
    "a comparison that stops holding": lambda t, y: y < 0.5,
    "whole numbers": lambda t, y: torch.where(y > 0.5, 1, -1),
    "numpy": lambda t, y: y.numpy() - 0.5,
    "detached": lambda t, y: y.detach() - 0.5,
    "a number of Python's": lambda t, y: float(y.detach()) - 0.5,
    "a sign": lambda t, y: torch.sign(y - 0.5),
    "a rounded one": lambda t, y: torch.round(100 * (y - 0.5)) - 0.5,
}


def logistic(t: Tensor, y: Tensor) -> Tensor:
    return y * (1 - y)


def number(x: float) -> Tensor:
    return torch.tensor(x, dtype=torch.float64)


def beginning() -> Tensor:
    return torch.tensor([0.1], dtype=torch.float64, requires_grad=True)


@each_function
@pytest.mark.parametrize("condition", list(WITHOUT_DERIVATIVE))
def test_a_condition_without_a_derivative_gives_the_time_and_the_state(name: str, condition: str) -> None:
    event, interface = WITHOUT_DERIVATIVE[condition], FUNCTIONS[name]
    place = 0.505 if condition == "a rounded one" else 0.5
    for recording in (True, False):
        with torch.set_grad_enabled(recording):
            t, ys = odeint_event(logistic, beginning(), number(0), event_fn=event, odeint_interface=interface)
        assert float(t) == pytest.approx(math.log(9 * place / (1 - place)), abs=1e-5)
        assert float(ys[-1]) == pytest.approx(place, abs=1e-5)


@each_function
@pytest.mark.parametrize("condition", list(WITHOUT_DERIVATIVE))
def test_a_derivative_that_is_not_there_is_said_when_it_is_asked_for(name: str, condition: str) -> None:
    y0 = beginning()
    options = {"event_fn": WITHOUT_DERIVATIVE[condition], "odeint_interface": FUNCTIONS[name]}
    t, ys = odeint_event(logistic, y0, number(0), **options)
    with pytest.raises(RuntimeError, match="the time and the state of the event have no derivative"):
        t.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="detach what needs none"):
        ys[-1].sum().backward(retain_graph=True)
    # What does not move with the event has its gradient.
    assert torch.equal(torch.autograd.grad(ys[0].sum(), y0)[0], torch.ones(1, dtype=torch.float64))


@each_function
def test_the_gradient_is_that_of_the_entry_that_crossed(name: str) -> None:
    # The second entry is the smaller one where the first one crosses: the gradient used to be taken from it.
    def field(t: Tensor, y: Tensor) -> Tensor:
        return torch.stack([y[0] * (1 - y[0]), -0.1 * y[1]])

    def event(t: Tensor, y: Tensor) -> Tensor:
        return torch.stack([y[0] - 0.5, y[1] - 1e-9])

    x0 = number(0.1).requires_grad_()
    y0 = torch.stack([x0, number(2e-9)])
    t, _ = odeint_event(field, y0, number(0), event_fn=event, odeint_interface=FUNCTIONS[name])
    assert float(t) == pytest.approx(math.log(9), abs=1e-5)
    assert float(torch.autograd.grad(t, x0)[0]) == pytest.approx(-1 / (0.1 * 0.9), rel=1e-5)


@each_function
def test_entries_given_as_a_tuple_are_entries(name: str) -> None:
    y0 = beginning()
    options = {"event_fn": lambda t, y: (t - 50, y - 0.5), "odeint_interface": FUNCTIONS[name]}
    t, _ = odeint_event(logistic, y0, number(0), **options)
    assert float(torch.autograd.grad(t, y0)[0]) == pytest.approx(-1 / 0.09, rel=1e-5)


@each_function
def test_an_event_of_time_alone_does_not_move_with_the_state(name: str) -> None:
    y0 = beginning()
    options = {"event_fn": lambda t, y: t - 2.0, "odeint_interface": FUNCTIONS[name]}
    t, ys = odeint_event(logistic, y0, number(0), **options)
    assert float(t) == pytest.approx(2.0, abs=1e-12)
    growth = math.exp(2.0) / (0.1 * math.exp(2.0) + 0.9) ** 2
    gradient = torch.autograd.grad(t + ys[-1].sum(), y0)[0]
    assert float(gradient) == pytest.approx(growth, rel=1e-5)


@each_function
def test_a_zero_with_a_flat_slope_has_its_time_and_its_derivative(name: str) -> None:
    y0 = beginning()
    options = {"event_fn": lambda t, y: (y - 0.5) ** 3, "odeint_interface": FUNCTIONS[name]}
    t, ys = odeint_event(logistic, y0, number(0), **options)
    assert float(t) == pytest.approx(math.log(9), abs=1e-5)
    assert torch.isfinite(ys).all()
    assert float(torch.autograd.grad(t, y0)[0]) == pytest.approx(-1 / 0.09, rel=1e-4)


@each_function
def test_the_event_time_of_the_plain_functions_has_its_gradient_and_their_states_a_fixed_time(name: str) -> None:
    y0, t = beginning(), torch.tensor([0.0, 1.0], dtype=torch.float64, requires_grad=True)
    time, ys = FUNCTIONS[name](logistic, y0, t, event_fn=lambda t, y: y - 0.5)
    of_y0, of_t = torch.autograd.grad(time, [y0, t], retain_graph=True)
    assert float(of_y0) == pytest.approx(-1 / 0.09, rel=1e-5)
    # A later start is a later event.
    torch.testing.assert_close(of_t, torch.tensor([1.0, 0.0], dtype=torch.float64), rtol=1e-5, atol=1e-9)
    at_fixed_time = 9 / (0.1 * 9 + 0.9) ** 2
    assert float(torch.autograd.grad(ys[-1].sum(), y0)[0]) == pytest.approx(at_fixed_time, rel=1e-5)


class Threshold(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.at = nn.Parameter(number(0.5))

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        return y - self.at


@each_function
def test_parameters_of_the_event_function_have_their_gradients(name: str) -> None:
    event = Threshold()
    start = torch.tensor([0.1], dtype=torch.float64)
    t, ys = odeint_event(logistic, start, number(0), event_fn=event, odeint_interface=FUNCTIONS[name])
    at_time = torch.autograd.grad(t, event.at, retain_graph=True)[0]
    at_state = torch.autograd.grad(ys[-1].sum(), event.at)[0]
    assert float(at_time) == pytest.approx(4.0, rel=1e-5)
    assert float(at_state) == pytest.approx(1.0, rel=1e-5)


def test_a_second_derivative_of_an_event_is_refused() -> None:
    y0 = beginning()
    t, _ = odeint_event(logistic, y0, number(0), event_fn=lambda t, y: y - 0.5)
    (first,) = torch.autograd.grad(t, y0, create_graph=True)
    with pytest.raises(RuntimeError, match="the time of an event has no second derivative"):
        torch.autograd.grad(first.sum(), y0)


def test_without_anything_to_differentiate_an_event_has_no_graph() -> None:
    t, ys = odeint_event(logistic, beginning().detach(), number(0), event_fn=lambda t, y: y - 0.5)
    assert not t.requires_grad
    assert not ys.requires_grad


def test_an_event_that_is_stepped_over_is_told_with_what_would_see_it() -> None:
    def event(t: Tensor, y: Tensor) -> Tensor:
        return (y - 0.3) * (y - 0.3001)

    def constant(t: Tensor, y: Tensor) -> Tensor:
        return torch.ones_like(y)

    y0 = torch.zeros(1, dtype=torch.float64)
    with pytest.raises(SolverError, match="max_step") as caught:
        odeint_event(constant, y0, number(0), event_fn=event)
    assert caught.value.reason == "no_event"
    t, _ = odeint_event(constant, y0, number(0), event_fn=event, options={"max_step": 1e-4})
    assert float(t) == pytest.approx(0.3, abs=1e-9)


def test_a_search_that_fails_says_that_there_was_no_event_before() -> None:
    y0 = torch.ones(1, dtype=torch.float64)
    with pytest.raises(
        SolverError, match=r"underflow_in_dt.*until then, the event function crossed zero in no step"
    ) as e:
        odeint_event(lambda t, y: y**2, y0, number(0), event_fn=lambda t, y: y + 1)
    again = pickle.loads(pickle.dumps(e.value))
    assert (str(again), again.reason) == (str(e.value), "underflow_in_dt")


@pytest.mark.parametrize("value", [None, "late", torch.zeros(0), torch.zeros(1, dtype=torch.complex64)])
def test_an_event_function_that_returns_no_number_is_told_so(value: Any) -> None:
    with pytest.raises(TypeError, match="the event function must return"):
        odeint_event(logistic, beginning(), number(0), event_fn=lambda t, y: value)


def test_an_interface_that_is_not_of_this_library_is_refused() -> None:
    def foreign(func: Any, y0: Tensor, t: Tensor, *, event_fn: Any) -> Any:
        return odeint(func, y0, t, event_fn=lambda t, y: event_fn(t, y))

    with pytest.raises(TypeError, match="odeint_interface"):
        odeint_event(logistic, beginning(), number(0), event_fn=lambda t, y: y - 0.5, odeint_interface=foreign)
