"""What is noted of a step that is rehearsed, and operations that are computed once.

A rehearsal repeats the same few operations a thousand times, and wants to know of their results only how large they
are. So a product of matrices, a convolution, or whatever touches many numbers, is computed the first time. Each later
time, on arguments of the same shapes, its results are of the known shapes, and hold some numbers that are not theirs.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor
from torch.utils.flop_counter import flop_registry

from symadj_core.flows import Block
from symadj_core.flows.block import Carried, Integrals
from symadj_core.memory import LiveTensorMeter, tensors_in
from symadj_core.solvers.system import Quadrature

__all__ = ["KnownResults", "LearntRows", "PartName", "RehearsalMeter", "Take"]

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

# Of one core, for the time of a step relative to another one's (bytes and operations of an element-wise operation).
_FLOPS_PER_SECOND = 70e9
_BYTES_PER_SECOND = 12e9
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
        makers: the operations that made the tensors.
        times: all operations, and the seconds that each would take.
    """

    moments: list[int]
    marks: list[tuple[PartName, int, int]]
    passed: list[int]
    sizes: list[int]
    kept_bytes: int
    makers: list[Any]
    times: list[tuple[Any, float]]

    @property
    def seconds(self) -> float:
        """The time that the step would take."""
        return sum(seconds for _, seconds in self.times) + len(self.times) * _SECONDS_PER_OPERATION


class LearntRows:
    """What becomes of a rehearsal on few rows if there are more of them, learnt from those that were made on both.

    Rehearsals of one flow are of the same operations, on tensors of the same sizes: what an operation made so large on
    few rows, it makes as large on many as it did before.
    """

    def __init__(self) -> None:
        self._sizes: dict[tuple[Any, int], int | None] = {}
        self._seconds: dict[tuple[Any, float], float | None] = {}

    def learn(self, few: Take, many: Take) -> None:
        """Learn from two rehearsals of the same."""
        for maker, low, high in zip(few.makers, few.sizes, many.sizes, strict=True):
            _note(self._sizes, (maker, low), high)
        for of_few, (_, high_seconds) in zip(few.times, many.times, strict=True):
            _note(self._seconds, of_few, high_seconds)

    def many(self, few: Take) -> Take | None:
        """What a rehearsal on many rows would note; None where that is not known."""
        sizes = [self._sizes.get(made) for made in zip(few.makers, few.sizes, strict=True)]
        seconds = [self._seconds.get(taken) for taken in few.times]
        known_sizes = [size for size in sizes if size is not None]
        times = [(maker, taken) for (maker, _), taken in zip(few.times, seconds, strict=True) if taken is not None]
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


class _Operation(NamedTuple):
    """What of an operation does not depend on its arguments.

    Attributes:
        flops: its floating-point operations by its arguments and its result, where torch knows them.
        in_place: it returns its first argument, written to (what torch's names with a _ behind say).
        writes: it writes to an argument.
        empty: what it returns holds anything until it is written to, which may be left out.
    """

    flops: Callable[..., int] | None
    in_place: bool
    writes: bool
    empty: bool

    @classmethod
    def of(cls, func: Any) -> _Operation:
        packet, schema = func._overloadpacket, func._schema
        return cls(flop_registry.get(packet), schema.name.endswith("_"), schema.is_mutable, packet in _EMPTY)


class KnownResults:
    """Results of operations by the shapes of their arguments, for as many rehearsals as use it."""

    def __init__(self) -> None:
        self._operations: dict[Any, _Operation] = {}
        self._results: dict[tuple[object, ...], _Result] = {}
        self._numbers = _Numbers()

    def of(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, float]:
        """What the operation returns, and the seconds that it would take."""
        operation = self._operations.get(func)
        if operation is None:
            operation = self._operations[func] = _Operation.of(func)
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
        key = (func, *_described(args), *_described(kwargs.items())) if kwargs else (func, *_described(args))
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
    return 2 * (result.nbytes if isinstance(result, Tensor) else _bytes((result,))) / _BYTES_PER_SECOND


class RehearsalMeter(LiveTensorMeter):  # type: ignore[no-untyped-call]
    """Notes when tensors are made and freed, and the time that the operations would take.

    Args:
        known: results of operations, to which those of this rehearsal are added.
    """

    def __init__(self, known: KnownResults) -> None:
        super().__init__()
        self._known = known
        self._moments: list[int] = []
        self._marks: list[tuple[PartName, int, int]] = []
        self._passed: list[int] = []
        self._sizes: list[int] = []
        self._makers: list[Any] = []
        self._times: list[tuple[Any, float]] = []
        self._maker: Any = None

    def watch(self, block: Block, number: int) -> None:
        """Note when the block's part begins, forward and backward."""
        carry, quadrature = block.carry, block._quadrature

        def watched(y: Tensor, *, integrals: Integrals | None = None, **options: Any) -> Carried:
            self._mark("forward" if integrals is None else "probes", number)
            carried = carry(y, integrals=integrals, **options)
            self._passed.append(len(self._moments))
            if carried.states.requires_grad:
                carried.states.register_hook(lambda _: self._mark("backward", number))  # type: ignore[no-untyped-call]
            return carried

        def drawn(*arguments: Any) -> Quadrature:
            made = quadrature(*arguments)
            self._mark("forward", number)
            return made

        block.carry = watched  # type: ignore[method-assign]
        block._quadrature = drawn  # type: ignore[method-assign, assignment]

    def take(self, kept_bytes: int) -> Take:
        """What was noted, beside the size of the states that were kept for the pass backward."""
        return Take([*self._moments], self._marks, self._passed, self._sizes, kept_bytes, self._makers, self._times)

    def _mark(self, name: PartName, number: int) -> None:
        self._marks.append((name, number, len(self._moments)))

    def _result(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        result, seconds = self._known.of(func, args, kwargs)
        self._times.append((func, seconds))
        self._maker = func
        return result

    def _track(self, storage: torch.UntypedStorage, size: int) -> None:
        number = len(self._sizes)
        self._sizes.append(size)
        self._makers.append(self._maker)
        self._moments.append(number)
        key = storage._cdata

        def freed(_: weakref.ref[torch.UntypedStorage]) -> None:
            self._seen.pop(key, None)
            self._moments.append(-1 - number)

        self._seen[key] = weakref.ref(storage, freed)
