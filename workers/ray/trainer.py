"""Ray Train's trainer without two helpers of its: one outlives a killed run, the other has nothing to do."""

from __future__ import annotations

from typing import Any

from ray.train.v2._internal.callbacks.datasets import DatasetsCallback
from ray.train.v2._internal.callbacks.placement_group_callback import PlacementGroupCleanerCallback
from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer

__all__ = ["Trainer"]

_NOT_NEEDED = (PlacementGroupCleanerCallback, DatasetsCallback)


class Trainer(DataParallelTrainer):  # type: ignore[misc]
    """Starts neither a detached actor that watches over the placement group, nor one for Ray's data sets.

    Ray 2.60's watcher should end itself when the run's controller has died, and can't: it asks for that from a thread
    in which Ray does not allow it. Each killed run would leave a process of some 200 MB. Our runs need none: the
    placement group belongs to the run's Ray job and goes with it.

    The other, ``DatasetManager``, is a process of its own that loads as much, even where the trainer was given no data
    set. Ours never is: each worker reads its data itself.
    """

    def _create_default_callbacks(self) -> list[Any]:
        callbacks = super()._create_default_callbacks()
        return [callback for callback in callbacks if not isinstance(callback, _NOT_NEEDED)]
