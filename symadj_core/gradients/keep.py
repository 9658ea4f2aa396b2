"""Which states of a forward solve are kept for the symplectic sweep, and how the others are computed again.

From most memory to least:

    stages        every stage state: nothing is computed again
    budget(b)     stage states while b bytes hold them, then fewer, then states only, then as binomial
    steps         the state at the start of every step: its stage states are computed again
    binomial(k)   at most k states: the others are computed again from the last one before them

Where the number of steps is known before the solve, binomial keeps the states of the optimal schedule, "revolve" (A.
Griewank and A. Walther, Algorithm 799, ACM TOMS 26 (2000) 19). Where it is not, as in an adaptive solve, which states
stay is decided as the solve goes, such that few steps will be repeated often (Q. Wang, P. Moin and G. Iaccarino,
Minimal repetition dynamic checkpointing, SIAM J. Sci. Comput. 31 (2009) 2549). In backward the number is known, and
every place that becomes free serves revolve on the gap before it.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, fields
from math import comb, inf
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
        slots: how many states may be held at once in backward; None where no state will be missing. Where it is a
            number, first states alone are kept.
    """

    def __init__(self) -> None:
        self.kept: list[tuple[Tensor, ...]] = []
        self.slots: int | None = None

    def expect(self, steps: int) -> None:  # noqa: B027
        """Told before the first step how many there will be, if that is known."""

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
    """At most so many states (at least 2), y0 among them; the state that is being computed does not count."""

    states: int
    name: ClassVar[str] = "binomial"

    def __post_init__(self) -> None:
        if self.states < 2:
            raise ValueError(f"binomial needs at least 2 states, not {self.states}")

    def recorder(self) -> Recorder:
        return _KeepBinomial(self.states)


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


class _KeepBinomial(Recorder):
    def __init__(self, slots: int) -> None:
        super().__init__()
        self.slots: int = slots
        self._plan: _Plan = _Online(slots)

    def expect(self, steps: int) -> None:
        self._plan = _Offline(self.slots, steps)

    def add(self, states: Sequence[Tensor]) -> None:
        n = len(self.kept)
        wanted, dropped = self._plan.next(n)
        # A tensor of its own, on the same memory: backward takes that away from it alone (see `Restorer`).
        self.kept.append((states[0] if n == 0 else states[0].detach(),) if wanted else ())
        if dropped is not None:
            self.kept[dropped] = ()


class _Plan(ABC):
    """Decides during the solve at which steps a state is kept."""

    @abstractmethod
    def next(self, n: int) -> tuple[bool, int | None]:
        """Whether to keep the state at the start of step n, and that of which step to drop for it."""


class _Offline(_Plan):
    """Griewank and Walther's optimum for a known number of steps."""

    def __init__(self, slots: int, steps: int) -> None:
        self._free, self._steps = slots, steps
        self._next = 0

    def next(self, n: int) -> tuple[bool, int | None]:
        if n != self._next:
            return False, None
        self._free -= 1
        left = self._steps - n
        if self._free > 0 and left > 1:
            self._next = n + split_point(left, self._free)
        return True, None


class _Online(_Plan):
    """Wang, Moin and Iaccarino's dynamic checkpointing, which keeps the newest state always.

    A kept state has a level. One with a higher level after it can be spared: of these the last is dropped. If there is
    none, the newest is dropped, and the next gets the level above its. Level r is reached after
    C(slots - 1 + r, r) states.
    """

    def __init__(self, slots: int) -> None:
        self._slots = slots
        self._held: list[int] = []
        self._levels: list[float] = []
        # Place of the last state whose level was raised. Levels fall from there on, and did before it when it was
        # raised: a state that can be spared stands right before it.
        self._raised = 1

    def next(self, n: int) -> tuple[bool, int | None]:
        level: float = 0 if self._held else inf
        dropped = None
        if len(self._held) == self._slots:
            if self._levels[self._raised - 1] < self._levels[self._raised]:
                self._raised -= 1
                place = self._raised
            else:
                self._raised = place = self._slots - 1
                level = self._levels[place] + 1
            dropped = self._held.pop(place)
            del self._levels[place]
        self._held.append(n)
        self._levels.append(level)
        return True, dropped


class _KeepWithin(Recorder):
    def __init__(self, size: int) -> None:
        super().__init__()
        self._left = size
        self._full: list[int] = []
        self._steps = 0
        self._binomial: _KeepBinomial | None = None

    def expect(self, steps: int) -> None:
        self._steps = steps

    def add(self, states: Sequence[Tensor]) -> None:
        if self._binomial is not None:
            self._binomial.add(states)
            self.kept = self._binomial.kept
            return
        position, state = len(self.kept), states[0].nbytes
        if (self._steps - 1) * state > self._left and position == 0:
            # It is known already that not every step's state will fit.
            self._begin_binomial(1 + self._left // state).expect(self._steps)
            self.add(states)
            return
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
        binomial = self._begin_binomial(len(self.kept))
        for kept in self.kept:
            binomial.add(kept)
        self.add(states)

    def _begin_binomial(self, states: int) -> _KeepBinomial:
        self._binomial = _KeepBinomial(max(2, states))
        self.slots = self._binomial.slots
        return self._binomial


class Restorer:
    """Finds the states at the starts of steps, from the last step to the first.

    Args:
        system, tableau, records: the solve.
        kept: what the recorder kept.
        slots: how many states may be held at once.
        disposable: no later backward will need what was kept. A state that the sweep is past is then freed, although
            autograd holds its tensor until the sweep is over; otherwise up to slots - 1 states come on top.
    """

    def __init__(
        self,
        system: System,
        tableau: ButcherTableau,
        records: Sequence[SolverStep],
        kept: Sequence[Sequence[Tensor]],
        slots: int,
        disposable: bool,
    ) -> None:
        self._system, self._tableau, self._records = system, tableau, records
        self._held = [(n, states[0]) for n, states in enumerate(kept) if states]
        self._slots, self._disposable = slots, disposable

    def state(self, n: int) -> Tensor:
        """The state at the start of step n. Steps must be asked for in descending order."""
        while self._held[-1][0] > n:
            _, passed = self._held.pop()
            if self._disposable:
                passed.data = passed.new_empty(0)
        while True:
            base, y = self._held[-1]
            # The field may keep what it is given: it never gets the tensor that will be emptied.
            y = y.detach()
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

    places, repeats = free + 1, 1
    while comb(places + repeats, repeats) < steps:
        repeats += 1
    return max(1, min(comb(places + repeats - 1, places), steps - comb(places + repeats - 2, places - 1)))
