"""The autocast state in which the field was evaluated, restored when it is evaluated again."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Ambient:
    """Autocast state of the forward solve.

    The cache of autocast is off in both directions: a weight cast under no_grad must not be reused with a graph,
    nor a cast whose graph one stage has freed by the next stage.

    Attributes:
        device_type: "cpu", "cuda", ...
        autocast: whether autocast was on.
        dtype: its dtype.
    """

    device_type: str
    autocast: bool
    dtype: torch.dtype

    @classmethod
    def now(cls, device: torch.device) -> Ambient:
        kind = device.type
        return cls(kind, torch.is_autocast_enabled(kind), torch.get_autocast_dtype(kind))

    @contextmanager
    def restored(self) -> Iterator[None]:
        """Evaluate as the forward solve does, without autocast's cache of casts."""
        if not self.autocast and not torch.is_autocast_enabled(self.device_type):
            yield
            return
        with torch.autocast(self.device_type, dtype=self.dtype, enabled=self.autocast, cache_enabled=False):
            yield
