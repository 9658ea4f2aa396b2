"""Answers one question about a sweep's next trial, and ends: the process that :mod:`.suggesting` starts.

``python -m symadj.service.dispatcher.suggestion < QUESTION > ANSWER``, both in JSON.
"""

from __future__ import annotations

import dataclasses
import json
import sys

import optuna

from symadj.service.contract.spec.sweep import SweepSpec
from symadj.service.dispatcher import studies
from symadj.service.store.tables import SweepTrial

__all__ = ["main"]


def main() -> None:
    """Read a question and write the answer."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)  # it warns that greenlet, which is not needed, is not installed
    question = json.load(sys.stdin)
    trials = [SweepTrial(**trial) for trial in question["trials"]]
    answer = studies.suggest(SweepSpec.of_stored(question["spec"]), trials)
    json.dump(dataclasses.asdict(answer), sys.stdout)


if __name__ == "__main__":
    main()
