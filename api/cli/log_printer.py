"""Prints lines of logs as they come."""

from __future__ import annotations

import sys

from symadj.api.schemas.telemetry import LogPage

__all__ = ["LogPrinter"]


class LogPrinter:
    """One page after another: the lines alone, or with who printed them and in which attempt.

    The server has taken out of a line what a terminal would obey.
    """

    def __init__(self, *, as_json: bool, with_source: bool, with_attempt: bool) -> None:
        self._as_json = as_json
        self._with_source = with_source
        self._with_attempt = with_attempt
        self._attempt: int | None = None

    def show(self, page: LogPage) -> None:
        """Print the lines of a page."""
        for line in page.items:
            if self._as_json:
                print(line.model_dump_json())
                continue
            if self._with_attempt and line.attempt != self._attempt:
                print(f"==> attempt {line.attempt} <==")
                self._attempt = line.attempt
            print(f"{line.source:<7}| {line.words}" if self._with_source else line.words)
        sys.stdout.flush()
