"""Random numbers that a field draws (dropout, say), drawn again when the field is evaluated again."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode


def capturing(device: torch.device) -> bool:
    """Whether a CUDA graph is being captured, within which neither the device nor its generator can be read."""
    return device.type == "cuda" and torch.cuda.is_current_stream_capturing()


class Draws(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Notices operations that draw random numbers, without a look at a generator.

    Attributes:
        found: whether there was one.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.found = False

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        self.found = self.found or torch.Tag.nondeterministic_seeded in func.tags
        return func(*args, **(kwargs or {}))


@dataclass(frozen=True)
class RandomState:
    """States of torch's generators for the CPU and for one accelerator, read without waiting for the latter."""

    cpu: Tensor
    accelerator: Tensor | None
    device: torch.device

    @classmethod
    def now(cls, device: torch.device) -> RandomState:
        if device.type == "cpu":
            return cls(torch.get_rng_state(), None, device)
        return cls(torch.get_rng_state(), torch.get_device_module(device).get_rng_state(device), device)

    def same(self, other: RandomState) -> bool:
        """Whether no number was drawn in between."""
        if self.accelerator is not None and other.accelerator is not None:
            return torch.equal(self.accelerator, other.accelerator) and torch.equal(self.cpu, other.cpu)
        return torch.equal(self.cpu, other.cpu)

    @contextmanager
    def replayed(self) -> Iterator[None]:
        """Draw what was drawn from this state; afterwards the generators are as they were."""
        present = RandomState.now(self.device)
        self.restore()
        try:
            yield
        finally:
            present.restore()

    def restore(self) -> None:
        """Set the generators to this state."""
        torch.set_rng_state(self.cpu)
        if self.accelerator is not None:
            torch.get_device_module(self.device).set_rng_state(self.accelerator, self.device)
