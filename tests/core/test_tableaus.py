from __future__ import annotations

import dataclasses
from collections.abc import Callable

import pytest
import torch

from symadj_core import FixedStep, solve
from symadj_core.solvers import tableaus
from symadj_core.solvers.tableaus import DOPRI5, RK4, ButcherTableau
from tests.core.systems import ADAPTIVE_SOLVERS, ALL_SOLVERS

# A rooted tree is the tuple of its subtrees; () is the single node.
Tree = tuple["Tree", ...]


def rooted_trees(order: int) -> list[Tree]:
    """All rooted trees with that many nodes."""
    found: set[Tree] = set()

    def forests(nodes: int, largest: int) -> list[Tree]:
        if nodes == 0:
            return [()]
        result = []
        for size in range(1, min(nodes, largest) + 1):
            for tree in rooted_trees(size):
                result.extend((tree, *rest) for rest in forests(nodes - size, size))
        return result

    for forest in forests(order - 1, order - 1):
        found.add(tuple(sorted(forest, key=repr)))
    return sorted(found, key=repr)


def nodes(tree: Tree) -> int:
    return 1 + sum(nodes(subtree) for subtree in tree)


def density(tree: Tree) -> int:
    """gamma(tree) of Butcher's theory."""
    total = nodes(tree)
    for subtree in tree:
        total *= density(subtree)
    return total


def elementary_weights(tableau: ButcherTableau, tree: Tree) -> list[float]:
    """The stage weights phi_i(tree): sum_i b_i phi_i = 1 / gamma is the order condition."""
    weights = [1.0] * len(tableau.b)
    for subtree in tree:
        inner = elementary_weights(tableau, subtree)
        weights = [
            w * sum(a * x for a, x in zip(row, inner, strict=False)) for w, row in zip(weights, tableau.a, strict=True)
        ]
    return weights


def worst_defect(tableau: ButcherTableau, b: tuple[float, ...], order: int) -> float:
    trees = [tree for n in range(1, order + 1) for tree in rooted_trees(n)]
    return max(
        abs(sum(x * w for x, w in zip(b, elementary_weights(tableau, tree), strict=True)) - 1 / density(tree))
        for tree in trees
    )


@pytest.mark.parametrize(("order", "count"), [(1, 1), (2, 1), (3, 2), (4, 4), (5, 9), (6, 20), (7, 48), (8, 115)])
def test_the_number_of_order_conditions_is_the_known_one(order: int, count: int) -> None:
    assert len(rooted_trees(order)) == count


@pytest.mark.parametrize("name", ALL_SOLVERS)
def test_the_solution_satisfies_every_order_condition(name: str) -> None:
    tableau = tableaus.by_name(name)
    assert worst_defect(tableau, tableau.b, tableau.order) < 1e-13


@pytest.mark.parametrize("name", ALL_SOLVERS)
def test_the_order_is_not_understated(name: str) -> None:
    tableau = tableaus.by_name(name)
    if tableau.order < 8:
        assert worst_defect(tableau, tableau.b, tableau.order + 1) > 1e-6


@pytest.mark.parametrize("name", ADAPTIVE_SOLVERS)
def test_the_embedded_solution_has_its_order_and_no_more(name: str) -> None:
    tableau = tableaus.by_name(name)
    assert tableau.error is not None
    embedded = tuple(b - e for b, e in zip(tableau.b, tableau.error, strict=True))
    assert worst_defect(tableau, embedded, tableau.error_order) < 1e-13
    assert worst_defect(tableau, embedded, tableau.error_order + 1) > 1e-8


@pytest.mark.parametrize(("name", "fsal"), [("dopri5", True), ("tsit5", True), ("bosh3", True), ("dopri8", False)])
def test_first_same_as_last_is_recognised(name: str, fsal: bool) -> None:
    assert tableaus.by_name(name).fsal is fsal


@pytest.mark.parametrize(
    "change",
    [
        {"b": (0.2, 0.3, 0.3, 0.3)},
        {"c": (0.0, 0.5, 0.4, 1.0)},
        {"a": ((), (0.5,), (0.0, 0.5))},
        {"error": (0.5, 0.1, 0.0, 0.0), "error_order": 3},
        {"error": (0.5, -0.5, 0.0, 0.0), "error_order": 0},
        {"dense": ((1.0,), (0.0,), (0.0,), (0.0,), (0.0,))},
    ],
)
def test_a_table_that_contradicts_itself_is_refused(change: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="rk4"):
        dataclasses.replace(RK4, **change)  # type: ignore[arg-type]


def test_an_unknown_solver_is_refused_with_the_names_there_are() -> None:
    with pytest.raises(ValueError, match=r"dopri6.*dopri5"):
        tableaus.by_name("dopri6")


def errors_of_halved_steps(name: str, measure: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]) -> list[float]:
    """Errors on y' = -y sin-like rotation with known solution, for steps of 1/n and 1/2n."""
    errors = []
    steps = {5: 4, 8: 3}.get(tableaus.by_name(name).order, 16)
    for n in (steps, 2 * steps):
        # Outputs at odd places, so that every one of them is interpolated.
        t = torch.tensor([0.0, 0.37, 0.61, 0.93, 1.0], dtype=torch.float64)
        y0 = torch.tensor([1.0, 0.5], dtype=torch.float64)

        def field(t: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
            return torch.stack([y[1] * (1 + t), -y[0] * (1 + t)])

        ys = solve(field, y0, t, solver=name, controller=FixedStep(1.0 / n)).ys
        angle = t + t**2 / 2
        exact = torch.stack([y0[0] * angle.cos() + y0[1] * angle.sin(), y0[1] * angle.cos() - y0[0] * angle.sin()], -1)
        errors.append(float(measure(ys, exact)))
    return errors


@pytest.mark.parametrize("name", ALL_SOLVERS)
def test_the_end_state_converges_with_the_method_order(name: str) -> None:
    coarse, fine = errors_of_halved_steps(name, lambda ys, exact: (ys[-1] - exact[-1]).norm())
    assert coarse / fine > 2 ** (tableaus.by_name(name).order - 0.6)


@pytest.mark.parametrize(
    ("name", "order"),
    [("euler", 1), ("midpoint", 2), ("heun3", 3), ("rk4", 3), ("bosh3", 3), ("dopri5", 4), ("tsit5", 4), ("dopri8", 6)],
)
def test_interpolated_outputs_converge_with_the_order_of_the_dense_output(name: str, order: int) -> None:
    coarse, fine = errors_of_halved_steps(name, lambda ys, exact: (ys[1:-1] - exact[1:-1]).norm())
    assert coarse / fine > 2 ** (order - 0.6)


def test_dense_weights_of_dopri5_meet_both_ends_smoothly() -> None:
    assert DOPRI5.dense_weights(0.0) == (0.0,) * 7
    assert DOPRI5.dense_weights(1.0) == pytest.approx(DOPRI5.b, abs=1e-14)
    assert DOPRI5.dense_slopes(0.0) == pytest.approx((1.0, 0, 0, 0, 0, 0, 0), abs=1e-14)
    assert DOPRI5.dense_slopes(1.0) == pytest.approx((0, 0, 0, 0, 0, 0, 1.0), abs=1e-12)
