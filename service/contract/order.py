"""The order: a file in the job's storage that tells a run what to do."""

from __future__ import annotations

from typing import Self

from pydantic import BaseModel, Field

from symadj.service.contract.spec import AnySpec, JobSpec
from symadj.service.contract.spec.section import STORED
from symadj.service.contract.storage import Storage, StorageError, open_storage
from symadj.service.contract.uploaded import UploadedFile

__all__ = [
    "DATA_TIMEOUT_S",
    "FLUSH_TIMEOUT_S",
    "PLACE_VARIABLE",
    "STORAGE_PATIENCE_S",
    "TOKEN_VARIABLE",
    "RunOrder",
    "read_order",
    "take_token",
]

# Linux takes 128 KiB for one variable, and a spec may be larger: the environment of a run's driver has the place of its
# order. It has no secret: Ray writes a job's environment to a log that others may read.
PLACE_VARIABLE = "SYMADJ_RUN_ORDER"
# Of runs that an earlier version submitted: the token itself.
TOKEN_VARIABLE = "SYMADJ_RUN_TOKEN"

# How long a run waits, in seconds, where the service's settings do not say otherwise.
STORAGE_PATIENCE_S = 1200.0
FLUSH_TIMEOUT_S = 3600.0
DATA_TIMEOUT_S = 3600.0


class RunOrder(BaseModel):
    """All that a run needs to know, except its token. It holds no secret of the service."""

    job_id: str
    attempt: int
    api_url: str
    storage: str = Field(description="Folder shared by all nodes, or URL of a bucket; the run writes under it alone.")
    workers: int = Field(description="Ranks of this attempt.")
    checkpoints_asked: int = Field(0, description="As in BatchAnswer, when the attempt began.")
    data_roots: tuple[str, ...] = Field((), description="Folders on the nodes and URLs that the data may lie below.")
    uploads: tuple[UploadedFile, ...] = Field((), description="The uploads that the spec names, and no others.")
    data_cache: str | None = Field(
        None, description="Folder on each node for copies of files from buckets; null: in the temporary folder."
    )
    spool: str | None = Field(None, description="Folder on each node for records on their way; null: likewise.")
    storage_patience_seconds: float = Field(
        STORAGE_PATIENCE_S, description="How long the run waits for a storage that is full or does not answer."
    )
    flush_timeout_seconds: float = Field(
        FLUSH_TIMEOUT_S, description="How long the run waits, at its end, for the API to take its last records."
    )
    data_timeout_seconds: float = Field(
        DATA_TIMEOUT_S, description="How long it may take to read and check the data before the workers are placed."
    )
    microbatch_halvings: int = Field(0, description="How many attempts have run out of memory before this one.")
    spec: AnySpec

    @property
    def training(self) -> JobSpec:
        """The spec of a training, which this order is for."""
        assert isinstance(self.spec, JobSpec)
        return self.spec

    @classmethod
    def of_json(cls, text: str | bytes) -> Self:
        """Return an order as ``model_dump_json`` wrote it; its spec was accepted before.

        Raises:
            ValidationError: it is not an order that this version reads.
        """
        return cls.model_validate_json(text, context=STORED)


def read_order(place: str) -> RunOrder:
    """Return the order that lies at ``place``, the path of a file or its URL.

    Raises:
        OSError: it can't be read, or a bucket does not answer.
        ValueError: it is not an order that this version reads.
    """
    return RunOrder.of_json(_read("order", *_split(place)))


def take_token(place: str) -> str:
    """Return the token under which the run reports whose order lies at ``place``, and remove its file.

    Raises:
        OSError: it can't be read or removed, or a bucket does not answer.
    """
    storage, name = _split(place)
    name = name.removesuffix(".json") + ".token"
    token = _read("token", storage, name).decode()
    storage.remove_file(name)
    return token


def _split(place: str) -> tuple[Storage, str]:
    folder, _, name = place.rpartition("/")
    return open_storage(folder), name


def _read(what: str, storage: Storage, name: str) -> bytes:
    try:
        return storage.read(name)
    except StorageError:
        raise
    except OSError as error:
        raise OSError(f"the {what} of this run can't be read at {storage.name(name)}: {error}") from error
