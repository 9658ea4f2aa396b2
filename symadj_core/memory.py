"""How much memory a piece of code takes at its peak.

`PeakMeter` is for production: the kernel's high-water mark of the process and the allocator's of the accelerator, at a
cost that counts only for the smallest of steps. `LiveTensorMeter` is for benchmarks and tests: the exact peak of live
tensor storage, at the cost of a Python call an operation.
"""

from __future__ import annotations

import ctypes
import sys
import weakref
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

# glibc's M_MMAP_THRESHOLD: bytes from which on a block is mapped by itself, and unmapped when it is freed. By itself it
# begins at 128 KiB and rises, to 32 MiB at most, to the size of whatever was freed.
_MMAP_THRESHOLD = -3
# glibc's M_TRIM_THRESHOLD: bytes free at the heap's end from which on they are given back; by itself twice the other.
_TRIM_THRESHOLD = -1
# jemalloc's name, for mallctl, of giving back what is free in all its arenas (4096 is MALLCTL_ARENAS_ALL).
_PURGE_ALL = b"arena.4096.purge"


@dataclass
class Window:
    """Bytes at the start and at the peak of one window, known after it. None: the platform has no such figure.

    Attributes:
        host_start_bytes, host_peak_bytes: resident set of this process.
        device_start_bytes, device_peak_bytes: allocated by torch on the accelerator.
    """

    host_start_bytes: int | None = None
    host_peak_bytes: int | None = None
    device_start_bytes: int | None = None
    device_peak_bytes: int | None = None


class PeakMeter:
    """Measures windows of the program's time: `with meter.window() as w: ...`, then read w.

    Host figures are Linux's: free heap pages are given back (by malloc_trim of glibc, or by jemalloc where that is its
    heap), the high-water mark is reset by writing 5 to /proc/self/clear_refs, and VmHWM is read afterwards. They
    include every thread of the process and are right to about 1 MB. Cost of a window measured on a process of 730 MB,
    kernel 6.18: 40 us, of which reading VmHWM is 12; up to 0.6 ms where freed blocks lie scattered over the heap. What
    was given back is faulted in again by the code measured: 0.8 ms a window where that works on some 10 MB in small
    pieces (8.3 ms of flow matching a step became 10.7): measure one of many such steps. Windows must not be nested,
    since there is one high-water mark a process.

    Args:
        device: where the tensors are; the accelerator's figures are None for the CPU.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = None if device.type == "cpu" else device
        self._give_back = _giving_back()
        self._host = _host_mark_works()
        if self._device is not None and not _device_peaks_work(self._device):
            self._device = None

    @contextmanager
    def window(self) -> Iterator[Window]:
        """One measured window."""
        window = Window()
        if self._device is not None:
            torch.accelerator.reset_peak_memory_stats(self._device)
            window.device_start_bytes = torch.accelerator.memory_allocated(self._device)
        if self._host:
            window.host_start_bytes = _reset_host_mark(self._give_back)
        try:
            yield window
        finally:
            if self._host:
                window.host_peak_bytes = _host_mark()
            if self._device is not None:
                window.device_peak_bytes = torch.accelerator.max_memory_allocated(self._device)


@contextmanager
def freed_at_once() -> Iterator[None]:
    """Let the process give memory back as soon as a tensor is freed, where the heap is glibc's.

    Its heap keeps what was freed of up to 32 MiB, in pieces that the next tensor need not fit into: a process whose
    tensors took 33 MiB, of 1 and of 10 MiB each, held 160 MiB. What is given back is faulted in again, which made that
    computation 1.4 times as long. jemalloc finds room for it, and needs no such thing.
    """
    option = _of_libc("mallopt")
    if option is None or _of_libc("mallctl") is not None:
        yield
        return
    option(_MMAP_THRESHOLD, 128 * 2**10)
    try:
        yield
    finally:
        # Whoever sets a threshold ends glibc's own choice of both: these are the largest that it would have chosen.
        # Else the heap's end might be given back, and faulted in again, at every step that follows.
        option(_MMAP_THRESHOLD, 32 * 2**20)
        option(_TRIM_THRESHOLD, 64 * 2**20)


def _of_libc(name: str) -> Callable[..., int] | None:
    """A function of the C library; None where it has none of that name."""
    if not sys.platform.startswith("linux"):
        return None
    try:
        function: Callable[..., int] = getattr(ctypes.CDLL(None), name)
    except (OSError, AttributeError):
        return None
    return function


def _giving_back() -> Callable[[], int] | None:
    """What gives free pages of the heap back to the kernel; None where there is no such thing."""
    purge, trim = _of_libc("mallctl"), _of_libc("malloc_trim")
    if purge is not None:
        return partial(purge, _PURGE_ALL, None, None, None, 0)
    return None if trim is None else partial(trim, 0)


def _reset_host_mark(give_back: Callable[[], int] | None) -> int:
    """Reset the high-water mark to the resident set, and return it."""
    if give_back is not None:
        give_back()
    with open("/proc/self/clear_refs", "w", encoding="ascii") as file:
        file.write("5")
    return _host_mark()


def resident_bytes() -> int | None:
    """Resident memory of this process, free heap pages given back; None where the platform has no such figure."""
    give_back = _giving_back()
    if give_back is not None:
        give_back()
    try:
        return _status("VmRSS:")
    except OSError:
        return None


def _host_mark() -> int:
    return _status("VmHWM:")


def _status(name: str) -> int:
    with open("/proc/self/status", encoding="ascii") as file:
        for line in file:
            if line.startswith(name):
                return int(line.split()[1]) * 1024
    raise OSError(f"/proc/self/status has no {name.removesuffix(':')}")


@cache
def _host_mark_works() -> bool:
    """Whether this kernel resets the mark: some sandboxes take the write and ignore it.

    To find out takes 25 ms of CPU.
    """
    if not sys.platform.startswith("linux"):
        return False
    # More than once: another thread may have freed or taken as much in between.
    return any(_host_mark_follows(32 * 2**20) for _ in range(3))


def _host_mark_follows(size: int) -> bool:
    """Whether the mark rises by a block of so many bytes, and is reset once the block is gone."""
    give_back = _giving_back()
    try:
        _reset_host_mark(give_back)
        # Touching every page makes it resident; a block of this size is mapped by itself and unmapped when freed.
        block = bytearray(size)
        block[:: 2**12] = b"\1" * len(range(0, size, 2**12))
        high = _host_mark()
        del block
        low = _reset_host_mark(give_back)
    except OSError:
        return False
    return high - low > size // 2


def _device_peaks_work(device: torch.device) -> bool:
    try:
        torch.accelerator.reset_peak_memory_stats(device)
        torch.accelerator.memory_allocated(device)
        torch.accelerator.max_memory_allocated(device)
    except (RuntimeError, AttributeError, AssertionError):
        return False
    return True


def tensors_in(values: Iterable[Any]) -> list[Tensor]:
    """The tensors among an operation's arguments or results, and in the lists and tuples among these."""
    found: list[Tensor] = []
    for value in values:
        if isinstance(value, Tensor):
            found.append(value)
        elif isinstance(value, list | tuple):
            found += tensors_in(value)
    return found


class LiveTensorMeter(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Exact peak of the tensor storage that is made and alive within its context, on any device.

    Each storage counts once, from the operation that makes it until it is freed. Tensors from before the context do not
    count. Scratch space within an operation is not seen.

    Attributes:
        live_bytes: alive now.
        peak_bytes: the most that was alive at any operation.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.live_bytes = 0
        self.peak_bytes = 0
        self._seen: dict[int, weakref.ref[torch.UntypedStorage]] = {}

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        # What keeps torch.compile out of a mode loads all of it (0.9 s), and makes every operation dearer.
        return False

    def reset_peak(self) -> None:
        """Start a new peak from what is alive now."""
        self.peak_bytes = self.live_bytes

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func.is_view:
            # Its storage is that of its argument, which is counted or will be ignored.
            return func(*args, **(kwargs or {}))
        for x in tensors_in(args):
            self._ignore(x)
        if kwargs:
            for x in tensors_in(kwargs.values()):
                self._ignore(x)
        result = self._result(func, args, kwargs or {})
        if isinstance(result, Tensor):
            self._count(result)
        else:
            for x in tensors_in((result,)):
                self._count(x)
        return result

    def _result(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        return func(*args, **kwargs)

    def _ignore(self, x: Tensor) -> None:
        """A storage that arrives as an argument without having been made here is from before the context."""
        storage = x.untyped_storage()
        if storage._cdata not in self._seen:
            self._track(storage, 0)

    def _count(self, x: Tensor) -> None:
        storage = x.untyped_storage()
        if storage._cdata not in self._seen:
            self._track(storage, storage.nbytes())

    def _track(self, storage: torch.UntypedStorage, size: int) -> None:
        key = storage._cdata

        def freed(_: weakref.ref[torch.UntypedStorage]) -> None:
            self._seen.pop(key, None)
            self.live_bytes -= size

        self._seen[key] = weakref.ref(storage, freed)
        self.live_bytes += size
        self.peak_bytes = max(self.peak_bytes, self.live_bytes)
