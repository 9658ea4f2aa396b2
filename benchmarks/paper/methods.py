"""The gradients that are compared, and what each of them must hold: the arithmetic that measured slopes are judged by.

S is a state in bytes, L the graph of one use of the field (its state included), s the stages of the solver. A stack of
M blocks of N steps must hold, beside what depends on neither,

    M (k + 1) S + g L

where k counts the states that a block keeps, its first one among them, and g the graphs that are alive at once. One
state more is a block's result, since `solve` returns the states at the start and the end.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from symadj_core import gradients
from symadj_core.gradients import GradientMethod

__all__ = ["PLACES", "Method", "methods"]

# States that `binomial` holds, and that the budget has room for beside the first.
PLACES = 8

# (steps, stages) -> a number.
Count = Callable[[int, int], int]


@dataclass(frozen=True)
class Method:
    """A gradient and its arithmetic.

    Attributes:
        label: in tables.
        gradient: the method.
        states: (N, s) -> k, states kept by a block.
        graphs: (N, s) -> graphs of one use of the field that are alive at once.
        every_block: whether the graphs of all blocks are alive at once.
    """

    label: str
    gradient: GradientMethod
    states: Count
    graphs: Count
    every_block: bool = False

    def bytes(self, *, steps: int, blocks: int, stages: int, state: int, graph: int) -> int:
        """Bytes that depend on the number of steps or of blocks, for a state and a graph of so many bytes."""
        alive = self.graphs(steps, stages) * (blocks if self.every_block else 1)
        return blocks * (self.states(steps, stages) + 1) * state + alive * graph


def _none(_steps: int, _stages: int) -> int:
    return 0


def _one(_steps: int, _stages: int) -> int:
    return 1


def _steps(steps: int, _stages: int) -> int:
    return steps


def _stages(_steps: int, stages: int) -> int:
    return stages


def _uses(steps: int, stages: int) -> int:
    return steps * stages


def methods(state: int) -> list[Method]:
    """Return every gradient and every policy of what to keep, those that need most memory first.

    Args:
        state: bytes of a state, of which the budget holds `PLACES`.
    """

    def symplectic(keep: str, states: Count) -> Method:
        label = "symplectic, keep " + keep.partition("(")[0]
        return Method(label, gradients.by_name("symplectic", keep=keep), states, _one)

    return [
        Method("backprop", gradients.by_name("backprop"), _none, _uses, every_block=True),
        Method("onecheckpoint", gradients.by_name("onecheckpoint"), _one, _uses),
        Method("aca", gradients.by_name("aca"), _steps, _stages),
        symplectic("stages", _uses),
        symplectic("steps", _steps),
        symplectic(f"budget({PLACES * state})", lambda steps, _: min(steps, PLACES + 1)),
        symplectic(f"binomial({PLACES})", lambda steps, _: min(steps, PLACES)),
        Method("adjoint", gradients.by_name("adjoint"), _one, _one),
    ]
