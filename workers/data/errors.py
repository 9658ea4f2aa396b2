"""What is wrong with the data, and where."""

from __future__ import annotations

from typing import Any

__all__ = ["DataError"]


class DataError(Exception):
    """The data cannot be trained on; the message names the file, column and row, and what to do.

    Attributes:
        place: those of ``file``, ``column`` (its name) and ``row`` (counted from 0) that are known.
    """

    def __init__(
        self, message: str, *, file: str | None = None, column: str | None = None, row: int | None = None
    ) -> None:
        super().__init__(message)
        known = {"file": file, "column": column, "row": row}
        self.place: dict[str, Any] = {name: value for name, value in known.items() if value is not None}
