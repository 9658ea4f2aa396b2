"""How much memory a training step will take, known before it is taken.

A step of the flow itself, as it is (its fields, solver and gradient), is rehearsed on 11 rows and on 13. A meter notes
when each tensor is made and freed. The same happens on any number of rows, and the size of each tensor is a part that
no row changes and so much for each row: so the two rehearsals say what is alive, at every moment, on any batch. Those
of few steps N of the solve say what it is for any N: each block's part of the pass forward and backward holds so much,
whatever N is, and so much more for every step (as the table of the gradient methods says: M N s L for backprop, M N s
states + L for the symplectic adjoint method, ...).

    forecast = planning.forecast(flow, batch=500, gradient="backprop")
    forecast.peak_bytes(30), forecast.held_by(30)

Likewise a step of flow matching, and a piece of rows that is scored without a gradient, whose peaks no N changes:

    rehearsal = planning.Rehearsal(flow)
    rehearsal.matching_bytes(500), rehearsal.scoring_bytes(500)

What it does not count: weights, buffers, the optimiser's state, the data, scratch space within an operation (of a
convolution, say), and the allocator's own losses.
"""

from __future__ import annotations

import copy
import gc
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from symadj_core.flows import Block, Flow
from symadj_core.flows.matching import flow_matching_loss
from symadj_core.gradients import GRADIENTS, Backprop, GradientMethod, Symplectic
from symadj_core.gradients.keep import Binomial, Budget, Keep, Steps, parse
from symadj_core.rehearsal import BackwardReachedError, Known, LearntRows, PartName, RehearsalMeter, Take
from symadj_core.solvers.controller import AdaptiveController, Controller, EvenGrid, FixedStep

__all__ = ["DEVICE_ROUNDING", "Forecast", "Held", "Loss", "Part", "PartName", "Rehearsal", "forecast", "mean_nll"]

# (flow, x [B, D], sample_index [B] int64, context [B, C] or None) -> the loss, 0-dim.
Loss = Callable[[Flow, Tensor, Tensor, Tensor | None], Tensor]
# What is rehearsed, of the same arguments.
_Work = Callable[[Flow, Tensor, Tensor, Tensor | None], None]
# Where a rehearsal ends: before the pass backward of the loss, before that of the last block, or with the step.
_Until = Literal["loss", "backward", "end"]

# CUDA's caching allocator gives blocks of whole multiples of it (kMinBlockSize of c10/cuda/CUDACachingAllocator).
DEVICE_ROUNDING = 512

# Rows of a rehearsal: primes, which hardly any other size of a tensor is a multiple of.
_ROWS = 11, 13
# From the second step on, each one adds the same to what the pass backward holds,
_FEW = 2
# and from the fourth on, which has an earlier one's slope, to what a solve without a graph does.
_STEADY = 4
# Blocks of many that are alike: the first, one of those in the middle, the last.
_ALIKE = 3


def mean_nll(flow: Flow, x: Tensor, sample_index: Tensor, context: Tensor | None) -> Tensor:
    """The mean negative log-likelihood of rows x [B, D], nats; 0-dim."""
    log_prob: Tensor = flow(x, seed=0, sample_index=sample_index, context=context)
    return -log_prob.mean()


@dataclass(frozen=True)
class Held:
    """Bytes that are held for every step of a block's solve.

    Attributes:
        block: position of the block in the flow.
        step_bytes: for one step.
        most_bytes: for all of them at most, where the method keeps no more than that; None: it grows with the steps.
    """

    block: int
    step_bytes: float
    most_bytes: float | None = None

    def bytes(self, steps: float) -> float:
        """What is held for so many steps."""
        held = self.step_bytes * steps
        return held if self.most_bytes is None else min(held, self.most_bytes)


@dataclass(frozen=True)
class Part:
    """A part of a step, of one block: what is alive at its peak.

    Attributes:
        name: "probes", their drawing before the block is solved; "forward", the solve, with the loss behind the last
            block; or "backward".
        block: position of the block in the flow.
        fixed_bytes: whatever the number of steps is.
        held: what grows with it.
    """

    name: PartName
    block: int
    fixed_bytes: float
    held: tuple[Held, ...]

    def bytes(self, steps: float | Sequence[float]) -> float:
        """What is alive at the peak if each block's solve takes so many steps; or one number for each block."""
        return self.fixed_bytes + sum(
            held.bytes(steps[held.block] if isinstance(steps, Sequence) else steps) for held in self.held
        )


@dataclass(frozen=True)
class Forecast:
    """What one training step takes, by the number N of accepted steps of each block's solve.

    Attributes:
        parts: of the step.
        step_seconds: how long it takes on one core for one step of the solves, roughly. Only the ratio to another
            gradient's says something.
    """

    parts: tuple[Part, ...]
    step_seconds: float

    def peak_bytes(self, steps: float | Sequence[float]) -> int:
        """The most bytes of tensors alive at once, beside those from before the step.

        Args:
            steps: accepted, of each block's solve; or one number for each block.
        """
        return round(self.held_by(steps).bytes(steps))

    def held_by(self, steps: float | Sequence[float]) -> Part:
        """The part of the step in which that is."""
        return max(self.parts, key=lambda part: part.bytes(steps))


def forecast(
    flow: Flow,
    batch: int,
    *,
    gradient: str | GradientMethod | None = None,
    loss: Loss = mean_nll,
    rounding: int = 1,
) -> Forecast:
    """What a training step of `flow` on a batch of rows takes; of several gradients, `Rehearsal` is faster.

    Args:
        flow, loss: as for `Rehearsal`.
        batch, rounding: as for `Rehearsal.forecast`.
        gradient: a method or its name in place of the flow's own.

    Raises:
        ValueError, SolverError, RuntimeError: as `Rehearsal.forecast`.
    """
    own = flow.stack()[-1].settings.gradient
    return Rehearsal(flow, loss=loss).forecast(own if gradient is None else gradient, batch, rounding=rounding)


class Rehearsal:
    """Rehearses training steps of one flow, by any gradient.

    Of many blocks that are alike three are rehearsed, since what each one in the middle adds is the same.

    Args:
        flow: on the CPU. Of its controllers it matters whether the steps are fixed or adaptive; a rejected attempt
            takes no more than an accepted one. It is only looked at: a copy is rehearsed.
        loss: what is minimised.
        beside: rehearsals of a flow that is like this one in most of its operations, which need not be computed again.
    """

    def __init__(self, flow: Flow, *, loss: Loss = mean_nll, beside: Rehearsal | None = None) -> None:
        blocks = flow.stack()
        few = Flow(blocks[:_ALIKE], flow.dim) if len(blocks) > _ALIKE and _alike(blocks) else flow
        self._flow, self._blocks, self._loss = copy.deepcopy(few), len(blocks), loss
        self._whole = flow
        self._known: Known = Known() if beside is None else beside._known
        self._learnt: LearntRows = LearntRows(self._known.results.operations) if beside is None else beside._learnt
        for weight in (*flow.parameters(), *flow.buffers()):
            self._learnt.fixed(weight.nbytes)
        self._takes: dict[tuple[GradientMethod, int, _Until, bool], tuple[Take, Take]] = {}

    def forecast(
        self, gradient: str | GradientMethod, batch: int, *, rounding: int = 1, accumulates: bool = False
    ) -> Forecast:
        """What a training step takes with this gradient.

        Args:
            gradient: a method or its name.
            batch: B, rows of one step on one worker.
            rounding: bytes of whose multiples the allocator makes every block: 1 on the host, `DEVICE_ROUNDING` on a
                device of CUDA's.
            accumulates: the gradient is added to that of other rows, which is there before.

        Raises:
            ValueError: an unknown gradient, or a batch below 1.
            SolverError: the rehearsal came to no end.
            RuntimeError: what is alive does not depend on the number of rows as it should.
        """
        _check(batch)
        method = GRADIENTS.make(gradient)
        keep = _keep(method)
        bounded = keep if isinstance(keep, Binomial | Budget) else None
        if bounded is not None:
            method = Symplectic(Steps())

        def run(method: GradientMethod, steps: int, *, until: _Until = "end") -> _Run:
            return self._run(method, steps, until, accumulates, batch, rounding)

        if method.holds_graph:
            few, more = run(method, _FEW), run(method, _FEW + 1, until="backward")
            # Its pass backward through a block has that block's graph, as backpropagation has from the pass forward on.
            graphs = [run(Backprop(), steps, until="backward") for steps in (_FEW, _FEW + 1)]
            lines = _with_graphs(few, more, graphs[1].grown(graphs[0]))
        else:
            forward = run(method, _STEADY, until="loss")
            # What keeps no states solves anew as it goes back, and is not steady either before so many steps.
            few = run(method, _FEW if forward.keeps_states else _STEADY)
            lines = _with_states(forward, few, forward.grown(few))
        if bounded is not None:
            # With one state less than there are steps, one of them is computed again.
            again = run(Symplectic(Binomial(_FEW)), _FEW + 1)
            taken = {(name, block): peak for name, block, peak in again.peaks}
            lines = [line.at_least(_FEW, taken[line.name, line.block]) for line in lines]
        lines = self._stretched(lines, rounding, accumulates)
        parts = _parts(lines, bounded, self._flow.stack()[0].settings.solver.stages)
        # Each step of the solve takes as long as any other, and all else hardly anything beside.
        step_seconds = few.seconds / few.steps * self._blocks / len(self._flow.stack())
        return Forecast(tuple(parts), step_seconds)

    def matching_bytes(self, batch: int, *, rounding: int = 1, accumulates: bool = False) -> int:
        """The most bytes of tensors alive at once in a step of flow matching, its base samples and times among them.

        Its times are spread evenly, as `flow_matching_loss` is best given them: so each block has an equal share of the
        rows, and the rehearsals are on as many rows for every block. With times of another law the peak is another one
        where blocks have more rows than their share.

        Args:
            batch, rounding, accumulates: as for `forecast`.

        Raises:
            ValueError, RuntimeError: as `forecast`.
        """
        _check(batch)

        def step(flow: Flow, x: Tensor, sample_index: Tensor, context: Tensor | None) -> None:
            time = (sample_index + 0.5).to(x.dtype) / len(x)
            loss = flow_matching_loss(flow, x, torch.randn_like(x), time, context).mean()
            loss.backward()  # type: ignore[no-untyped-call]

        flow, (few, many) = copy.deepcopy(self._whole), (rows * self._blocks for rows in _ROWS)
        low, high = (self._metered(flow, rows, step, accumulates=accumulates) for rows in (few, many))
        return _peak(low, high, (few, many), batch, rounding)

    def scoring_bytes(self, batch: int, *, rounding: int = 1) -> int:
        """The most bytes of tensors alive at once while the log-likelihood of rows is computed without a gradient.

        A solve without a graph drops each step behind it: no N changes its peak.

        Args:
            batch: rows that are computed at once.
            rounding: as for `forecast`.

        Raises:
            ValueError, SolverError, RuntimeError: as `forecast`.
        """
        _check(batch)

        @torch.no_grad()
        def score(flow: Flow, x: Tensor, sample_index: Tensor, context: Tensor | None) -> None:
            flow(x, seed=0, sample_index=sample_index, context=context)

        return _peak(*self._on_both(self._paced(None, _STEADY), score), _ROWS, batch, rounding)

    def _run(
        self, gradient: GradientMethod, steps: int, until: _Until, accumulates: bool, batch: int, rounding: int
    ) -> _Run:
        key = gradient, steps, until, accumulates
        whole: tuple[GradientMethod, int, _Until, bool] = (gradient, steps, "end", accumulates)
        if until == "backward" and whole in self._takes:
            few, many = (take.until_backward for take in self._takes[whole])
            return _on_batch(few, many, steps, batch, rounding)
        if key not in self._takes:

            def step(flow: Flow, x: Tensor, sample_index: Tensor, context: Tensor | None) -> None:
                loss = self._loss(flow, x, sample_index, context)
                if until != "loss":
                    loss.backward()  # type: ignore[no-untyped-call]

            flow, to_backward = self._paced(gradient, steps), until == "backward"
            self._takes[key] = self._on_both(flow, step, accumulates=accumulates, to_backward=to_backward)
        return _on_batch(*self._takes[key], steps, batch, rounding)

    def _on_both(
        self, flow: Flow, work: _Work, *, accumulates: bool = False, to_backward: bool = False
    ) -> tuple[Take, Take]:
        """Rehearse on few rows, and on more where it is not known from before what becomes of these."""
        low = self._metered(flow, _ROWS[0], work, accumulates=accumulates, to_backward=to_backward)
        high = self._learnt.many(low)
        if high is None:
            high = self._metered(flow, _ROWS[1], work, accumulates=accumulates, to_backward=to_backward)
            _check_alike(low, high)
            self._learnt.learn(low, high)
        return low, high

    def _paced(self, gradient: GradientMethod | None, steps: int) -> Flow:
        return Flow([_paced(block, gradient, steps) for block in self._flow.stack()], self._flow.dim)

    def _metered(
        self, flow: Flow, rows: int, work: _Work, *, accumulates: bool = False, to_backward: bool = False
    ) -> Take:
        """Let the flow do the work on so many random rows, and return what a meter noted.

        Args:
            flow, rows, work: as said.
            accumulates: gradients are there before.
            to_backward: end before the pass backward through the last block.
        """
        flow = flow.with_settings()  # another one for every meter that watches it
        flow.zero_grad()
        weight = next(flow.parameters(), torch.empty(0))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            x = torch.randn(rows, flow.dim, dtype=weight.dtype)
            context = torch.randn(rows, flow.context_dim, dtype=weight.dtype) if flow.context_dim else None
            index = torch.arange(rows)
            meter = RehearsalMeter(self._known, to_backward=to_backward)
            for number, block in enumerate(flow.stack()):
                meter.watch(block, number)
            with _no_collection(), suppress(BackwardReachedError), meter:
                if accumulates:
                    for parameter in flow.parameters():
                        parameter.grad = torch.zeros_like(parameter)
                work(flow, x, index, context)
        return meter.take(flow.last_stats.checkpoint_bytes)

    def _stretched(self, lines: list[_Line], rounding: int, accumulates: bool) -> list[_Line]:
        """The lines of all blocks from those of the three that were rehearsed, where there are more."""
        more = self._blocks - len(self._flow.stack())
        if more == 0:
            return lines
        found = {(line.name, line.block): line for line in lines}
        middle, last = found["forward", _ALIKE - 2], found["forward", _ALIKE - 1]
        # Of each block before: what it has left; of each block behind, in backward: its weights' gradients. Those that
        # are there before the step are of all blocks, and at all times.
        left, slope = last.fixed - middle.fixed, last.slope - middle.slope
        gradients = sum(_rounded(p.nbytes, rounding) for p in self._flow.stack()[0].parameters())
        stretched = []
        for name in dict.fromkeys(line.name for line in lines):
            for block in range(self._blocks):
                at = min(block, _ALIKE - 2) if block < self._blocks - 1 else _ALIKE - 1
                line, before = found[name, at], block - at
                behind = more if accumulates else (more - before) if name == "backward" else 0
                fixed = line.fixed + before * left + behind * gradients
                stretched.append(_Line(line.name, block, fixed, line.slope + before * slope))
        return stretched


_Peak = tuple[PartName, int, int]


@dataclass(frozen=True)
class _Run:
    """A step on a batch of so many rows.

    Attributes:
        peaks: name, block and peak of every part, in the order of the step.
        left: of each block, what is alive at the end of its pass forward: its states and those of the blocks before.
        keeps_states: whether the pass forward keeps states for the pass backward.
        seconds: the time that the step would take.
    """

    peaks: list[_Peak]
    left: list[int]
    steps: int
    keeps_states: bool
    seconds: float

    def grown(self, few: _Run) -> list[float]:
        """By how much more is left for every step: of each block, with those before it."""
        steps = max(1, self.steps - few.steps)
        return [(high - low) / steps for low, high in zip(few.left, self.left, strict=True)]


@dataclass(frozen=True)
class _Line:
    """The peak of a part by the number N of steps: fixed + N slope."""

    name: PartName
    block: int
    fixed: float
    slope: float

    def bytes(self, steps: float) -> float:
        return self.fixed + steps * self.slope

    def at_least(self, steps: float, taken: float) -> _Line:
        return replace(self, fixed=self.fixed + max(0.0, taken - self.bytes(steps)))


def _with_graphs(few: _Run, forward: _Run, held: list[float]) -> list[_Line]:
    """The peaks of all parts where every step of a block adds its graph.

    Args:
        few: a whole step.
        forward: a step of more solver steps, before the pass backward through the last block.
        held: the graph of a step of each block, with those before it.
    """
    left = [0.0, *forward.grown(few)]
    lines = []
    for (name, block, low), (_, _, high) in zip(few.peaks, forward.peaks, strict=False):
        slope = (high - low) / (forward.steps - few.steps)
        lines.append(_Line(name, block, low - few.steps * slope, slope))
    own = [after - before for before, after in pairwise([0.0, *held])]
    for name, block, low in few.peaks[len(lines) :]:
        slope = left[block] + own[block]
        lines.append(_Line(name, block, low - few.steps * slope, slope))
    return lines


def _with_states(forward: _Run, whole: _Run, grown: list[float]) -> list[_Line]:
    """The peaks of all parts where every step adds the states that are kept of it, and no graph.

    Args:
        forward: a pass forward alone.
        whole: a whole step; of it, what is alive in the pass backward.
        grown: what is kept for a step of each block, with those before it.
    """
    peaks = [(peak, forward.steps) for peak in forward.peaks]
    peaks += [(peak, whole.steps) for peak in whole.peaks if peak[0] == "backward"]
    passed = [0.0, *grown]
    lines = []
    for (name, block, peak), steps in peaks:
        slope = passed[_passed(name, block)]
        lines.append(_Line(name, block, peak - steps * slope, slope))
    return lines


def _parts(lines: list[_Line], keep: Binomial | Budget | None, stages: int) -> list[Part]:
    """The parts, in which it is known what grows with the steps of which block.

    What a block leaves behind as it is passed forward stays until its own pass backward has ended: with a bound on its
    states no more than that, in place of one state a step.
    """
    slopes = [0.0, *(line.slope for line in lines if line.name == "forward")]
    left = [_left(block, after - before, keep, stages) for block, (before, after) in enumerate(pairwise(slopes))]
    parts = []
    for line in lines:
        passed = _passed(line.name, line.block)
        own = line.slope - slopes[passed]
        held = [*left[:passed], *([Held(line.block, own)] if own else [])]
        parts.append(Part(line.name, line.block, line.fixed, tuple(held)))
    return parts


def _passed(name: PartName, block: int) -> int:
    """How many blocks hold, in this part, what their steps leave behind."""
    return block if name == "probes" else block + 1


def _left(block: int, step_bytes: float, keep: Binomial | Budget | None, stages: int) -> Held:
    """What the pass forward through a block leaves behind."""
    if keep is None:
        return Held(block, step_bytes)
    if isinstance(keep, Binomial):
        return Held(block, step_bytes, keep.states * step_bytes)
    return Held(block, stages * step_bytes, max(float(keep.size), 2 * step_bytes))


def _keep(method: GradientMethod) -> Keep | None:
    if not isinstance(method, Symplectic):
        return None
    return parse(method.keep) if isinstance(method.keep, str) else method.keep


def _alike(blocks: Sequence[Block]) -> bool:
    """Whether the blocks have the same layers, and are solved in the same way by the same objects."""

    def kind(block: Block) -> tuple[object, ...]:
        settings = block.settings
        return (
            type(block),
            str(block.field),
            *(p.shape for p in block.parameters()),
            settings.divergence,
            id(settings.solver),
            id(settings.controller),
            settings.field_dtype,
        )

    return all(kind(block) == kind(blocks[0]) for block in blocks)


def _on_batch(low: Take, high: Take, steps: int, batch: int, rounding: int) -> _Run:
    """What two rehearsals say of a batch."""
    alive = _alive(low, high, _ROWS, batch, rounding)
    ends = [*(begin for _, _, begin in low.marks[1:]), len(alive)]
    # A part begins with what is alive at the end of the one before.
    peaks = [
        (name, block, round(alive[max(0, begin - 1) : end].max()))
        for (name, block, begin), end in zip(low.marks, ends, strict=True)
    ]
    left = [round(alive[end - 1]) for end in low.passed]
    seconds = _at(batch, _ROWS, low.seconds, high.seconds)
    return _Run(peaks, left, steps, low.kept_bytes > 0, seconds)


def _alive(low: Take, high: Take, rows: tuple[int, int], batch: int, rounding: int) -> NDArray[np.float64]:
    """The bytes that are alive on a batch, at every moment, from what was noted on two numbers of rows.

    Raises:
        RuntimeError: what is alive does not depend on the number of rows as it should.
    """
    _check_alike(low, high)
    sizes = _at(batch, rows, np.array(low.sizes, np.float64), np.array(high.sizes, np.float64))
    sizes = np.ceil(sizes / rounding) * rounding
    moments = np.array(low.moments)
    made = moments >= 0
    of = np.where(made, moments, -1 - moments)
    alive: NDArray[np.float64] = np.cumsum(np.where(made, sizes[of], -sizes[of]))
    return alive


def _check_alike(low: Take, high: Take) -> None:
    if (low.moments, low.marks, low.passed) != (high.moments, high.marks, high.passed):
        raise RuntimeError("the tensors of a step can't be foretold: they depend on the number of its rows")


def _peak(low: Take, high: Take, rows: tuple[int, int], batch: int, rounding: int) -> int:
    return round(float(_alive(low, high, rows, batch, rounding).max()))


def _at(batch: int, rows: tuple[int, int], few: Any, many: Any) -> Any:
    """What a line through the figures of two numbers of rows says of a batch."""
    return few + (many - few) * (batch - rows[0]) / (rows[1] - rows[0])


def _check(batch: int) -> None:
    if batch < 1:
        raise ValueError(f"a batch has at least 1 row, not {batch}")


def _paced(block: Block, gradient: GradientMethod | None, steps: int) -> Block:
    """The block, solved with that gradient, or its own, in so many equal steps, whatever their errors are."""
    controller: Controller = block.settings.controller
    if isinstance(controller, AdaptiveController):
        # A little longer, so that rounding leaves no rest that would be split in two.
        size = (1.0 + 1e-6) * float(torch.as_tensor(block.duration()).detach()) / steps
        controller = replace(controller, min_step=size, max_step=size, accept_at_min_step=True)
    else:
        controller = FixedStep(grid=EvenGrid(steps))
    settings = replace(block.settings, gradient=gradient or block.settings.gradient, controller=controller)
    return block.with_settings(settings)


@contextmanager
def _no_collection() -> Iterator[None]:
    """Let nothing be freed by Python's collector, which comes when it likes."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def _rounded(size: int, rounding: int) -> int:
    return math.ceil(size / rounding) * rounding
