"""A job's checkpoints on the storage: each one whole and checksummed, or not there at all.

A checkpoint is a folder ``{storage}/{job_id}/checkpoints/step-{step}-attempt-{n}`` with

- ``weights.safetensors``: the flow's weights under ``flow.``, their average's under ``average.``;
- ``training.pt``: all else that the training goes on from, by ``torch.save`` of tensors, numbers and strings alone;
- ``manifest.json``: what it is, and the size and SHA-256 of the other two. It is written last.

The folder is made under another name and renamed when all of it is on the disk. The attempt is a part of the name, so
that an attempt which was given up, and does not know it yet, writes over nothing of the next one's. An empty file
``.begun-{n}`` tells that attempt n has begun: those before it write and remove nothing any more.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import tempfile
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

from service.states import CheckpointCause

__all__ = ["CheckpointFolder", "CorruptCheckpointError", "StoredCheckpoint"]

_MANIFEST = "manifest.json"
_WEIGHTS, _TRAINING = "weights.safetensors", "training.pt"
_MAKING, _BEGUN = ".making-", ".begun-"
_NAME = re.compile(r"step-(\d{9,})-attempt-(\d+)")
_FORMAT = 1


class CorruptCheckpointError(Exception):
    """A checkpoint is not what was written; the message names the file and what is wrong with it."""


@dataclass(frozen=True)
class StoredCheckpoint:
    """A checkpoint on the storage.

    Attributes:
        path: its folder.
        step: steps completed.
        attempt: that wrote it.
    """

    path: Path
    step: int
    attempt: int

    @classmethod
    def at(cls, path: Path) -> StoredCheckpoint | None:
        """Return the checkpoint that a folder is by its name, or None."""
        match = _NAME.fullmatch(path.name)
        return cls(path, int(match[1]), int(match[2])) if match else None

    @property
    def name(self) -> str:
        return self.path.name

    def manifest(self) -> dict[str, Any]:
        """Return what was written about it.

        Raises:
            CorruptCheckpointError: it can't be read.
        """
        try:
            manifest: dict[str, Any] = json.loads((self.path / _MANIFEST).read_bytes())
            if manifest["format"] != _FORMAT:
                raise CorruptCheckpointError(
                    f"{self.path / _MANIFEST}: format {manifest['format']!r}, and this version reads {_FORMAT}"
                )
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise CorruptCheckpointError(f"{self.path / _MANIFEST}: {error!r}") from error
        return manifest

    def seal(self) -> dict[str, Any]:
        """Return ``bytes``, the size of all its files, and ``sha256``, the sum of its manifest, which has theirs.

        Raises:
            CorruptCheckpointError: its manifest can't be read.
        """
        files = self.manifest()["files"].values()
        content = (self.path / _MANIFEST).read_bytes()
        size = len(content) + sum(file["bytes"] for file in files)
        return {"bytes": size, "sha256": hashlib.sha256(content).hexdigest()}

    def verify(self) -> None:
        """Read all of it and compare with the sums that were taken when it was written.

        Raises:
            CorruptCheckpointError: a file is missing, short, or not what was written.
        """
        for name, expected in self.manifest()["files"].items():
            path = self.path / name
            try:
                found = _describe(path)
            except OSError as error:
                raise CorruptCheckpointError(f"{path}: {error}") from error
            if found != expected:
                raise CorruptCheckpointError(
                    f"{path}: {found['bytes']} bytes with SHA-256 {found['sha256']}; "
                    f"written were {expected['bytes']} with {expected['sha256']}"
                )

    def load(self) -> dict[str, Any]:
        """Return the state that was written, its tensors on the CPU.

        Raises:
            CorruptCheckpointError: it can't be read.
        """
        try:
            state: dict[str, Any] = torch.load(self.path / _TRAINING, map_location="cpu", weights_only=True)
            weights = safetensors.torch.load_file(self.path / _WEIGHTS)
        except Exception as error:  # whatever broken bytes make torch and safetensors raise
            raise CorruptCheckpointError(f"{self.path}: {error!r}") from error
        return state | {"weights": _unflatten(weights)}


class CheckpointFolder:
    """The checkpoints of one job.

    Args:
        storage: folder that all nodes share.
        job_id: whose checkpoints.
    """

    def __init__(self, storage: str, job_id: str) -> None:
        self.path = Path(storage, job_id, "checkpoints")
        self.job_id = job_id

    def stored(self) -> list[StoredCheckpoint]:
        """Return the complete ones, oldest first: by attempt, then by their steps.

        An attempt that could not use what the one before it wrote last began at an earlier step; its own count.
        """
        if not self.path.is_dir():
            return []
        found = [StoredCheckpoint.at(path) for path in self.path.iterdir() if (path / _MANIFEST).exists()]
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
            OSError: the storage is full or can't be written, or a later attempt has begun; nothing is left behind.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        target = self.path / f"step-{state['step']:09d}-attempt-{attempt}"
        making = Path(tempfile.mkdtemp(dir=self.path, prefix=_MAKING))
        try:
            safetensors.torch.save_file(_flatten(state["weights"]), making / _WEIGHTS)
            torch.save({key: value for key, value in state.items() if key != "weights"}, making / _TRAINING)
            files = {name: _describe(making / name) for name in (_WEIGHTS, _TRAINING)}
            manifest = {
                "format": _FORMAT,
                "job_id": self.job_id,
                "attempt": attempt,
                "step": state["step"],
                "cause": cause,
                "time": datetime.now(UTC).isoformat(),
                **about,
                "files": files,
            }
            content = json.dumps(manifest, indent=2).encode() + b"\n"
            (making / _MANIFEST).write_bytes(content)
            for name in (*files, _MANIFEST):
                os.chmod(making / name, 0o644)
                _sync(making / name)
            os.chmod(making, 0o755)
            _sync(making)
            # Looked for last: what comes then, removing older ones too, takes no time to speak of.
            self._check_newest(attempt)
            if target.exists():
                self.remove(StoredCheckpoint(target, state["step"], attempt))
            os.rename(making, target)
            _sync(self.path)
        except BaseException as error:
            shutil.rmtree(making, ignore_errors=True)
            if isinstance(error, safetensors.SafetensorError | RuntimeError):
                # Their own words for a full disk.
                raise OSError(f"{making}: {error}") from error
            raise
        return StoredCheckpoint(target, state["step"], attempt)

    def remove(self, checkpoint: StoredCheckpoint) -> None:
        """Remove a checkpoint; its manifest first, so that a half removed one is none."""
        (checkpoint.path / _MANIFEST).unlink(missing_ok=True)
        shutil.rmtree(checkpoint.path, ignore_errors=True)

    def take_over(self, attempt: int) -> None:
        """Keep earlier attempts, which may live without anyone's knowledge, from writing and removing; tidy up after
        writers that were killed.

        Raises:
            OSError: the storage can't be written, or a later attempt has begun.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        self._check_newest(attempt)
        (self.path / f"{_BEGUN}{attempt}").touch()
        # A checkpoint is on the disk only if the folders that lead to it are.
        for folder in (self.path, self.path.parent, self.path.parent.parent):
            _sync(folder)
        for number in self._begun():
            if number < attempt:
                (self.path / f"{_BEGUN}{number}").unlink(missing_ok=True)
        for path in self.path.iterdir():
            half_made = not (path / _MANIFEST).exists() or path.name.startswith(_MAKING)
            if half_made and not path.name.startswith(_BEGUN):
                shutil.rmtree(path, ignore_errors=True)

    def _check_newest(self, attempt: int) -> None:
        newest = max(self._begun(), default=attempt)
        if newest > attempt:
            raise OSError(f"{self.path}: attempt {newest} has begun, and attempt {attempt} is not wanted any more")

    def _begun(self) -> list[int]:
        return [int(path.name.removeprefix(_BEGUN)) for path in self.path.glob(f"{_BEGUN}*")]


def _describe(path: Path) -> dict[str, Any]:
    with path.open("rb") as file:
        return {"bytes": path.stat().st_size, "sha256": hashlib.file_digest(file, "sha256").hexdigest()}


def _sync(path: Path) -> None:
    """Bring a file, or the names in a folder, to the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


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
