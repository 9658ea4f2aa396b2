"""Tables of any length as csv, made while they are sent."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime
from itertools import islice
from typing import Any

from fastapi.responses import StreamingResponse

from symadj.service.contract.flow_question import MediaType

__all__ = ["csv_answer"]

_ROWS_OF_A_PIECE = 1000


def csv_answer(columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> StreamingResponse:
    """Return a table as csv: nothing where there is no value, numbers with all their digits, times in ISO 8601."""
    return StreamingResponse(_pieces(columns, rows), media_type=MediaType.CSV, headers={"Vary": "Accept"})


def _pieces(columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> Iterator[str]:
    yield _lines([columns])
    waiting = iter(rows)
    while piece := list(islice(waiting, _ROWS_OF_A_PIECE)):
        yield _lines(piece)


def _lines(rows: Iterable[Sequence[Any]]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerows([value.isoformat() if isinstance(value, datetime) else value for value in row] for row in rows)
    return text.getvalue()
