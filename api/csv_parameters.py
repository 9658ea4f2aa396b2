"""How a csv file that is the body of a request is written: ``data.header`` and ``data.csv`` as query parameters."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import Depends, Query, Request

from symadj.service.contract.flow_question import MediaType
from symadj.service.contract.spec.data import CsvEncoding, CsvOptions, DecimalSign, Delimiter
from symadj.service.errors import InvalidParameterError

__all__ = ["CsvFile", "CsvParameters"]


@dataclass(frozen=True)
class CsvFile:
    """How it is written; by default as most programs do.

    Attributes:
        header: whether its first line names the columns.
        csv: all else.
    """

    header: bool
    csv: CsvOptions

    def fields(self) -> dict[str, Any]:
        """Return them by the names that they have in a spec."""
        return {"header": self.header, "csv": self.csv}


def _about(option: str) -> Any:
    return Query(description=f"Of csv: {CsvOptions.model_fields[option].description}")


async def _csv_file(
    request: Request,
    delimiter: Annotated[Delimiter, _about("delimiter")] = ",",
    decimal: Annotated[DecimalSign, _about("decimal")] = ".",
    encoding: Annotated[CsvEncoding, _about("encoding")] = "utf-8",
    row_names: Annotated[bool, _about("row_names")] = False,
    header: Annotated[bool, Query(description="Of csv: whether its first line names the columns.")] = True,
) -> CsvFile:
    """Return how the csv file is written.

    Raises:
        InvalidParameterError: one is given, and the body is something else.
    """
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    given = [name for name in (*CsvOptions.model_fields, "header") if name in request.query_params]
    if given and media_type != MediaType.CSV:
        raise InvalidParameterError(
            f"{given[0]} is about csv, and Content-Type is {media_type or 'missing'}: leave it out, or send "
            f"{MediaType.CSV}",
            pointer=given[0],
        )
    options = CsvOptions(delimiter=delimiter, decimal=decimal, encoding=encoding, row_names=row_names)
    return CsvFile(header, options)


CsvParameters = Annotated[CsvFile, Depends(_csv_file)]
