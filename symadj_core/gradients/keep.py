"""Which states of a forward solve are kept for the symplectic sweep, and how the others are computed again.

From most memory to least:

    stages        every stage state: nothing is computed again
    budget(b)     stage states while b bytes hold them, then fewer, then states only, then as binomial
    steps         the state at the start of every step: its stage states are computed again
    binomial(k)   at most k states: the others are computed again from the last one before them

The number of steps is not known in advance. While the solve goes, binomial keeps every 2^j-th state and doubles the
stride when k are held; in backward the number is known, and freed places are used by Griewank and Walther's optimal
schedule (ACM TOMS 26 (2000) 19, "revolve").
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, fields
from math import comb
from typing import ClassVar

from torch import Tensor

from symadj_core.registry import Classes
from symadj_core.solvers.step import Wanted, take_step
from symadj_core.solvers.system import System
from symadj_core.solvers.tableaus import ButcherTableau
from symadj_core.solvers.timeloop import SolverStep


class Recorder(ABC):
    """Keeps tensors of accepted steps as the solve goes.

    Attributes:
        kept: for each accepted step all its stage states, or its first one alone, or nothing.
        slots: how many states may be held at once in backward; None where no state will be missing.
    """

    def __init__(self) -> None:
        self.kept: list[tuple[Tensor, ...]] = []
        self.slots: int | None = None

    @abstractmethod
    def add(self, states: Sequence[Tensor]) -> None:
        """Keep what is wanted of the next accepted step's stage states."""


class Keep(ABC):
    """A policy of what to keep."""

    name: ClassVar[str]

    @abstractmethod
    def recorder(self) -> Recorder:
        """A recorder for one solve."""


@dataclass(frozen=True)
class Stages(Keep):
    """Every stage state of every step."""

    name: ClassVar[str] = "stages"

    def recorder(self) -> Recorder:
        return _KeepFirst(None)


@dataclass(frozen=True)
class Steps(Keep):
    """The state at the start of every step."""

    name: ClassVar[str] = "steps"

    def recorder(self) -> Recorder:
        return _KeepFirst(1)


@dataclass(frozen=True)
class Nothing(Keep):
    """No state at all."""

    def recorder(self) -> Recorder:
        return _KeepFirst(0)


@dataclass(frozen=True)
class FirstStep(Keep):
    """The state at the start of the solve alone."""

    def recorder(self) -> Recorder:
        return _KeepStart()


@dataclass(frozen=True)
class Binomial(Keep):
    """At most so many states (at least 2), y0 among them."""

    states: int
    name: ClassVar[str] = "binomial"

    def __post_init__(self) -> None:
        if self.states < 2:
            raise ValueError(f"binomial needs at least 2 states, not {self.states}")

    def recorder(self) -> Recorder:
        return _KeepStrided(self.states)


@dataclass(frozen=True)
class Budget(Keep):
    """As many states as `size` bytes hold, those that save most recomputation; y0, the caller's own, does not count.

    If not even two states fit, two are kept nevertheless.
    """

    size: int
    name: ClassVar[str] = "budget"

    def __post_init__(self) -> None:
        if self.size < 0:
            raise ValueError(f"a budget must not be negative: {self.size}")

    def recorder(self) -> Recorder:
        return _KeepWithin(self.size)


KEEPS: Classes[Keep] = Classes("keep", {kind.name: kind for kind in (Stages, Steps, Binomial, Budget)})


def parse(text: str) -> Keep:
    """The policy named "stages", "steps", "binomial(8)" or "budget(1000000)" (bytes).

    Raises:
        ValueError: anything else.
    """
    match = re.fullmatch(r"(\w+)(?:\((\d+)\))?", text)
    kind = None if match is None else KEEPS.get(match[1])
    # The brackets hold the policy's fields, in their order.
    if match is None or kind is None or (match[2] is None) != (not fields(kind)):  # type: ignore[arg-type]
        forms = (f"{name}({', '.join(f.name for f in fields(kind))})" for name, kind in KEEPS.items())  # type: ignore[arg-type]
        raise ValueError(f"keep must be {', '.join(form.removesuffix('()') for form in forms)}, not {text!r}")
    return kind() if match[2] is None else kind(int(match[2]))  # type: ignore[call-arg]


class _KeepFirst(Recorder):
    def __init__(self, count: int | None) -> None:
        super().__init__()
        self._count = count

    def add(self, states: Sequence[Tensor]) -> None:
        self.kept.append(tuple(states[: self._count]))


class _KeepStart(Recorder):
    def add(self, states: Sequence[Tensor]) -> None:
        self.kept.append(() if self.kept else (states[0],))


class _KeepStrided(Recorder):
    def __init__(self, slots: int) -> None:
        super().__init__()
        self.slots = slots
        self._stride = 1

    def add(self, states: Sequence[Tensor]) -> None:
        if len(self.kept) % self._stride == 0:
            held = len(self.kept) // self._stride
            if held == self.slots:
                self._stride *= 2
                self.kept = [k if n % self._stride == 0 else () for n, k in enumerate(self.kept)]
        self.kept.append((states[0],) if len(self.kept) % self._stride == 0 else ())


class _KeepWithin(Recorder):
    def __init__(self, size: int) -> None:
        super().__init__()
        self._left = size
        self._full: list[int] = []
        self._strided: _KeepStrided | None = None

    def add(self, states: Sequence[Tensor]) -> None:
        if self._strided is not None:
            self._strided.add(states)
            self.kept = self._strided.kept
            return
        position, state = len(self.kept), states[0].nbytes
        cost = sum(x.nbytes for x in states) - (state if position == 0 else 0)
        if cost <= self._left:
            self.kept.append(tuple(states))
            self._full.append(position)
            self._left -= cost
            return
        # Stage states of earlier steps are dropped; of which step does not matter, since each saves the same work.
        while self._left < state and self._full:
            victim = self._full.pop()
            self._left += sum(x.nbytes for x in self.kept[victim][1:])
            self.kept[victim] = self.kept[victim][:1]
        if self._left >= state:
            self.kept.append((states[0],))
            self._left -= state
            return
        self._strided = _KeepStrided(max(2, len(self.kept)))
        for kept in self.kept:
            self._strided.add(kept)
        self.slots = self._strided.slots
        self.add(states)


class Restorer:
    """Finds the states at the starts of steps, from the last step to the first.

    Args:
        system, tableau, records: the solve.
        kept: what the recorder kept.
        slots: how many states may be held at once.
    """

    def __init__(
        self,
        system: System,
        tableau: ButcherTableau,
        records: Sequence[SolverStep],
        kept: Sequence[Sequence[Tensor]],
        slots: int,
    ) -> None:
        self._system, self._tableau, self._records = system, tableau, records
        self._held = [(n, states[0]) for n, states in enumerate(kept) if states]
        self._slots = slots

    def state(self, n: int) -> Tensor:
        """The state at the start of step n. Steps must be asked for in descending order."""
        while self._held[-1][0] > n:
            self._held.pop()
        while True:
            base, y = self._held[-1]
            if base == n:
                return y
            free = self._slots - len(self._held)
            if free < 1:
                return self._advanced(y, base, n)
            middle = base + split_point(n - base + 1, free)
            self._held.append((middle, self._advanced(y, base, middle)))

    def _advanced(self, y: Tensor, start: int, end: int) -> Tensor:
        for record in self._records[start:end]:
            y = take_step(self._system, self._tableau, record.interval(), y, None, None, Wanted(), record.random).y
        return y


def split_point(steps: int, free: int) -> int:
    """How far to advance before the next checkpoint, so that reversing `steps` >= 2 steps takes the fewest.

    With `free` >= 1 places beside the one at the start, comb(free + 1 + r, r) steps can be reversed with none taken
    more than r times before its own reversal; both parts are kept within such a number (Griewank and Walther 2000).
    """

    def reach(places: int, repeats: int) -> int:
        return comb(places + repeats, places) if repeats >= 0 else 0

    places, repeats = free + 1, 1
    while reach(places, repeats) < steps:
        repeats += 1
    return max(1, min(reach(places, repeats - 1), steps - reach(places - 1, repeats - 1)))
