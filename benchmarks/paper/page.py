"""Writes what was measured: docs/paper.md."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from benchmarks.paper.dynamics import AHEAD, ATOL, RTOL, Study, ratios
from benchmarks.paper.exactness import FINEST, Distances, Rounding, Training
from benchmarks.paper.memory import DIM, GRAPH, HIDDEN, ROWS, STATE, Growth
from benchmarks.paper.methods import PLACES
from benchmarks.paper.sizes import Size
from benchmarks.table import table
from symadj_core.solvers import tableaus

__all__ = ["Claim", "Measured", "claims", "page"]

EXACT = 1e-12
SLOPE = 0.05
ALIKE = 1e-6
SPREAD = 0.05
OURS, PAPERS = "symplectic, keep stages", "symplectic, keep steps"


@dataclass(frozen=True)
class Measured:
    """All that `make paper` measures."""

    size: Size
    by_steps: Mapping[str, Sequence[Growth]]
    by_blocks: Sequence[Growth]
    by_tolerance: Sequence[Distances]
    by_solver: Sequence[Distances]
    by_stack: Sequence[Distances]
    rounding: Sequence[Rounding]
    trained: Sequence[Training]
    studies: Sequence[Study]


@dataclass(frozen=True)
class Claim:
    """A claim of the paper, what was seen of it, and whether that bears it out."""

    text: str
    seen: str
    holds: bool


def claims(found: Measured) -> list[Claim]:
    """Return the claims that do not depend on the machine's speed."""
    settings = [*found.by_tolerance, *found.by_solver, *found.by_stack]
    growths = [growth for solver in found.by_steps.values() for growth in solver]
    worst_step = max(growth.deviation for growth in growths)
    worst_block = max(growth.deviation for growth in found.by_blocks)
    far = {(study.pde.name, learnt.label): learnt.off for study in found.studies for learnt in study.learnt}
    exact = max(
        *(value for row in settings for label, value in row.of.items() if label != "adjoint"),
        *(math.inf if value is None else value for (_, label), value in far.items() if label != "adjoint"),
    )
    backward = " and ".join(
        f"{_cell(value, '.0e')} ({name})" for (name, label), value in far.items() if label == "adjoint"
    )
    adjoint = [row.of["adjoint"] for row in found.by_tolerance]
    ours = [math.inf if (nll := row.nll[OURS]) is None else nll for row in found.trained]
    highest, most = found.size.solvers[-1], found.size.steps[-1]
    peaks = {growth.label: growth.peaks[-1] for growth in found.by_steps[highest]}
    apart = max(
        math.inf if learnt.apart is None else learnt.apart
        for study in found.studies
        for learnt in study.learnt
        if learnt.label != "adjoint"
    )
    return [
        Claim(
            "Memory grows with the number of steps as the arithmetic says, for every gradient and solver order",
            f"slopes within {worst_step:.1%}",
            worst_step < SLOPE,
        ),
        Claim(
            "Memory grows with the number of blocks as the arithmetic says",
            f"slopes within {worst_block:.1%}",
            worst_block < SLOPE,
        ),
        Claim(
            "Of the exact gradients of one checkpoint a step, the symplectic one needs the least memory",
            f"backprop needs {peaks['backprop'] / peaks[PAPERS]:.0f} times as much, and ACA "
            f"{peaks['aca'] / peaks[PAPERS]:.1f} times ({highest}, {most} steps)",
            peaks[PAPERS] < peaks["aca"] < peaks["backprop"],
        ),
        Claim(
            "Its gradient is exact, whatever the tolerance, the solver and the number of blocks",
            f"within {exact:.0e} of backprop's in float64, all policies of what to keep",
            exact < EXACT,
        ),
        Claim(
            "The continuous adjoint's gradient is not, and is worse at looser tolerances",
            f"{adjoint[0]:.0e} apart at an rtol of {found.by_tolerance[0].setting}, {adjoint[-1]:.0e} at "
            f"{found.by_tolerance[-1].setting}; far ahead in a physical system {backward}",
            EXACT < adjoint[0] < adjoint[-1],
        ),
        Claim(
            "Trained by its gradient, a flow ends at the same likelihood, whatever the tolerance",
            f"NLL from {min(ours):.3f} to {max(ours):.3f} nats at an rtol from {found.trained[0].rtol:.0e} to "
            f"{found.trained[-1].rtol:.0e}",
            max(ours) - min(ours) < SPREAD,
        ),
        Claim(
            "Every exact gradient trains the same field",
            f"losses within {apart:.0e} of backprop's in all {found.size.iterations} steps of both systems",
            apart < ALIKE,
        ),
    ]


def page(found: Measured, plots: Mapping[str, str]) -> str:
    """Return the page in Markdown.

    Args:
        found: what was measured.
        plots: names of the picture files: "memory", "tolerances", "physics".
    """
    parts = [
        "# The paper's claims, drawn again",
        _text(
            "`make paper` wrote this page: every number in it was measured by its last run. It draws again, at a "
            "reduced size that takes one core some ten minutes, what T. Matsubara, Y. Miyatake and T. "
            "Yaguchi claim for the symplectic adjoint method ([NeurIPS 2021](https://arxiv.org/abs/2102.09750)). It "
            "needs no data set and no GPU. The sizes are ours, so no number here is to be compared with one of the "
            "paper's tables, of which none is quoted. The code is `benchmarks/paper`, which uses `symadj_core` alone; "
            "`make paper SIZE=quick TARGET=/tmp/paper` runs all of it in a few seconds, for tests."
        ),
        _text(
            "All but the last section is the same on every machine, to rounding: bytes are exact peaks of live "
            "tensors, steps and uses of the field are counted, and losses, errors and distances are computed in "
            "float64."
        ),
        _table(
            ("claim", "seen", "holds"),
            ((claim.text, claim.seen, "yes" if claim.holds else "no") for claim in claims(found)),
        ),
        *_memory(found, plots["memory"]),
        *_exactness(found, plots["tolerances"]),
        *_physics(found, plots["physics"]),
        *_seconds(found),
    ]
    return "\n\n".join(parts) + "\n"


def _memory(found: Measured, plot: str) -> list[str]:
    rows = []
    for solver, growths in found.by_steps.items():
        tableau = tableaus.by_name(solver)
        for growth in growths:
            rows.append(
                (
                    f"{solver} (order {tableau.order}, s = {tableau.stages})",
                    growth.label,
                    _kib(growth.slope),
                    _kib(growth.expected),
                    f"{growth.deviation:.1%}",
                    _kib(growth.peaks[-1]),
                )
            )
    steps, blocks = found.size.steps, found.size.blocks
    blocks_rows = [
        (
            growth.label,
            _kib(growth.slope),
            _kib(growth.expected),
            f"{growth.deviation:.1%}",
            _kib(growth.peaks[-1]),
        )
        for growth in found.by_blocks
    ]
    return [
        "## Memory",
        _text(
            f"The field is a perceptron {DIM}-{HIDDEN}-{HIDDEN}-{DIM} in float32 on {ROWS} rows. A state S is "
            f"{STATE / 1024:g} KiB, and the graph L of one use of the field, which is the state and the two hidden "
            f"activations, {GRAPH / 1024:g} KiB. With M blocks of N steps of s stages, k states kept by a block (its "
            "first among them) and g graphs alive at once, a gradient must hold M (k + 1) S + g L, and what depends "
            "on neither N nor M; the result of a block, its start and its end, is the one state more:"
        ),
        _table(
            ("gradient", "k", "g"),
            [
                ("backprop", "0", "M N s"),
                ("onecheckpoint", "1", "N s"),
                ("aca", "N", "s"),
                ("symplectic, keep stages", "N s", "1"),
                ("symplectic, keep steps (the paper's)", "N", "1"),
                ("symplectic, keep budget (b states)", "at most b + 1", "1"),
                ("symplectic, keep binomial (b states)", "at most b", "1"),
                ("adjoint", "1", "1"),
            ],
        ),
        _text(
            f"One block; slopes fitted to N from {steps[0]} to {steps[-1]}; b = {PLACES}; KiB for one step more, and "
            f"at N = {steps[-1]}. The deviation is relative to the arithmetic's slope, or to one state where that is "
            "less:"
        ),
        _table(("solver", "gradient", "slope", "arithmetic", "deviation", "peak"), rows),
        f"![Peak memory against the number of steps]({plot})",
        _text(
            f"Stacks of M blocks from {blocks[0]} to {blocks[-1]}, {found.size.blocks_solver} with "
            f"{found.size.blocks_steps} steps; KiB for one block more, and at M = {blocks[-1]}:"
        ),
        _table(("gradient", "slope", "arithmetic", "deviation", "peak"), blocks_rows),
    ]


def _exactness(found: Measured, plot: str) -> list[str]:
    def rows(distances: Sequence[Distances]) -> list[tuple[str, ...]]:
        return [(row.setting, str(row.steps), *(f"{value:.0e}" for value in row.of.values())) for row in distances]

    labels = tuple(_short(label) for label in found.by_tolerance[0].of)
    tolerance_rows = [
        (*cells, f"{row.from_the_solution:.0e}")
        for cells, row in zip(rows(found.by_tolerance), found.by_tolerance, strict=True)
    ]
    trained_rows = [
        (
            f"{row.rtol:.0e}",
            *(cell for label in row.nll for cell in (_cell(row.nll[label], ".3f"), f"{row.uses[label]:.0f}")),
        )
        for row in found.trained
    ]
    rounding_labels = tuple(_short(label) for label in found.rounding[0].of)
    return [
        "## Exactness and robustness",
        _text(
            "Distances |g - g'| / |g'| of a gradient g from backprop's g' through the same accepted steps, all "
            "parameters of a continuous normalizing flow in one vector, float64. N counts the accepted steps. By "
            "tolerance (dopri5; atol is rtol / 100); the last column is backprop's own distance from the gradient at "
            f"{FINEST:.0e}, the error of the solve itself, which no gradient method can mend:"
        ),
        _table(("rtol", "N", *labels, "the solve's own"), tolerance_rows),
        f"![Distance from backprop's gradient against the tolerance]({plot})",
        _text(f"By solver, at an rtol of {found.size.tolerance:.0e}:"),
        _table(("solver", "N", *labels), rows(found.by_solver)),
        _text(f"By the number of blocks M (dopri5, {found.size.tolerance:.0e}):"),
        _table(("M", "N", *labels), rows(found.by_stack)),
        _text(
            "Rounding: distances of float32's gradient from float64's by backprop, through the same N steps of the "
            "classic Runge-Kutta method (the continuous adjoint's is its own error where N is small):"
        ),
        _table(
            ("N", *rounding_labels),
            [(str(row.steps), *(f"{value:.0e}" for value in row.of.values())) for row in found.rounding],
        ),
        _text(
            f"Training at a tolerance: NLL in nats on fresh points after {found.size.flow_steps} steps of Adam, judged "
            "at 1e-6, and uses of the field by one step, forward and backward. The flow is one block, the data eight "
            "Gaussians on a circle:"
        ),
        _table(
            ("rtol", *(cell for label in found.trained[0].nll for cell in (f"NLL, {_short(label)}", "uses"))),
            trained_rows,
        ),
    ]


def _physics(found: Measured, plot: str) -> list[str]:
    size = found.size
    parts = [
        "## Two physical systems",
        _text(
            "Korteweg-de Vries, u_t = -6 u u_x - u_xxx, and Cahn-Hilliard, u_t = (u^3 - u - gamma u_xx)_xx, on a "
            f"periodic grid of {size.points} points. Both are u' = A dH/du; A is skew in the first, which conserves "
            "the energy H, and negative semidefinite in the second, which dissipates it. The truth is the average "
            "vector field method's (order 2, which has the same two properties exactly). The learnt field is A times "
            "the gradient of an energy whose density a perceptron learns from three neighbours, as in HNN++ "
            "(Matsubara, Ishikawa and Yaguchi, NeurIPS 2020): it conserves or dissipates what it learnt, whatever "
            "that is."
        ),
        _text(
            f"From {size.trajectories} trajectories of {size.snapshots} snapshots, each field learns to predict the "
            f"next snapshot by dopri8 at {RTOL:.0e}/{ATOL:.0e}, in {size.iterations} steps of Adam on {size.batch} "
            "pairs, from the same weights on the same batches. Loss: squared error in units of the change, mean of "
            "the last ten steps; 1 is a prediction that nothing changes. Apart: largest relative difference of the "
            f"loss from backprop's over the training. Error: of the rollout over {size.snapshots} snapshots from "
            f"{size.tests} initial conditions never seen, relative to the state, at its end. Drift: largest change of "
            "the learnt energy along it that the system forbids, relative to the energy's range; it is the solver's. "
            "Peak: live tensors in one training step, and uses of the field in it, all at the same weights. Far: the "
            "gradient's distance from backprop's at these weights, for a prediction "
            f"{min(AHEAD, size.snapshots)} snapshots ahead; the continuous adjoint solves the system backward for it, "
            "which a dissipative one does not bear:"
        ),
    ]
    rows = []
    for study in found.studies:
        for learnt in study.learnt:
            rows.append(
                (
                    study.pde.name,
                    learnt.label,
                    _cell(learnt.loss, ".1e"),
                    _cell(learnt.apart, ".0e"),
                    _cell(learnt.error, ".3f"),
                    _cell(learnt.drift, ".0e"),
                    _cell(None if learnt.peak is None else learnt.peak / 2**20, ".2f"),
                    _cell(learnt.uses, "d"),
                    _cell(learnt.off, ".0e"),
                )
            )
    parts.append(_table(("system", "gradient", "loss", "apart", "error", "drift", "peak MiB", "uses", "far"), rows))
    parts.append(
        _table(
            ("system", "N between two snapshots", "error if nothing changed", "error of the truth itself"),
            [
                (study.pde.name, str(study.steps), f"{study.standstill:.3f}", f"{study.own_error:.0e}")
                for study in found.studies
            ],
        )
    )
    parts.append(
        _text(
            "The truth's own error is its distance from the same scheme with half the time step. Below, one of the "
            "test trajectories, by the reference scheme and by the field that the symplectic gradient trained:"
        )
    )
    parts.append(f"![The two systems, simulated and learnt]({plot})")
    return parts


def _seconds(found: Measured) -> list[str]:
    by_system = {study.pde.name: ratios(study) for study in found.studies}
    labels = list(next(iter(by_system.values())))
    seconds = ", ".join(
        f"{_cell(learnt.seconds, '.3f')} s ({study.pde.name})"
        for study in found.studies
        for learnt in study.learnt
        if learnt.label == OURS
    )
    return [
        "## Seconds",
        _text(
            "These are this machine's. Training steps of the two systems, one of each gradient in turn, one thread, "
            f"medians of {found.size.iterations}, beside `{OURS}`, which took {seconds}:"
        ),
        _table(
            ("gradient", *by_system),
            [(label, *(_cell(of[label], ".2f") for of in by_system.values())) for label in labels],
        ),
    ]


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    return "\n".join(table(head, rows))


def _text(paragraph: str) -> str:
    return textwrap.fill(paragraph, 120, break_long_words=False, break_on_hyphens=False)


def _short(label: str) -> str:
    return label.replace("symplectic, keep ", "keep ")


def _kib(size: float) -> str:
    return f"{round(size / 1024, 1) + 0.0:.1f}"


def _cell(value: float | None, form: str) -> str:
    return "failed" if value is None else format(value, form)
