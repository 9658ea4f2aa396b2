"""From the files that a run has stored to the flow in them."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import symadj_core
from symadj.service.contract.flow_question import StoredFile
from symadj.service.contract.storage import Storage
from symadj.workers.files.stored import read_stored
from symadj_core import TrainedFlow

__all__ = ["load_flow"]


def load_flow(storage: Storage, config: StoredFile, weights: StoredFile, **options: Any) -> TrainedFlow:
    """Return the flow of two files in a storage; ``options`` are those of :func:`symadj_core.load`.

    Raises:
        FileNotFoundError: one is gone.
        LoadError: one is not what was stored, or they are no flow.
        OSError: the storage can't be read.
    """
    with tempfile.TemporaryDirectory(prefix="symadj-") as folder:
        for file in (config, weights):
            Path(folder, Path(file.path).name).write_bytes(read_stored(storage, file))
        return symadj_core.load(folder, **options)
