"""Step sizes: error norms, the initial step, and the controllers (fixed, I, PI).

Controllers are frozen settings; everything they compare is a float of the host. An attempted adaptive step costs
one read of the device (its error norm), a fixed step none.
"""

from __future__ import annotations

import math
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, Literal

import torch
import torch.distributed as dist
from torch import Tensor

from symadj_core.registry import Classes
from symadj_core.solvers.precision import Precision, real_dtype
from symadj_core.solvers.system import Slope, System

# Takes the scaled errors of the state (and of the quadratures, if they are controlled) and returns a 0-dim tensor.
Norm = Callable[[Sequence[Tensor]], Tensor]

# Scaled errors beyond it are cut to it where a norm overflowed.
_HUGE = 1e100


def rms_norm(parts: Sequence[Tensor]) -> Tensor:
    """Root mean square over all entries of all parts; 0-dim, real."""
    squares, count = _squares(parts)
    # An empty batch has no error.
    return (squares / max(count, 1)).sqrt()


@dataclass(frozen=True)
class RankReducedNorm:
    """Root mean square over all ranks of a process group.

    All ranks then take the same steps, and W workers follow the solution and the gradient that one worker would
    follow on the whole batch. Costs one all-reduce of two numbers an attempted step, and three as a solve begins. All
    must make the same solves: a rank that leaves one, by an exception of its field, leaves the others waiting, unless
    `add_up` of a class of its own sees to it.

    Attributes:
        group: a torch.distributed process group; None is the default group.
    """

    group: Any = None

    def __call__(self, parts: Sequence[Tensor]) -> Tensor:
        squares, count = _squares(parts)
        totals = torch.stack([squares, torch.full_like(squares, count)])
        self.add_up(totals)
        return (totals[0] / totals[1].clamp(min=1)).sqrt()

    def add_up(self, totals: Tensor) -> None:
        """Replace the sum of squares and the number of entries, [2], by their sums over the ranks."""
        dist.all_reduce(totals, group=self.group)


def _squares(parts: Sequence[Tensor]) -> tuple[Tensor, int]:
    # vector_norm makes no temporary of the state's size, where abs().pow(2) makes two.
    norms = [torch.linalg.vector_norm(part) for part in parts]
    squares = norms[0].square()
    for norm in norms[1:]:
        squares = squares + norm.square()
    return squares, sum(part.numel() for part in parts)


@dataclass(frozen=True)
class EvenGrid:
    """A grid of a number of equal steps, however long the solve is (its end time may be learnt)."""

    steps: int

    def __call__(self, times: list[float]) -> list[float]:
        start, end = times[0], times[-1]
        return [start, *(start + (end - start) * n / self.steps for n in range(1, self.steps)), end]


@dataclass(frozen=True)
class FixedStep:
    """A grid of steps that no error estimate changes.

    Attributes:
        step_size: length of a step (> 0); the last step of the solve may be shorter. None: the grid is the
            requested times themselves.
        grid: times -> grid, both as ascending or descending lists of floats with equal ends; instead of step_size.
        perturb: evaluate the field just inside each step at its ends, for a field that jumps at grid points.
    """

    step_size: float | None = None
    grid: Callable[[list[float]], list[float]] | None = None
    perturb: bool = False

    def __post_init__(self) -> None:
        if self.step_size is not None and self.grid is not None:
            raise ValueError("give step_size or grid, not both")
        if self.step_size is not None and not self.step_size > 0:
            raise ValueError(f"step_size must be positive, not {self.step_size}")

    def steps(self, times: list[float]) -> tuple[int, Iterator[tuple[float, float]]]:
        """The number of steps of a solve over `times`; start and end of each, made as they are taken.

        Raises:
            ValueError: a custom grid does not run straight from the first to the last of the times.
        """
        if self.step_size is None:
            points = times if self.grid is None else self._custom(self.grid, times)
            return len(points) - 1, pairwise(points)
        if self.step_size < 2.0 * math.ulp(max(map(abs, times))):
            raise ValueError(
                f"step_size {self.step_size:g} is below what times near {times[-1]:g} can be told apart by"
            )
        # A last step shorter than a ten-thousandth of the others is rounding of the times (float32's, in 1,000 steps).
        whole = max(math.ceil(abs(times[-1] - times[0]) / self.step_size - 1e-4), 1)
        return whole, self._equal(times, self.step_size, whole)

    @staticmethod
    def _equal(times: list[float], size: float, whole: int) -> Iterator[tuple[float, float]]:
        direction = 1.0 if times[-1] > times[0] else -1.0
        start = times[0]
        for n in range(1, whole + 1):
            end = times[0] + direction * size * n if n < whole else times[-1]
            yield start, end
            start = end

    @staticmethod
    def _custom(grid: Callable[[list[float]], list[float]], times: list[float]) -> list[float]:
        points = [float(t) for t in grid(times)]
        if len(points) < 2 or points[0] != times[0] or points[-1] != times[-1]:
            raise ValueError(
                f"the grid must begin and end with the first and the last of the times, {times[0]:g} and "
                f"{times[-1]:g}, not with {points[:1]} and {points[-1:]}"
            )
        steps = [b - a for a, b in pairwise(points)]
        if not (all(s > 0 for s in steps) or all(s < 0 for s in steps)):
            raise ValueError("the grid must be strictly increasing or strictly decreasing, as the times are")
        return points


@dataclass(frozen=True)
class AdaptiveController(ABC):
    """Settings that the adaptive controllers share. A step is accepted where the norm of error / scale is <= 1,
    scale = atol + rtol * max(|y_n|, |y_n+1|) (Hairer, Norsett and Wanner, II.4).

    Attributes:
        rtol, atol: relative and absolute tolerance of one step; atol in units of the state. A tensor gives every
            entry of the state its own; it must broadcast with the state and be on its device.
        first_step: size of the first attempted step; None chooses it from the field (Hairer et al., II.4.14).
        min_step, max_step: bounds of a step's size. Below min_step the solve fails with "underflow_in_dt".
        accept_at_min_step: take steps of min_step instead, whatever their error (as torchdiffeq does).
        max_steps: attempted steps after which the solve fails with "max_steps".
        safety, min_factor, max_factor: a step's size is multiplied by safety * (optimal factor), within bounds.
        norm: reduces the scaled errors to one number.
        control: "state" leaves the quadratures out of the norm, "augmented" takes them in.
        step_t: times at which a step must end.
        jump_t: times at which the field jumps; a step ends there and the next starts with a fresh slope.
    """

    rtol: float | Tensor = 1e-5
    atol: float | Tensor = 1e-6
    first_step: float | None = None
    min_step: float = 0.0
    max_step: float = float("inf")
    accept_at_min_step: bool = False
    max_steps: int = 2**31 - 1
    safety: float = 0.9
    min_factor: float = 0.2
    max_factor: float = 10.0
    norm: Norm = rms_norm
    control: Literal["state", "augmented"] = "state"
    step_t: tuple[float, ...] = field(default=())
    jump_t: tuple[float, ...] = field(default=())

    def __post_init__(self) -> None:
        numbers = [x for x in (self.rtol, self.atol) if not isinstance(x, Tensor)]
        if not all(x >= 0 for x in numbers) or (len(numbers) == 2 and sum(numbers) == 0):
            raise ValueError(f"tolerances must not be negative nor both zero: rtol={self.rtol}, atol={self.atol}")
        if self.first_step is not None and not self.first_step > 0:
            raise ValueError(f"first_step must be positive, not {self.first_step}")
        if not (0 < self.safety < 1 and 0 < self.min_factor < 1 <= self.max_factor):
            raise ValueError(
                "safety and min_factor must be between 0 and 1, max_factor at least 1: "
                f"safety={self.safety}, min_factor={self.min_factor}, max_factor={self.max_factor}"
            )
        if not 0 <= self.min_step <= self.max_step or self.max_step == 0:
            raise ValueError(f"0 <= min_step <= max_step must hold: min_step={self.min_step}, max_step={self.max_step}")
        if self.max_steps < 1:
            raise ValueError(f"max_steps must be at least 1, not {self.max_steps}")
        if self.control not in ("state", "augmented"):
            raise ValueError(f"control must be 'state' or 'augmented', not {self.control!r}")

    @abstractmethod
    def optimal_factor(self, error: float, previous: float, exponent: float) -> float:
        """Factor on the step size that would bring the next error to 1, before safety and bounds.

        Args:
            error: norm of this step's scaled error, > 0.
            previous: norm of the last accepted step's, > 0.
            exponent: 1 / (order of the embedded solution + 1).
        """

    def factor(self, error: float, previous: float, exponent: float) -> float:
        """Factor on the step size after a step of this error, within min_factor and max_factor."""
        if error == 0.0:
            return self.max_factor
        optimal = self.safety * self.optimal_factor(error, max(previous, 1e-10), exponent)
        return min(self.max_factor, max(self.min_factor, optimal))


@dataclass(frozen=True)
class IController(AdaptiveController):
    """The classical controller: next h = h * safety * error^(-1/k)."""

    def optimal_factor(self, error: float, previous: float, exponent: float) -> float:
        return float(error**-exponent)


@dataclass(frozen=True)
class PIController(AdaptiveController):
    """Gustafsson's PI controller (ACM TOMS 17 (1991) 533): smoother steps, fewer rejections on stiff stretches.

    Attributes:
        integral, proportional: gains, in units of 1/k.
    """

    integral: float = 0.3
    proportional: float = 0.4

    def optimal_factor(self, error: float, previous: float, exponent: float) -> float:
        gain = (self.integral + self.proportional) * exponent
        return float(error**-gain * previous ** (self.proportional * exponent))


Controller = FixedStep | AdaptiveController

CONTROLLERS: Classes[Controller] = Classes("controller", {"fixed": FixedStep, "i": IController, "pi": PIController})


def by_name(name: str, **options: Any) -> Controller:
    """The controller of that name ("fixed", "i" or "pi") with these settings.

    Raises:
        ValueError: no such controller.
        TypeError: it has no such setting.
    """
    return CONTROLLERS.make(name, **options)


def scaled(
    controller: AdaptiveController, error: Tensor, before: Tensor, after: Tensor, doubt: Tensor | float = 0.0
) -> Tensor:
    """error / (atol + rtol max(|before|, |after|) + doubt), elementwise and without graph.

    Args:
        controller: tolerances.
        error: of the step, like the states before and after it.
        before, after: states.
        doubt: 0, or NaN to make all NaN, and so the norm on every rank that takes part in it.
    """
    scale = torch.maximum(before.detach().abs(), after.detach().abs())
    return error.detach() / scale.mul_(controller.rtol).add_(controller.atol + doubt)


def careful(parts: Sequence[Tensor], slopes: Sequence[Tensor], ends: Sequence[Tensor] = ()) -> list[Tensor]:
    """The sizes of scaled errors whose norm was not finite, so that their norm is: real and float64, of parts' shapes.

    An error of zero under a tolerance of zero is none, and what is beyond 1e100, or belongs to an end that is not
    finite, counts as that much. All are NaN where one of the slopes is not finite. No read of the device, so that all
    ranks of a group go the same way.
    """
    sizes = [part.detach().abs().to(torch.float64) for part in parts]
    bounded = [torch.nan_to_num(size, nan=0.0, posinf=_HUGE).clamp(max=_HUGE) for size in sizes]
    within = [torch.where(all_finite(ends), size, _HUGE) for size in bounded] if ends else bounded
    return [torch.where(all_finite(slopes), size, torch.nan) for size in within]


def all_finite(tensors: Sequence[Tensor]) -> Tensor:
    """Whether all entries are finite; 0-dim, on the device."""
    return torch.stack([torch.isfinite(x).all() for x in tensors]).all()


def initial_step(
    system: System,
    controller: AdaptiveController,
    order: int,
    span: tuple[float, float],
    y0: Tensor,
    slope: Slope,
) -> float:
    """A first step size (> 0) from the field's own scales (Hairer, Norsett and Wanner, II.4.14); NaN if it has none.

    Costs one use of the field and one read of the device; the trial step is chosen on the device.

    Args:
        system: what is integrated.
        controller: tolerances and norm.
        order: order of the embedded solution, whose error is controlled.
        span: start and end time.
        y0: state at the start.
        slope: its derivative.
    """
    with torch.no_grad():
        scales = _scales(system, controller, span, y0.detach(), slope.state.detach(), overflowed=False)
        if not all(map(math.isfinite, scales)):
            scales = _scales(system, controller, span, y0.detach(), slope.state.detach(), overflowed=True)
    size, trial, first, change = scales
    if not (math.isfinite(first) and math.isfinite(change)):
        return math.nan
    warn_of_tolerances(controller, system.precision, size)
    largest = max(first, change / trial if trial > 0.0 else 0.0)
    wanted = (0.01 / largest) ** (1.0 / (order + 1)) if largest > 1e-15 else max(1e-6, trial * 1e-3)
    length = abs(span[1] - span[0])
    return float(min(100 * trial, wanted, length)) if trial > 0.0 else length


def _scales(
    system: System,
    controller: AdaptiveController,
    span: tuple[float, float],
    y0: Tensor,
    k0: Tensor,
    *,
    overflowed: bool,
) -> tuple[float, float, float, float]:
    """The state in units of its tolerance, a trial step, and in the same units the slope and its change over that step.

    Args:
        overflowed: take care that the norms are finite, since they were not.
    """
    start, end = span
    direction = 1.0 if end > start else -1.0

    def norm(x: Tensor, *slopes: Tensor) -> Tensor:
        return controller.norm(careful([x / scale], slopes) if overflowed else [x / scale])

    scale = y0.abs().mul_(controller.rtol).add_(controller.atol)
    d0, d1 = norm(y0, k0), norm(k0, k0)
    tiny = (d0 < 1e-5) | (d1 < 1e-5)
    h0 = torch.where(tiny, torch.full_like(d0, 1e-6), 0.01 * d0 / d1).clamp(max=abs(end - start))
    h0 = h0.to(real_dtype(y0))
    moment = system.time(start, y0) + (direction * h0).to(system.precision.time)
    k1 = system.slope(moment, y0 + direction * h0 * k0, with_quadrature=False).state
    d2 = norm(k1 - k0, k0, k1)
    size, trial, first, change = torch.stack([d0, h0.to(d1.dtype), d1, d2]).tolist()
    return size, trial, first, change


def warn_of_tolerances(controller: AdaptiveController, precision: Precision, size: float) -> None:
    """Warn of tolerances that are finer than the precision that the field is given.

    Args:
        controller: the tolerances.
        precision: the field's.
        size: norm of the state in units of its tolerance.
    """
    if size * precision.epsilon <= 2.0:
        return
    name, epsilon = str(precision.state).removeprefix("torch."), precision.epsilon
    tolerances = ", ".join(
        f"{name}={value:g}" if not isinstance(value, Tensor) else f"{name} for each entry"
        for name, value in (("rtol", controller.rtol), ("atol", controller.atol))
    )
    warnings.warn(
        f"{tolerances}: {name} can't tell such errors from its own rounding at this size of state, so that steps get "
        f"short and the solution no better: take an rtol of at least {epsilon:.1e}, or a state and a field in more "
        "precision",
        RuntimeWarning,
        stacklevel=2,
    )
