"""A look at data without a job: ``python -m symadj.workers.inspect``, with a question on standard input.

The answer, on standard output, is what a run would say of the data and why it would refuse them.
"""

from __future__ import annotations

import sys

from symadj.service.contract.data_summary import DataAnswer, DataQuestion, DataSummary
from symadj.workers.data import DataError, DataRoots, check_data

__all__ = ["answer", "main"]


def answer(question: DataQuestion) -> DataAnswer:
    """Read and check data as a run does."""
    read: list[DataSummary] = []
    refused = None
    try:
        check_data(question.data, DataRoots(question.roots), read.append)
    except DataError as error:
        refused = str(error)
    return DataAnswer(summary=read[0] if read else None, refused=refused)


def main() -> int:
    """Answer the question on standard input; return 0."""
    question = DataQuestion.model_validate_json(sys.stdin.buffer.read())
    sys.stdout.buffer.write(answer(question).model_dump_json().encode())
    return 0


if __name__ == "__main__":
    sys.exit(main())
