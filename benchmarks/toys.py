"""How well a spec's flow does on the toys and the built-in sets, each trained in this process, without the service.

``python -m benchmarks.toys [NAME ...] [--recipe recipes/toys.yaml] [--seeds 3] [--set stop.max_steps=4000]``. Without
a recipe the spec has ``data`` alone, so that it is the defaults that are measured. The table has the median of several
seeds (of the split and of the training). The noise is the standard error that the two-sample accuracy of a perfect flow
has on so many rows. The time is the processor's, of training alone, with one thread.
"""

from __future__ import annotations

import argparse
import math
import statistics
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import torch
import yaml

from symadj.service.contract.order import RunOrder
from symadj.service.contract.records import AnyRecord, EventRecord
from symadj.service.contract.result import JobResult
from symadj.service.contract.spec import JobSpec
from symadj.service.contract.spec.data import BuiltinName, ToyName
from symadj.service.contract.states import StopReason
from symadj.workers.attempt import AttemptRun
from symadj.workers.distributed.ranks import Ranks
from symadj.workers.rank_run import RankRun

NAMES = (*get_args(ToyName), *get_args(BuiltinName))


class TimingOutbox:
    """Delivers nothing, and notes the processor's time of training."""

    stop: StopReason | None = None
    superseded = False
    checkpoints_asked = 0

    def __init__(self) -> None:
        self._began = time.process_time()
        self.seconds = math.nan

    def put(self, record: AnyRecord) -> None:
        if isinstance(record, EventRecord) and record.name == "training_finished":
            self.seconds = time.process_time() - self._began

    def raise_if_stopped(self) -> None:
        pass

    def flush(self, timeout: float) -> bool:
        return True


@dataclass(frozen=True)
class Measured:
    """One training: its result, and the processor's seconds of training."""

    result: JobResult
    seconds: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"default: all of {', '.join(NAMES)}")
    parser.add_argument("--recipe", type=Path, help="a spec; the names replace that of its data")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--set", action="append", default=[], metavar="FIELD=VALUE", help="of the spec, in YAML")
    options = parser.parse_args()
    torch.set_num_threads(1)
    print("set | two-sample accuracy, median (all) | noise | test NLL | validation NLL | processor seconds", flush=True)
    for name in options.names or NAMES:
        measured = [measure(spec_of(name, options.recipe, options.set, seed)) for seed in range(options.seeds)]
        print(told(name, measured), flush=True)


def spec_of(name: str, recipe: Path | None, changes: Sequence[str], seed: int) -> JobSpec:
    """Return the spec of a set: the recipe's or one with defaults alone, the changes, and what a table needs not."""
    document: dict[str, Any] = {} if recipe is None else yaml.safe_load(recipe.read_text())
    kind = "toy" if name in get_args(ToyName) else "builtin"
    document["data"] = document.get("data", {}) | {"kind": kind, "name": name, "split_seed": seed}
    document |= {"name": name, "seed": seed}
    document = JobSpec.model_validate(document).stored()  # with the defaults, before anything is set beside them
    document["evaluation"] |= {"plots": False, "mixture_components": 0, "inverse_rows": 0}
    document["resources"] = {"kind": "cpu", "workers": 1}
    for change in changes:
        field, _, value = change.partition("=")
        *sections, last = field.split(".")
        section = document
        for part in sections:
            section = section.setdefault(part, {})
        section[last] = yaml.safe_load(value)
    return JobSpec.model_validate(document)


def measure(spec: JobSpec, roots: Sequence[str] = (), outbox: TimingOutbox | None = None) -> Measured:
    """Train and evaluate in this process; ``roots`` are those of the data."""
    outbox = outbox or TimingOutbox()
    with tempfile.TemporaryDirectory() as storage:
        order = RunOrder(
            job_id="job-1",
            attempt=1,
            api_url="http://127.0.0.1:9",
            storage=storage,
            data_roots=tuple(roots),
            workers=1,
            spec=spec,
        )
        outcome = AttemptRun(RankRun(order, Ranks(torch.device("cpu")), outbox)).run()
    if outcome is None or outcome.result is None:
        raise RuntimeError(f"{spec.name}: {outcome and outcome.message}")
    return Measured(outcome.result, outbox.seconds)


def told(name: str, measured: Sequence[Measured]) -> str:
    """Return a line of the table."""
    results = [one.result for one in measured]
    accuracy = [result.two_sample.accuracy for result in results if result.two_sample is not None]
    rows = [result.two_sample.rows for result in results if result.two_sample is not None]
    columns = [
        name,
        f"{statistics.median(accuracy):.3f} ({_numbers(accuracy)})" if accuracy else "too few rows",
        f"{math.sqrt(0.25 / (2 * rows[0])):.3f}" if rows else "",
        _numbers([result.test_nll for result in results]),
        _numbers([result.validation_nll for result in results]),
        " ".join(f"{one.seconds:.0f}" for one in measured),
    ]
    return " | ".join(columns)


def _numbers(values: Sequence[float | None]) -> str:
    return " ".join("-" if value is None else f"{value:.3f}" for value in values)


if __name__ == "__main__":
    main()
