"""What is noted of a step that is rehearsed, and operations that are computed once.

A rehearsal repeats the same few operations a thousand times, and wants to know of their results only how large they
are. So a product of matrices, a convolution, or whatever touches many numbers, is computed the first time. Each later
time, on arguments of the same shapes, its results are of the known shapes, and hold some numbers that are not theirs.

So is a whole use of a field, of some fifty operations, which leaves no graph behind: without a gradient, or with its
graph and the pass backward through that. What was noted of the first one is noted again for every other on arguments of
the same shapes.
"""

from __future__ import annotations

import copy
import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor
from torch.utils._python_dispatch import _disable_current_modes
from torch.utils._pytree import tree_flatten, tree_unflatten
from torch.utils.flop_counter import flop_registry

from symadj_core.flows import Block
from symadj_core.flows.block import Carried, Integrals
from symadj_core.gradients import GradientMethod
from symadj_core.gradients.base import Cotangents, InputGradients, Replay, ReplayMethod
from symadj_core.gradients.pullback import Pullback, StagePullback
from symadj_core.memory import LiveTensorMeter, tensors_in
from symadj_core.solvers.moving import Moving
from symadj_core.solvers.problem import Problem
from symadj_core.solvers.system import Quadrature, Slope, System
from symadj_core.solvers.timeloop import Outputs

__all__ = ["BackwardReachedError", "Known", "LearntRows", "PartName", "RehearsalMeter", "Take"]

PartName = Literal["probes", "forward", "backward"]

# Bytes of an operation's arguments from which on it takes longer than to look up what it returns.
_LARGE = 2**17

# What they return holds anything until it is written to, which may be left out.
_EMPTY = {
    torch.ops.aten.empty,
    torch.ops.aten.empty_like,
    torch.ops.aten.empty_strided,
    torch.ops.aten.new_empty,
    torch.ops.aten.new_empty_strided,
}

# Of one core, for the time of a step relative to another one's.
_FLOPS_PER_SECOND = 70e9
# An element-wise operation writes its result, and reads as much.
_SECONDS_PER_BYTE = 2 / 12e9
_SECONDS_PER_OPERATION = 4e-6


@dataclass(frozen=True)
class Take:
    """What a meter has noted.

    Attributes:
        moments: n where the n-th tensor was made, -1 - n where it was freed.
        marks: name and block of every part, and the number of moments before it.
        passed: of each block, the number of moments before the end of its pass forward.
        sizes: bytes of the tensors.
        kept_bytes: of states that were kept for the pass backward.
        makers: the operations that made the tensors, by their `id`, which is hashed faster.
        times: all operations, likewise, and the seconds that each would take.
    """

    moments: list[int]
    marks: list[tuple[PartName, int, int]]
    passed: list[int]
    sizes: list[int]
    kept_bytes: int
    makers: list[int]
    times: list[tuple[int, float]]

    @property
    def seconds(self) -> float:
        """The time that the step would take."""
        return sum(seconds for _, seconds in self.times) + len(self.times) * _SECONDS_PER_OPERATION

    @property
    def until_backward(self) -> Take:
        """What was noted before the pass backward through the last block."""
        begin = next(number for name, _, number in self.marks if name == "backward")
        marks = [mark for mark in self.marks if mark[0] != "backward"]
        return replace(self, moments=self.moments[:begin], marks=marks)


class LearntRows:
    """What becomes of a rehearsal on few rows if there are more of them, learnt from those that were made on both.

    Rehearsals of one flow are of the same operations, on tensors of the same sizes: what an operation made so large on
    few rows, it makes as large on many as it did before. What works number by number makes tensors as large as those
    that it is given: so an operation of that kind makes, the first time that it is seen, what all others made of that
    size.

    Args:
        operations: that are rehearsed, by their `id`.
    """

    def __init__(self, operations: Mapping[int, Operation]) -> None:
        self._operations = operations
        self._sizes: dict[tuple[int, int], int | None] = {}
        self._seconds: dict[tuple[int, float], float | None] = {}
        # By the size on few rows alone.
        self._by_size: dict[int, int | None] = {0: 0}

    def fixed(self, size: int) -> None:
        """Learn that a tensor of this size is there before, whatever the rows are."""
        _note(self._by_size, size, size)

    def learn(self, few: Take, many: Take) -> None:
        """Learn from two rehearsals of the same."""
        for maker, low, high in zip(few.makers, few.sizes, many.sizes, strict=True):
            _note(self._sizes, (maker, low), high)
            _note(self._by_size, low, high)
        for of_few, (_, high_seconds) in zip(few.times, many.times, strict=True):
            _note(self._seconds, of_few, high_seconds)

    def many(self, few: Take) -> Take | None:
        """What a rehearsal on many rows would note; None where that is not known."""
        for maker, low in set(zip(few.makers, few.sizes, strict=True)) - self._sizes.keys():
            size = self._by_size.get(low)
            if size is not None and self._operations[maker].pointwise:
                self._sizes[maker, low] = size
        for maker, taken in set(few.times) - self._seconds.keys():
            size = self._by_size.get(round(taken / _SECONDS_PER_BYTE))
            if size is not None and self._operations[maker].flops is None:
                self._seconds[maker, taken] = size * _SECONDS_PER_BYTE
        sizes = [self._sizes.get(made) for made in zip(few.makers, few.sizes, strict=True)]
        seconds = [self._seconds.get(taken) for taken in few.times]
        known_sizes = [size for size in sizes if size is not None]
        times = [(maker, high) for (maker, _), high in zip(few.times, seconds, strict=True) if high is not None]
        if len(known_sizes) < len(sizes) or len(times) < len(seconds):
            return None
        return replace(few, sizes=known_sizes, times=times)


def _note(known: dict[Any, Any], key: object, value: object) -> None:
    """Note what a key stands for; None once it has stood for two things."""
    if known.setdefault(key, value) != value:
        known[key] = None


class _Layout(NamedTuple):
    """How a tensor lies in a storage of its own, from its first number on."""

    shape: tuple[int, ...]
    stride: tuple[int, ...]
    dtype: torch.dtype
    bytes: int

    @classmethod
    def of(cls, x: Tensor) -> _Layout:
        return cls(x.shape, x.stride(), x.dtype, x.untyped_storage().nbytes())


class _Result(NamedTuple):
    """What is known of an operation on arguments of certain shapes.

    Attributes:
        seconds: that it would take.
        layouts: of its results; None: it must be computed each time.
        many: whether it returns a tuple, not a tensor.
    """

    seconds: float
    layouts: tuple[_Layout | None, ...] | None
    many: bool


class Operation(NamedTuple):
    """What of an operation does not depend on its arguments.

    Attributes:
        flops: its floating-point operations by its arguments and its result, where torch knows them.
        in_place: it returns its first argument, written to (what torch's names with a _ behind say).
        writes: it writes to an argument.
        empty: what it returns holds anything until it is written to, which may be left out.
        pointwise: it works number by number, and so what it returns is as large as what it is given.
    """

    flops: Callable[..., int] | None
    in_place: bool
    writes: bool
    empty: bool
    pointwise: bool

    @classmethod
    def of(cls, func: Any) -> Operation:
        packet, schema = func._overloadpacket, func._schema
        return cls(
            flop_registry.get(packet),
            schema.name.endswith("_"),
            schema.is_mutable,
            packet in _EMPTY,
            torch.Tag.pointwise in func.tags,
        )


class KnownResults:
    """Results of operations by the shapes of their arguments.

    Attributes:
        operations: that there have been, by their `id`.
    """

    def __init__(self, numbers: _Numbers) -> None:
        self.operations: dict[int, Operation] = {}
        self._results: dict[tuple[object, ...], _Result] = {}
        self._numbers = numbers

    def of(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, float]:
        """What the operation returns, and the seconds that it would take."""
        operation = self.operations.get(id(func))
        if operation is None:
            operation = self.operations[id(func)] = Operation.of(func)
        if operation.writes:
            if operation.in_place and args[0].untyped_storage().nbytes() >= _LARGE:
                # Written to, it would hold other numbers for all that share its memory.
                return args[0], _seconds(args[0])
        elif operation.flops is not None or _bytes(args) >= _LARGE:
            return self._known(func, args, kwargs, operation.flops)
        result = func(*args, **kwargs)
        if operation.empty and result.is_floating_point():
            result = self._numbers.tensor(_Layout.of(result))
        return result, _seconds(result)

    def _known(
        self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], count: Callable[..., int] | None
    ) -> tuple[Any, float]:
        key = (id(func), *_described(args), *_described(kwargs.items())) if kwargs else (id(func), *_described(args))
        known = self._results.get(key)
        if known is not None and known.layouts is not None:
            made = tuple(None if layout is None else self._numbers.tensor(layout) for layout in known.layouts)
            return made if known.many else made[0], known.seconds
        result = func(*args, **kwargs)
        if known is not None:
            return result, known.seconds
        seconds = _seconds(result)
        if count is not None:
            seconds += count(*args, **kwargs, out_val=result) / _FLOPS_PER_SECOND
        self._results[key] = _Result(seconds, _layouts(func, args, result), not isinstance(result, Tensor))
        return result, seconds


class _Numbers:
    """Tensors that hold any numbers. The storages of large ones are all the same memory."""

    def __init__(self) -> None:
        self._memory: dict[torch.dtype, bytearray] = {}

    def tensor(self, layout: _Layout) -> Tensor:
        """A tensor that lies so."""
        shape, stride, dtype, size = layout
        if size == 0:
            return torch.empty_strided(shape, stride, dtype=dtype)
        memory = self._memory.get(dtype, bytearray())
        if len(memory) < size:
            # Another one: what a storage lies in can't be made longer.
            memory = self._memory[dtype] = bytearray(max(size, _LARGE))
            # No zeros, by which a field might divide, nor one number alone, whose variance is zero; and drawn by a
            # generator of their own, since a solve looks whether its field draws.
            torch.frombuffer(memory, dtype=dtype).uniform_(0.25, 0.75, generator=torch.Generator())
        numbers = torch.frombuffer(memory, dtype=dtype, count=size // dtype.itemsize)
        if size < _LARGE:
            numbers = numbers.clone()
        return numbers.as_strided(shape, stride)


def _layouts(func: Any, args: tuple[Any, ...], result: Any) -> tuple[_Layout | None, ...] | None:
    """The layouts of what an operation returned; None where its numbers count, or its results are no new tensors."""
    results = (result,) if isinstance(result, Tensor) else tuple(result)
    if torch.Tag.nondeterministic_seeded in func.tags:
        # Whether a field draws random numbers is seen by the state of the generator.
        return None
    if not all(x is None or (isinstance(x, Tensor) and x.is_floating_point()) for x in results):
        return None
    if any(x is not None and x.layout is not torch.strided for x in results):
        return None
    given = {x.untyped_storage()._cdata for x in tensors_in(args)}
    own = [x.untyped_storage()._cdata for x in results if x is not None]
    if given.intersection(own) or len(set(own)) < len(own):
        return None
    return tuple(None if x is None else _Layout.of(x) for x in results)


def _described(values: Iterable[Any]) -> list[object]:
    """What of an operation's arguments its results' shapes depend on."""
    found: list[object] = []
    for value in values:
        if isinstance(value, Tensor):
            found += value.shape, value.stride(), value.dtype
        elif isinstance(value, list | tuple):
            found.append(tuple(_described(value)))
        elif isinstance(value, Moving):
            found += Moving, *_described((value.shift,))
        else:
            found.append(float if isinstance(value, float) else value)
    return found


def _bytes(values: Iterable[Any]) -> int:
    """The size of all tensors among an operation's arguments or results."""
    size = 0
    for x in tensors_in(values):
        size += x.nbytes
    return size


def _seconds(result: Any) -> float:
    """How long it takes to write a result, and to read as much."""
    return (result.nbytes if isinstance(result, Tensor) else _bytes((result,))) * _SECONDS_PER_BYTE


class _Place(NamedTuple):
    """Where a result lies: in the storage of one of a use's tensors, by its number, which has so many bytes."""

    number: int
    bytes: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]
    offset: int
    dtype: torch.dtype


class _Use(NamedTuple):
    """What was noted of a use of a field, as in `Take`, with its tensors numbered from 0; and what came of it.

    Attributes:
        results: in the order of a tree's leaves; what is no tensor, as it is.
        tree: in which they are returned.
        grads: of the weights; None where one had a gradient before, to which its own was added.
    """

    moments: list[int]
    sizes: list[int]
    makers: list[int]
    times: list[tuple[int, float]]
    results: list[Any]
    tree: Any
    grads: list[_Place | None]


class Known:
    """What is known of operations and of uses of fields, for as many rehearsals as share it."""

    def __init__(self) -> None:
        self.numbers = _Numbers()
        self.results = KnownResults(self.numbers)
        # By field, arguments, and what else decides; None: it must be computed each time.
        self.uses: dict[tuple[object, ...], _Use | None] = {}


@dataclass
class _Used:
    """What the uses of a block's field depend on, beside their arguments."""

    what: tuple[object, ...]


class BackwardReachedError(Exception):
    """As much of a step as was to be rehearsed has been."""


def _weakly(method: Any) -> Callable[..., Any]:
    """The method of an object that it does not keep alive: what the object holds is freed as if nobody watched it."""
    at = weakref.WeakMethod(method)

    def called(*arguments: Any, **options: Any) -> Any:
        found = at()
        assert found is not None
        return found(*arguments, **options)

    return called


class RehearsalMeter(LiveTensorMeter):  # type: ignore[no-untyped-call]
    """Notes when tensors are made and freed, and the time that the operations would take.

    Args:
        known: from rehearsals before, to which what is found out in this one is added.
        to_backward: raise `BackwardReachedError` where the pass backward through a block begins.
    """

    def __init__(self, known: Known, *, to_backward: bool = False) -> None:
        super().__init__()
        self._to_backward = to_backward
        self._known = known
        self._moments: list[int] = []
        self._marks: list[tuple[PartName, int, int]] = []
        self._blocks = 0
        self._passed: list[int] = []
        self._sizes: list[int] = []
        self._makers: list[int] = []
        self._times: list[tuple[int, float]] = []
        self._maker = 0
        # Of the storages that are alive.
        self._numbers: dict[int, int] = {}

    def watch(self, block: Block, number: int) -> None:
        """Note when the block's part begins, forward and backward, and take what is known of its field as known."""
        carry, quadrature, settings = block.carry, block._quadrature, block.settings
        # What its uses depend on beside their arguments: these, and what is integrated.
        fixed = block.field, str(settings.divergence), settings.field_dtype
        used = _Used(fixed)
        self._blocks += 1

        def watched(y: Tensor, *, integrals: Integrals | None = None, **options: Any) -> Carried:
            used.what = (*fixed, *(() if integrals is None else integrals.regularisers))
            self._mark("forward" if integrals is None else "probes", number)
            carried = carry(y, integrals=integrals, **options)
            self._passed.append(len(self._moments))
            if carried.states.requires_grad:
                carried.states.register_hook(lambda _: self._begin_backward(number))  # type: ignore[no-untyped-call]
            return carried

        def drawn(*arguments: Any) -> Quadrature:
            made = quadrature(*arguments)
            self._mark("forward", number)
            return made

        block.carry = watched  # type: ignore[method-assign]
        block._quadrature = drawn  # type: ignore[method-assign, assignment]
        block.settings = replace(settings, gradient=self._watched(settings.gradient, used))

    def take(self, kept_bytes: int) -> Take:
        """What was noted, beside the size of the states that were kept for the pass backward."""
        return Take([*self._moments], self._marks, self._passed, self._sizes, kept_bytes, self._makers, self._times)

    def _watched(self, method: GradientMethod, used: _Used) -> GradientMethod:
        """The method, whose uses of this field are known ones where they can be."""
        twin, kind = copy.copy(method), type(method)

        def integrate(problem: Problem, outputs: Outputs) -> tuple[Tensor, Tensor | None]:
            self._watch_system(problem.system, used)
            return kind.integrate(twin, problem, outputs)

        object.__setattr__(twin, "integrate", integrate)
        if isinstance(twin, ReplayMethod):

            def sweep(replay: Replay, cotangents: Cotangents, pullback: Pullback) -> InputGradients:
                self._watch_pullback(pullback, used)
                gradients: InputGradients = kind.sweep(twin, replay, cotangents, pullback)  # type: ignore[attr-defined]
                return gradients

            object.__setattr__(twin, "sweep", sweep)
        return twin

    def _watch_system(self, system: System, used: _Used) -> None:
        evaluate = _weakly(system._evaluate)

        def evaluated(*arguments: Any) -> Slope:
            if torch.is_grad_enabled():
                slope: Slope = evaluate(*arguments)
            else:
                slope = self._used((*used.what, "slope"), evaluate, arguments)
            return slope

        system._evaluate = evaluated  # type: ignore[method-assign, assignment]

    def _watch_pullback(self, pullback: Pullback, used: _Used) -> None:
        through_stage, products = _weakly(pullback.through_stage), _weakly(pullback.products)
        leaves = pullback.leaves

        def pulled(system: System, *arguments: Any, **options: Any) -> StagePullback:
            use = partial(through_stage, system, **options)
            if options.get("random") is not None:
                stage: StagePullback = use(*arguments)
            else:
                stage = self._used((*used.what, "stage", *options.items()), use, arguments, leaves)
            return stage

        def multiplied(system: System, *arguments: Any) -> tuple[Tensor, Sequence[Tensor | None]]:
            found: tuple[Tensor, Sequence[Tensor | None]] = self._used(
                (*used.what, "products"), partial(products, system), arguments
            )
            return found

        pullback.through_stage = pulled  # type: ignore[method-assign]
        pullback.products = multiplied  # type: ignore[method-assign, assignment]

    def _used(
        self,
        what: tuple[object, ...],
        use: Callable[..., Any],
        arguments: tuple[Any, ...],
        leaves: Sequence[Tensor] = (),
    ) -> Any:
        """What a use of a field returns, computed, or known from one before it.

        Args:
            what: which use it is.
            use: computes it.
            arguments: that it takes.
            leaves: to whose `.grad` it adds.
        """
        missing = [leaf.grad is None for leaf in leaves]
        key = (*what, *_described(arguments), *missing)
        known = self._known.uses.get(key)
        if known is not None:
            return self._repeated(known, leaves)
        if key in self._known.uses:
            return use(*arguments)
        before, tensors, operations = len(self._moments), len(self._sizes), len(self._times)
        with _disable_current_modes():
            generator = torch.get_rng_state()
        result = use(*arguments)
        found = None
        with _disable_current_modes():
            draws = not torch.equal(generator, torch.get_rng_state())
        if not draws:
            grads = [leaf.grad if was else None for leaf, was in zip(leaves, missing, strict=True)]
            found = self._noted(before, tensors, operations, result, grads)
        self._known.uses[key] = found
        return result

    def _noted(
        self, before: int, tensors: int, operations: int, result: Any, grads: Sequence[Tensor | None]
    ) -> _Use | None:
        """What was noted since then of a use; None where it can't be repeated: it left more than its results behind,
        or wrote them to what was there before."""
        moments = [n - tensors if n >= 0 else n + tensors for n in self._moments[before:]]
        results, tree = tree_flatten(result)
        places = [self._place(x, tensors) if isinstance(x, Tensor) else x for x in results]
        of_grads = [None if x is None else self._place(x, tensors) for x in grads]
        made = [x for x in (*results, *grads) if isinstance(x, Tensor)]
        known = {x.number for x in (*places, *of_grads) if isinstance(x, _Place) and x.number >= 0}
        sizes = self._sizes[tensors:]
        left = {n for n in moments if n >= 0} - {-1 - n for n in moments if n < 0}
        lost = any(-1 - n < 0 for n in moments if n < 0)
        if lost or left != known or any(x.requires_grad or not x.is_floating_point() for x in made):
            return None
        if any(place.number < 0 for place in (*places, *of_grads) if isinstance(place, _Place)):
            return None
        return _Use(moments, sizes, self._makers[tensors:], self._times[operations:], places, tree, of_grads)

    def _begin_backward(self, number: int) -> None:
        if len(self._passed) < self._blocks:
            # A block that comes later takes its field's derivative with respect to this one's states.
            return
        if self._to_backward:
            raise BackwardReachedError
        self._mark("backward", number)

    def _mark(self, name: PartName, number: int) -> None:
        self._marks.append((name, number, len(self._moments)))

    def _result(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        result, seconds = self._known.results.of(func, args, kwargs)
        self._maker = id(func)
        self._times.append((self._maker, seconds))
        return result

    def _place(self, x: Tensor, tensors: int) -> _Place:
        """Where a tensor lies; its number is below 0 where its storage was there before so many tensors were."""
        storage = x.untyped_storage()
        number = self._numbers.get(storage._cdata, -1) - tensors
        return _Place(number, storage.nbytes(), x.shape, x.stride(), int(x.storage_offset()), x.dtype)

    def _repeated(self, use: _Use, leaves: Sequence[Tensor]) -> Any:
        """Note a use once more, and return what has the shapes of its results."""
        tensors = len(self._sizes)
        self._moments += [n + tensors if n >= 0 else n - tensors for n in use.moments]
        self._sizes += use.sizes
        self._makers += use.makers
        self._times += use.times
        made: dict[int, Tensor] = {}
        with _disable_current_modes():
            results = [self._made(x, tensors, made) if isinstance(x, _Place) else x for x in use.results]
            for leaf, place in zip(leaves, use.grads, strict=True):
                if place is not None:
                    leaf.grad = self._made(place, tensors, made)
        return tree_unflatten(results, use.tree)

    def _made(self, place: _Place, tensors: int, made: dict[int, Tensor]) -> Tensor:
        """A tensor at a place among those that a use has made, which holds any numbers."""
        if place.number not in made:
            count = place.bytes // place.dtype.itemsize
            whole = self._known.numbers.tensor(_Layout((count,), (1,), place.dtype, place.bytes))
            self._follow(whole.untyped_storage(), tensors + place.number)
            made[place.number] = whole
        return made[place.number].as_strided(place.shape, place.stride, place.offset)

    def _track(self, storage: torch.UntypedStorage, size: int) -> None:
        if size == 0:
            key = storage._cdata
            self._seen[key] = weakref.ref(storage, lambda _: self._seen.pop(key, None))
            return
        number = len(self._sizes)
        self._sizes.append(size)
        self._makers.append(self._maker)
        self._moments.append(number)
        self._follow(storage, number)

    def _follow(self, storage: torch.UntypedStorage, number: int) -> None:
        """Note when a tensor's storage is freed."""
        key = storage._cdata

        def freed(_: weakref.ref[torch.UntypedStorage]) -> None:
            self._seen.pop(key, None)
            self._numbers.pop(key, None)
            self._moments.append(-1 - number)

        self._numbers[key] = number
        self._seen[key] = weakref.ref(storage, freed)
