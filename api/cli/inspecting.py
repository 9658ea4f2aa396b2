"""``symadj inspect``: what a run would read from a file, without a job and without a service."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from pydantic import BaseModel, ConfigDict, ValidationError

from symadj.api.cli.data import data_parts
from symadj.api.cli.documents import set_fields
from symadj.api.cli.shared import AsJson, print_answer
from symadj.api.wrong_fields import in_our_words
from symadj.service.contract.data_summary import DataAnswer, DataQuestion
from symadj.service.contract.spec.data import Data

__all__ = ["InspectError", "app"]

app = typer.Typer()

# Runs are started by name: this room does not import the workers'.
_READER = "symadj.workers.inspect"
# What a spec has to say of a training, and a look at the data need not: as little as is allowed.
_FEWEST: dict[str, dict[str, Any]] = {
    "parquet_stream": {"validation_rows": 2, "test_rows": 2},
}


class InspectError(Exception):
    """The file can't be read, or a run would refuse it; the message says why."""


class _Document(BaseModel):
    model_config = ConfigDict(extra="forbid")

    data: Data


@app.command("inspect")
def inspect_command(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A file, or a folder of parquet files.")],
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="FIELD=VALUE",
            help="Say more of the data, as in a spec, e.g. --set 'data.csv.delimiter=;' --set data.columns=[a,b]",
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Show what a run would read from a file: columns, types, ranges, zeros; and whether it would refuse it."""
    if not file.exists():
        raise InspectError(f"{file} does not exist")
    found = _ask(DataQuestion(data=_data(file, settings), roots=(os.getcwd(), "/")))
    if found.summary is not None:
        print_answer(found.summary, data_parts(found.summary, "--json prints them all"), as_json)
    if found.refused is not None:
        raise InspectError(
            found.refused if found.summary is None else f"a run would refuse these data: {found.refused}"
        )


def _data(file: Path, settings: list[str] | None) -> Data:
    """Return the section ``data`` of a spec that reads ``file``.

    Raises:
        InspectError: the settings do not make such a section.
    """
    # A spec's path does not climb.
    path = os.path.abspath(file) if ".." in file.parts else str(file)
    document: dict[str, Any] = {"data": {"kind": "parquet_stream" if file.is_dir() else "file"}}
    set_fields(document, settings)
    section = document["data"]
    if isinstance(section, dict):
        document["data"] = {"path": path, **_FEWEST.get(str(section.get("kind")), {}), **section}
    try:
        return _Document.model_validate(document).data
    except ValidationError as error:
        raise InspectError(_in_words(error, document)) from error


def _in_words(error: ValidationError, document: dict[str, Any]) -> str:
    from symadj.api.problems import field_error  # with the server's libraries, which take a while to load

    wrong = (
        field_error({**item, "loc": ("body", *item["loc"]), "msg": in_our_words(item, _Document)}, document)
        for item in error.errors()
    )
    return "; ".join(f"{item.pointer}: {item.detail}" if item.pointer else item.detail for item in wrong)


def _ask(question: DataQuestion) -> DataAnswer:
    """Return the answer of a reader, in a process of its own.

    Raises:
        InspectError: it ended without one.
    """
    # -P: nothing is imported from the folder that the user is in.
    command = [sys.executable, "-P", "-m", _READER]
    reader = subprocess.run(command, input=question.model_dump_json().encode(), capture_output=True, check=False)
    if reader.returncode:
        killed = f"signal {-reader.returncode}; is the memory used up?"
        last = killed if reader.returncode < 0 else reader.stderr.decode(errors="replace").strip().splitlines()[-1]
        raise InspectError(f"the reader of {question.data.kind} data ended without an answer: {last}")
    return DataAnswer.model_validate_json(reader.stdout)
