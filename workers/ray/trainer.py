"""Ray Train's trainer without a helper of its that outlives a killed run."""

from __future__ import annotations

from typing import Any

from ray.train.v2._internal.callbacks.placement_group_callback import PlacementGroupCleanerCallback
from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer

__all__ = ["Trainer"]


class Trainer(DataParallelTrainer):  # type: ignore[misc]
    """Starts no detached actor that watches over the placement group.

    Ray 2.60's should end itself when the run's controller has died, and can't: it asks for that from a thread in which
    Ray does not allow it. Each killed run would leave a process of some 200 MB. Our runs need none: the placement group
    belongs to the run's Ray job and goes with it.
    """

    def _create_default_callbacks(self) -> list[Any]:
        callbacks = super()._create_default_callbacks()
        return [callback for callback in callbacks if not isinstance(callback, PlacementGroupCleanerCallback)]
