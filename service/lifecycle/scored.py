"""The trained flow by which a job scores rows.

Its files are copied into the new job's own folder when that is submitted. From then on the two jobs have nothing to do
with each other: the one that trained it may be deleted.
"""

from __future__ import annotations

import hashlib
import shutil

from sqlalchemy.orm import Session

from symadj.service.contract.flow_question import StoredFile
from symadj.service.contract.layout import CONFIG, WEIGHTS, artifact_folder, flow_folder
from symadj.service.contract.spec import SCORES, kind_of
from symadj.service.contract.spec.scores import TrainedFiles
from symadj.service.contract.storage import Storage
from symadj.service.errors import ConflictError
from symadj.service.store import artifacts, jobs
from symadj.service.store.tables import Job

__all__ = ["adopt_flow", "flow_files", "trained_files"]


def flow_files(session: Session, job_id: str) -> tuple[StoredFile, StoredFile]:
    """Return where the config and the weights of a job's trained flow are stored.

    Raises:
        NotFoundError: there is no such job.
        ConflictError: it has no weights yet, or never will.
    """
    job = jobs.get(session, job_id)
    found = {
        item.name: StoredFile(path=f"{artifact_folder(job_id, item.attempt)}/{item.name}", sha256=item.sha256)
        for item in artifacts.of_job(session, job_id)
    }
    missing = [name for name in (CONFIG, WEIGHTS) if name not in found]
    if missing:
        why = "a run stores them at its end"
        if kind_of(job.spec) == SCORES:
            why = f"it scores rows and trains nothing; it scored those of {job.spec['trained']['job']}"
        raise ConflictError(f"job {job_id!r} is {job.state} and has no {' and no '.join(missing)}: {why}")
    return found[CONFIG], found[WEIGHTS]


def trained_files(session: Session, job_id: str) -> TrainedFiles:
    """Return what the spec of a job that scores rows says of the flow that ``job_id`` trained.

    Raises:
        NotFoundError, ConflictError: as ``flow_files``.
    """
    config, weights = flow_files(session, job_id)
    return TrainedFiles(job=job_id, config_sha256=config.sha256, weights_sha256=weights.sha256)


def adopt_flow(session: Session, job: Job, trained: TrainedFiles, storage: Storage) -> None:
    """Copy the files of a trained flow for a job that was submitted just now.

    What goes wrong may leave files in the job's folder.

    Raises:
        NotFoundError: the job that trained it was deleted in the meantime.
        ConflictError: its files are gone, or others than when the request came.
        OSError: the storage can't be read or written, or does not answer.
    """
    # Held until the commit, so that it is not deleted in between.
    jobs.lock(session, trained.job)
    for file, sha256 in zip(
        flow_files(session, trained.job), (trained.config_sha256, trained.weights_sha256), strict=True
    ):
        name = file.path.rpartition("/")[2]
        try:
            with storage.open(file.path) as source, storage.writing(f"{flow_folder(job.id)}/{name}") as copy:
                shutil.copyfileobj(source, copy)
                copy.seek(0)
                found = hashlib.file_digest(copy, "sha256").hexdigest()  # type: ignore[arg-type]
        except FileNotFoundError:
            found = "none"
        if found != sha256:
            raise ConflictError(
                f"{name} of job {trained.job!r} is not what its run stored, or is gone: train the flow again"
            )
