"""What the API asks of the process that computes with flows, and how both write it to their pipes.

A frame is the two lengths (4 and 8 bytes, big-endian), a header in JSON, and content of any kind.
"""

from __future__ import annotations

import struct
from enum import StrEnum
from typing import Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict

from symadj.service.contract.spec.data import CsvOptions
from symadj.service.contract.uploaded import UploadedFile

__all__ = [
    "ENDINGS",
    "LENGTHS",
    "CheckQuestion",
    "FlowAnswer",
    "FlowOutcome",
    "FlowQuestion",
    "MediaType",
    "NodeCheck",
    "Operation",
    "PlanQuestion",
    "Question",
    "StoredFile",
    "frame",
    "unframe",
]

LENGTHS = struct.Struct(">IQ")


class MediaType(StrEnum):
    """The formats of tables, in requests and in answers."""

    JSON = "application/json"
    NPY = "application/x-npy"
    CSV = "text/csv"
    PARQUET = "application/vnd.apache.parquet"


# What the names of files in them end with.
ENDINGS = {".csv": MediaType.CSV, ".npy": MediaType.NPY, ".parquet": MediaType.PARQUET}


class Operation(StrEnum):
    """What is computed."""

    LOG_PROB = "log_prob"
    SAMPLE = "sample"
    TRANSPORT = "transport"


class FlowOutcome(StrEnum):
    """What became of a question."""

    DONE = "done"
    REFUSED = "refused"  # what was sent does not fit the flow
    TOO_MUCH = "too_much"  # it is more than one request may take
    GONE = "gone"  # a file of the flow is not where it was stored
    DAMAGED = "damaged"  # the files are no flow
    UNREACHABLE = "unreachable"  # the storage does not answer
    MEMORY = "memory"  # it takes more memory than the process may have
    FAILED = "failed"  # a fault of ours


class _Header(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class StoredFile(_Header):
    """A file of the storage: its path there, and the SHA-256 that it must have."""

    path: str
    sha256: str


class FlowQuestion(_Header):
    """The header of a question about a trained flow; the content is the request's body.

    Attributes:
        operation: what to compute.
        storage: where the files of jobs lie.
        config: ``config.json`` of a run.
        weights: its ``weights.safetensors``.
        sent: format of the content; None: there is none.
        header: whether its first line names the columns, if it is csv.
        csv: how it is written, if it is csv.
        wanted: format of the answer.
        n: samples, of each context if the flow takes one.
        seed: of the samples; None: another one at each call.
        times: of the trajectories.
        most_rows: of a table, sent or answered.
        most_values: of a table.
    """

    operation: Operation
    storage: str
    config: StoredFile
    weights: StoredFile
    sent: MediaType | None
    header: bool = True
    csv: CsvOptions = CsvOptions()
    wanted: MediaType
    n: int = 1
    seed: int | None = None
    times: tuple[float, ...] = ()
    most_rows: int
    most_values: int

    # What helps where it takes too long or too much memory.
    ask_for_less: ClassVar[str] = "send fewer rows at a time, or download the job's files and use symadj_core.load"


class PlanQuestion(_Header):
    """The header of a question for a job's plan; there is no content, and the answer's is the plan in JSON.

    Attributes:
        spec: of the job, as it is stored.
        columns: that the flow models; None: the data are read for it.
        context_columns: beside these.
        image: channels, height and width of the image in a row, or None.
        roots: the folders that the data may lie below.
        uploads: those that the spec names.
        cache: the folder for copies of files from buckets; None is one in the system's temporary folder.
        available_bytes: the most that each worker could have, where that is known.
        all_gradients: every way to make the gradient, or the spec's own alone.
    """

    spec: dict[str, Any]
    columns: int | None = None
    context_columns: int = 0
    image: tuple[int, int, int] | None = None
    roots: tuple[str, ...] = ()
    uploads: tuple[UploadedFile, ...] = ()
    cache: str | None = None
    available_bytes: int | None = None
    all_gradients: bool = True

    ask_for_less: ClassVar[str] = (
        "say how many columns (or what images) the data have, so that they need not be read, or plan a smaller flow"
    )


class CheckQuestion(_Header):
    """The header of a question whether a job's data, flow and memory fit; the answer's content is a ``CheckedSpec``.

    Attributes:
        spec: of the job, as it is stored.
        roots: the folders that the data may lie below.
        uploads: those that the spec names.
        cache: the folder for copies of files from buckets; None is one in the system's temporary folder.
        available_bytes: the most that each worker could have, where that is known.
    """

    kind: Literal["check"] = "check"  # a plan's question has the same fields
    spec: dict[str, Any]
    roots: tuple[str, ...]
    uploads: tuple[UploadedFile, ...] = ()
    cache: str | None = None
    available_bytes: int | None = None

    ask_for_less: ClassVar[str] = "the run itself reads such data"


Question = FlowQuestion | CheckQuestion | PlanQuestion


class FlowAnswer(_Header):
    """The header of an answer; the content is what was asked for, if it was computed."""

    outcome: FlowOutcome
    message: str = ""


class NodeCheck(_Header):
    """A question that a process on a node of Ray is to answer (``workers/node_check.py``).

    It and the answer, a frame, are files of one folder in the storage.

    Attributes:
        question: to answer.
        memory: bytes that this may take, beyond what the process has with the libraries loaded.
        threads: that compute.
    """

    question: CheckQuestion | PlanQuestion
    memory: int
    threads: int

    PLACE_VARIABLE: ClassVar[str] = "SYMADJ_NODE_CHECK"  # of the environment: the folder's path or URL
    FILE: ClassVar[str] = "check.json"
    ANSWER: ClassVar[str] = "answer"


def unframe(framed: bytes) -> tuple[FlowAnswer, bytes]:
    """Return the answer and its content that a whole frame has."""
    of_header, of_content = LENGTHS.unpack_from(framed)
    header, content = framed[LENGTHS.size :][:of_header], framed[LENGTHS.size + of_header :]
    assert len(content) == of_content
    return FlowAnswer.model_validate_json(header), content


def frame(header: Question | FlowAnswer, content: bytes = b"") -> bytes:
    """Return a header and content as they are written to a pipe."""
    text = header.model_dump_json().encode()
    return LENGTHS.pack(len(text), len(content)) + text + content
