"""What a job may go on from: a checkpoint of another job that trains the same flow on the same data.

Its files are linked into the new job's own folder when that is submitted, or copied within the bucket. From then on the
two jobs have nothing to do with each other: the parent may run on and remove its older checkpoints, or be deleted.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from pydantic import ValidationError
from sqlalchemy.orm import Session

from symadj.service.contract.layout import MANIFEST, CheckpointName, checkpoint_folder, job_folder
from symadj.service.contract.spec import TRAINING, JobSpec, kind_of
from symadj.service.contract.spec.training import StopAfterSteps
from symadj.service.contract.storage import Storage
from symadj.service.errors import InvalidSpecError
from symadj.service.store import checkpoints, jobs
from symadj.service.store.tables import Checkpoint, Job

__all__ = ["adopt_checkpoint", "checkpoint_of"]

_MISSING = "none"


def checkpoint_of(session: Session, spec: JobSpec, *, owner: str) -> Checkpoint | None:
    """Return the checkpoint that a new job begins with, None if its spec names no parent.

    Raises:
        InvalidSpecError: this owner has no such job, or the job has no such checkpoint, or it belongs to another flow,
            other data or another kind of optimiser.
    """
    if spec.parent is None:
        return None
    # Held until the commit, so that the parent is not deleted in between.
    parent = jobs.find_locked(session, spec.parent.job)
    if parent is None or parent.owner != owner:
        raise InvalidSpecError(f"parent.job {spec.parent.job!r} is not a job of {owner}", pointer="/parent/job")
    if kind_of(parent.spec) != TRAINING:
        raise InvalidSpecError(
            f"parent.job {parent.id!r} scores rows and trains nothing: name the job of a training",
            pointer="/parent/job",
        )
    try:
        theirs = JobSpec.of_stored(parent.spec).stored()
    except ValidationError as error:
        raise InvalidSpecError(
            f"the spec of parent.job {parent.id!r} was stored by another version, which this one can't read",
            pointer="/parent/job",
        ) from error
    checkpoint = checkpoints.newest(session, parent.id, step=spec.parent.step)
    if checkpoint is None:
        steps = sorted({item.step for item in checkpoints.of_job(session, parent.id)})
        has = f"it has those of steps {', '.join(map(str, steps))}" if steps else "it has none"
        which = "no checkpoint" if spec.parent.step is None else f"no checkpoint of step {spec.parent.step}"
        raise InvalidSpecError(f"parent.job {parent.id!r} has {which}: {has}", pointer="/parent/step")
    _check_likeness(spec.stored(), theirs)
    if isinstance(spec.stop, StopAfterSteps) and spec.stop.max_steps <= checkpoint.step:
        raise InvalidSpecError(
            f"stop.max_steps {spec.stop.max_steps} is not above the {checkpoint.step} steps that the parent's "
            "checkpoint has: these count, and nothing would be left to train",
            pointer="/stop/max_steps",
        )
    return checkpoint


def reach(spec: JobSpec, storage: Storage) -> None:
    """Wait until the storage answers, if the parent's checkpoint is to be taken from it: before the store is locked.

    Raises:
        StorageUnreachableError: it does not answer.
    """
    if spec.parent is not None:
        storage.reach()


def adopt_checkpoint(job: Job, storage: Storage) -> None:
    """Give the parent's checkpoint to a job that was submitted just now, as of its attempt 0.

    Raises:
        InvalidSpecError: the parent has removed it in the meantime.
        OSError: the storage can't be written, or does not answer.
    """
    if job.parent_id is None or job.parent_checkpoint is None:
        return
    name = CheckpointName.parse(job.parent_checkpoint)
    assert name is not None  # of a checkpoint that was registered
    source = f"{checkpoint_folder(job.parent_id)}/{name}"
    try:
        storage.copy(source, f"{checkpoint_folder(job.id)}/{replace(name, attempt=0)}", last=MANIFEST)
    except FileNotFoundError as error:
        storage.remove(job_folder(job.id))
        raise InvalidSpecError(
            f"the files of {job.parent_checkpoint} of parent.job {job.parent_id!r} are gone: choose another step",
            pointer="/parent/step",
        ) from error


def _check_likeness(ours: dict[str, Any], theirs: dict[str, Any]) -> None:
    pairs = [
        ("/flow", _but_divergence(ours["flow"]), _but_divergence(theirs["flow"])),
        *((f"/data/{name}", ours["data"].get(name), theirs["data"].get(name)) for name in _OF_DATA),
        ("/optimizer/kind", ours["optimizer"]["kind"], theirs["optimizer"]["kind"]),
    ]
    for pointer, mine, other in pairs:
        difference = _difference(pointer, mine, other)
        if difference is not None:
            where, here, there = difference
            raise InvalidSpecError(
                f"{where[1:].replace('/', '.')} is {here!r} here and {there!r} in the parent, whose weights and "
                "optimiser can go on only with the same one",
                pointer=where,
            )


def _but_divergence(flow: dict[str, Any]) -> dict[str, Any]:
    return {name: part for name, part in flow.items() if name != "divergence"}


_OF_DATA = ("kind", "name", "path", "transforms")


def _difference(pointer: str, mine: Any, other: Any) -> tuple[str, Any, Any] | None:
    """Return the place of the first difference between two JSON values, and both values; None if they are equal."""
    if isinstance(mine, dict) and isinstance(other, dict):
        for name in sorted(mine.keys() | other.keys(), key=lambda name: (name != "kind", name)):
            found = _difference(f"{pointer}/{name}", mine.get(name, _MISSING), other.get(name, _MISSING))
            if found is not None:
                return found
        return None
    return None if mine == other else (pointer, mine, other)
