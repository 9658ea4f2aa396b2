"""A job that scores rows by a trained flow."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import ConfigDict, Field, model_validator

from symadj.service.contract.spec.any_job import AnyJob, JobName
from symadj.service.contract.spec.data import (
    BuiltinRows,
    CsvOptions,
    FileRows,
    FormatName,
    HasHeader,
    MafRows,
    ParquetStreamRows,
    ToyRows,
)
from symadj.service.contract.spec.section import Section, misfit

__all__ = [
    "ScoredRows",
    "ScoresRequest",
    "ScoresSpec",
    "SolverSettings",
    "StoredRows",
    "TrainedFiles",
    "Units",
    "UploadedRows",
]

Units = Annotated[
    Literal["original", "transformed"],
    Field(description="Of the rows and their density: those of the data, or those that the flow itself sees."),
]
SolverSettings = Annotated[
    Literal["tested", "trained"],
    Field(
        description="Of the solver: the divergence and the tolerances of the trained job's test, or those of its "
        "training."
    ),
]
StoredRows = Annotated[BuiltinRows | ToyRows | FileRows | MafRows | ParquetStreamRows, Field(discriminator="kind")]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class _Scores(AnyJob):
    name: JobName = "scores"
    units: Units = "original"
    settings: SolverSettings = "tested"

    @model_validator(mode="after")
    def _parts_fit_together(self) -> Self:
        self._check_elasticity()
        if self.resources.microbatch_size is not None:
            raise misfit(
                "/resources/microbatch_size",
                "resources.microbatch_size is about a training; the flow says how many rows are solved together: leave "
                "it out",
            )
        if self.resources.out_of_memory_retries:
            raise misfit(
                "/resources/out_of_memory_retries",
                "resources.out_of_memory_retries is about a training, which can take fewer rows at once: leave it out",
            )
        return self

    @property
    def rows_to_share(self) -> int:
        """None: each worker scores what it is given, however much."""
        return 0


class ScoresRequest(_Scores):
    """Rows to score, by a reference to where the workers find them."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"data": {"kind": "file", "path": "cells/sample.csv"}},
                {"data": {"kind": "parquet_stream", "path": "cells"}, "resources": {"kind": "cpu", "workers": 4}},
            ]
        }
    )

    data: StoredRows = Field(description="The rows to score, which lie below the data roots.")


class UploadedRows(Section):
    """The rows of the file that came with the request; it is an artifact of the job of attempt 0, by its name."""

    kind: Literal["uploaded"]
    name: str = Field(min_length=1, max_length=200)
    format: FormatName
    header: HasHeader = True
    csv: CsvOptions = Field(CsvOptions(), description="How a csv file is written, where it is not as usual.")
    bytes: int = Field(ge=0)
    sha256: Sha256


ScoredRows = Annotated[
    BuiltinRows | ToyRows | FileRows | MafRows | ParquetStreamRows | UploadedRows, Field(discriminator="kind")
]


class TrainedFiles(Section):
    """The trained flow: the job, and the files of it that were copied for this one, by their sums."""

    job: str = Field(min_length=1, max_length=64)
    config_sha256: Sha256
    weights_sha256: Sha256


class ScoresSpec(_Scores):
    """A job that scores rows, whole."""

    kind: Literal["scores"] = "scores"
    trained: TrainedFiles
    data: ScoredRows
