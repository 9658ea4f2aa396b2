"""A job's checkpoints on the storage: each one whole and checksummed, or not there at all.

A checkpoint is a folder ``{storage}/{job_id}/checkpoints/step-{step}-attempt-{n}`` with

- ``weights.safetensors``: the flow's weights under ``flow.``, their average's under ``average.``;
- ``training.pt``: all else that the training goes on from, by ``torch.save`` of tensors, numbers and strings alone;
- ``manifest.json``: what it is, and the size and SHA-256 of the other two. It is written last.

In a folder it is made under another name and renamed when all of it is on the disk. In a bucket the two files lie below
a name that no other try to write them has; the manifest says which, and so makes them count. The attempt is a part of
the checkpoint's name, so that an attempt which was given up, and does not know it yet, writes over nothing of the next
one's. An empty file ``.begun-{n}`` says that attempt n has begun: earlier ones no longer write or remove anything.
"""

from __future__ import annotations

import hashlib
import json
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

from symadj.service.contract.layout import MANIFEST, CheckpointName, checkpoint_folder
from symadj.service.contract.states import CheckpointCause
from symadj.service.contract.storage import HALF_MADE, Storage, StorageError, open_storage

__all__ = ["CheckpointFolder", "CorruptCheckpointError", "StoredCheckpoint"]

_WEIGHTS, _TRAINING = "weights.safetensors", "training.pt"
_BEGUN = ".begun-"
_FORMAT = 1


class CorruptCheckpointError(Exception):
    """A checkpoint is not what was written; the message names the file and what is wrong with it."""


@dataclass(frozen=True)
class StoredCheckpoint:
    """A checkpoint on the storage.

    Attributes:
        storage: where it lies.
        folder: of the job's checkpoints.
        name: its folder in that one.
        step: steps completed.
        attempt: that wrote it.
    """

    storage: Storage = field(compare=False, repr=False)
    folder: str
    name: str
    step: int
    attempt: int

    @classmethod
    def named(cls, storage: Storage, folder: str, name: str) -> StoredCheckpoint | None:
        """Return the checkpoint that a folder is by its name, or None."""
        parsed = CheckpointName.parse(name)
        return cls(storage, folder, name, parsed.step, parsed.attempt) if parsed else None

    @property
    def path(self) -> str:
        """Its folder in the storage."""
        return f"{self.folder}/{self.name}"

    @property
    def _manifest(self) -> str:
        return f"{self.path}/{MANIFEST}"

    def manifest(self) -> dict[str, Any]:
        """Return what was written about it.

        Raises:
            CorruptCheckpointError: it can't be read.
            StorageError: a bucket can't be read now, which says nothing about the checkpoint.
        """
        name = self.storage.name(self._manifest)
        try:
            manifest: dict[str, Any] = json.loads(self.storage.read(self._manifest))
            if manifest["format"] != _FORMAT:
                raise CorruptCheckpointError(f"{name}: format {manifest['format']!r}, and this version reads {_FORMAT}")
        except StorageError:
            raise
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise CorruptCheckpointError(f"{name}: {error!r}") from error
        return manifest

    def seal(self) -> dict[str, Any]:
        """Return ``bytes``, the size of all its files, and ``sha256``, the sum of its manifest, which has theirs.

        Raises:
            CorruptCheckpointError: its manifest can't be read.
            StorageError: a bucket can't be read now, which says nothing about the checkpoint.
        """
        files = self.manifest()["files"].values()
        content = self.storage.read(self._manifest)
        size = len(content) + sum(file["bytes"] for file in files)
        return {"bytes": size, "sha256": hashlib.sha256(content).hexdigest()}

    def verify(self) -> None:
        """Read all of it and compare with the sums that were taken when it was written.

        Raises:
            CorruptCheckpointError: a file is missing, short, or not what was written.
            StorageError: a bucket can't be read now, which says nothing about the checkpoint.
        """
        for name, expected in self.manifest()["files"].items():
            path = f"{self.path}/{name}"
            try:
                with self.storage.on_disk(path) as file:
                    found = _describe(file)
            except StorageError:
                raise
            except OSError as error:
                raise CorruptCheckpointError(f"{self.storage.name(path)}: {error}") from error
            if found != expected:
                raise CorruptCheckpointError(
                    f"{self.storage.name(path)}: {found['bytes']} bytes with SHA-256 {found['sha256']}; "
                    f"written were {expected['bytes']} with {expected['sha256']}"
                )

    def load(self) -> dict[str, Any]:
        """Return the state that was written, its tensors on the CPU.

        Raises:
            CorruptCheckpointError: it can't be read.
            StorageError: a bucket can't be read now, which says nothing about the checkpoint.
        """
        try:
            with ExitStack() as stack:
                files = {
                    name.rpartition("/")[2]: stack.enter_context(self.storage.on_disk(f"{self.path}/{name}"))
                    for name in self.manifest()["files"]
                }
                state: dict[str, Any] = torch.load(files[_TRAINING], map_location="cpu", weights_only=True)
                weights = safetensors.torch.load_file(files[_WEIGHTS])
        except (CorruptCheckpointError, StorageError):
            raise
        except Exception as error:  # whatever broken bytes make torch and safetensors raise
            raise CorruptCheckpointError(f"{self.storage.name(self.path)}: {error!r}") from error
        return state | {"weights": _unflatten(weights)}


class CheckpointFolder:
    """The checkpoints of one job.

    Args:
        storage: a folder that all nodes share, or the URL of a bucket.
        job_id: whose checkpoints.
    """

    def __init__(self, storage: str, job_id: str) -> None:
        self.storage = open_storage(storage)
        self.path = checkpoint_folder(job_id)
        self.job_id = job_id

    @property
    def name(self) -> str:
        """What it is called outside of the storage."""
        return self.storage.name(self.path)

    def stored(self) -> list[StoredCheckpoint]:
        """Return the complete ones, oldest first: by attempt, then by their steps.

        An attempt that could not use what the one before it wrote last began at an earlier step; its own count.

        Raises:
            OSError: the storage can't be read, or does not answer.
        """
        whole = self.storage.holding(self.path, MANIFEST)
        found = [StoredCheckpoint.named(self.storage, self.path, name) for name in whole]
        return sorted((c for c in found if c is not None), key=lambda c: (c.attempt, c.step))

    def write(
        self, state: dict[str, Any], *, attempt: int, cause: CheckpointCause, about: dict[str, Any]
    ) -> StoredCheckpoint:
        """Store a training's state; return the checkpoint.

        One that this attempt wrote at the same step before is replaced: it holds the same weights, but what came
        after the step (its validation) may be missing in it.

        Args:
            state: of ``TrainingState.state_dict``.
            attempt: that writes it.
            cause: why it is written.
            about: more for its manifest.

        Raises:
            OSError: the storage is full, can't be written or does not answer, or a later attempt has begun; nothing is
                left behind.
        """
        name = str(CheckpointName(state["step"], attempt))
        with self.storage.make(f"{self.path}/{name}", last=MANIFEST) as making:
            try:
                safetensors.torch.save_file(_flatten(state["weights"]), making.path / _WEIGHTS)
                torch.save({key: value for key, value in state.items() if key != "weights"}, making.path / _TRAINING)
            except (safetensors.SafetensorError, RuntimeError) as error:
                # Their own messages for a full disk.
                raise OSError(f"{making.path}: {error}") from error
            manifest = {
                "format": _FORMAT,
                "job_id": self.job_id,
                "attempt": attempt,
                "step": state["step"],
                "cause": cause,
                "time": datetime.now(UTC).isoformat(),
                **about,
                "files": {making.prefix + file: _describe(making.path / file) for file in (_WEIGHTS, _TRAINING)},
            }
            (making.path / MANIFEST).write_bytes(json.dumps(manifest, indent=2).encode() + b"\n")
            making.bring()
            # Looked for last: what comes then, removing older ones too, takes no time to speak of.
            self._check_newest(attempt)
            making.finish()
        return StoredCheckpoint(self.storage, self.path, name, state["step"], attempt)

    def remove(self, checkpoint: StoredCheckpoint) -> None:
        """Remove a checkpoint; its manifest first, so that a half removed one does not count as one.

        Raises:
            OSError: the storage can't be written, or does not answer.
        """
        self.storage.remove(checkpoint.path, first=MANIFEST)

    def take_over(self, attempt: int) -> None:
        """Keep earlier attempts, which may live without anyone's knowledge, from writing and removing; tidy up after
        writers that were killed.

        Raises:
            OSError: the storage can't be written or does not answer, or a later attempt has begun.
        """
        self._check_newest(attempt)
        # A checkpoint is on the disk only if the folders that lead to it are.
        self.storage.mark(f"{self.path}/{_BEGUN}{attempt}")
        for number in self._begun():
            if number < attempt:
                self.storage.remove_file(f"{self.path}/{_BEGUN}{number}")
        names = self.storage.children(self.path)
        whole = self.storage.holding(self.path, MANIFEST)
        for name in names:
            half_made = name not in whole or name.startswith(HALF_MADE)
            if half_made and not name.startswith(_BEGUN):
                self.storage.remove(f"{self.path}/{name}")

    def _check_newest(self, attempt: int) -> None:
        newest = max(self._begun(), default=attempt)
        if newest > attempt:
            raise OSError(f"{self.name}: attempt {newest} has begun, and attempt {attempt} was replaced")

    def _begun(self) -> list[int]:
        return [int(name.removeprefix(_BEGUN)) for name in self.storage.children(self.path) if name.startswith(_BEGUN)]


def _describe(path: Path) -> dict[str, Any]:
    with path.open("rb") as file:
        return {"bytes": path.stat().st_size, "sha256": hashlib.file_digest(file, "sha256").hexdigest()}


def _flatten(weights: dict[str, dict[str, Tensor]]) -> dict[str, Tensor]:
    return {
        f"{part}.{name}": tensor.detach().cpu().contiguous()
        for part, tensors in weights.items()
        for name, tensor in tensors.items()
    }


def _unflatten(weights: dict[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    parts: dict[str, dict[str, Tensor]] = {}
    for key, tensor in weights.items():
        part, _, name = key.partition(".")
        parts.setdefault(part, {})[name] = tensor
    return parts
