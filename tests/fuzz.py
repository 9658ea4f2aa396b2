"""Random specs of every kind, trained for three steps in this process: none may end as an error of ours.

``make fuzz`` runs many; ``make test`` some. The specs come from the spec's own JSON schema, so that a new field takes
part by itself. A spec is a function of the seed and its number: ``SEED=7 ONLY=123 make fuzz`` repeats one.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from pydantic import ValidationError

from symadj.service.contract.order import RunOrder
from symadj.service.contract.records import OutcomeRecord
from symadj.service.contract.spec import JobSpec
from symadj.service.contract.states import JobState, ReasonCode, StopReason
from symadj.workers.attempt import AttemptRun
from symadj.workers.ray.reading import read_data
from tests.schemas import Documents
from tests.workers.fcs_files import Channel, FcsFile
from tests.workers.runs import KeepingOutbox, rank_run

SCHEMA = JobSpec.model_json_schema()
STEPS = 3
# Beyond them a run only takes longer.
LIMITS: dict[str, tuple[float, float]] = {
    "batch_size": (1, 40),
    "validation_rows": (2, 20),
    "test_rows": (2, 20),
    "inverse_rows": (0, 20),
    "gradient_rows": (0, 20),
    "two_sample_rows": (0, 60),
    "calibration_rows": (0, 40),
    "calibration_draws": (1, 20),
    "blocks": (1, 2),
    "depth": (1, 4),
    "end_time": (1e-6, 2),
    "hidden": (1, 16),
    "hidden_channels": (1, 8),
    "levels": (1, 3),
    "max_steps": (1, 100),
    "mixture_components": (0, 3),
    "probes": (1, 12),
    "rows": (100, 300),
    "steps": (1, 30),
    "tolerance_factor": (0.03, 1),
    "rtol": (1e-3, 1),
    "atol": (1e-4, 1),
    "test_fraction": (0.05, 0.3),
    "validation_fraction": (0.05, 0.3),
    "warmup_steps": (0, 1),
    "width": (1, 16),
    "workers": (1, 1),
    "min_workers": (1, 1),
    "cpus_per_worker": (1, 1),
}
NAMES = ["x0", "x1", "x2"]
TABLES = ["a.csv", "a.npy", "a.npz", "a.parquet", "a.h5", "a.fcs"]
CHOICES = {
    "columns": [*NAMES * 6, "none"],
    "context_columns": [*"c" * 9, "none"],
    "path": [*TABLES, "images.npy", "stream", "missing"],
    "test_path": ["test.csv", "test.npy", "missing.csv"],
    "key": ["a", "none"],
    "size": ["1MiB", "1GiB"],
    "memory_budget": ["1MiB", "1GiB"],
    "name": ["flow", "Größe 1"],
}
# How often a field of the data is left out, since most of its values fit no file; how often the rest is made to fit.
OFTEN_DEFAULT = {"format": 0.95, "csv": 0.9, "header": 0.9, "key": 0.5, "test_path": 0.8, "transforms": 0.6}
FITTING = 0.9
LONGEST_S = 20.0


class ImpatientOutbox(KeepingOutbox):
    """An outbox that asks a run to stop when it takes longer than ``patience_s`` seconds."""

    def __init__(self, patience_s: float) -> None:
        super().__init__()
        self._until = time.monotonic() + patience_s

    @property
    def stop(self) -> StopReason | None:
        return StopReason.CANCEL if time.monotonic() > self._until else None


@dataclass
class Tally:
    """What became of the specs; ``trained`` made all of their steps, whatever came then."""

    ends: Counter[str] = field(default_factory=Counter)
    trained: int = 0
    kinds: set[str] = field(default_factory=set)
    faults: list[str] = field(default_factory=list)
    slowest: tuple[float, int] = (0.0, -1)


def write_files(folder: Path) -> None:
    """Write small files of every format that a random spec may name."""
    rng = np.random.default_rng(0)
    rows = np.hstack([rng.standard_normal((240, 3)), rng.integers(2, size=(240, 1))]).astype(np.float32)
    names = [*NAMES, "c"]
    for name in ("a", "test"):
        text = "\n".join([",".join(names), *(",".join(map(str, row)) for row in rows.tolist())])
        (folder / f"{name}.csv").write_text(text + "\n")
        np.save(folder / f"{name}.npy", rows)
    np.savez(folder / "a.npz", a=rows)
    np.save(folder / "images.npy", rng.integers(256, size=(240, 4, 4), dtype=np.uint8))
    table = pa.table(dict(zip(names, rows.T, strict=True)))
    pq.write_table(table, folder / "a.parquet")
    (folder / "stream").mkdir()
    pq.write_table(table, folder / "stream" / "part.parquet", row_group_size=60)
    with h5py.File(folder / "a.h5", "w") as file:
        file["a"] = rows
    for name in ("power", "gas", "hepmass", "miniboone", "bsds300"):
        (folder / name).mkdir()
    np.save(folder / "power" / "data.npy", rng.integers(20, size=(200, 8)).astype(float))
    np.save(folder / "miniboone" / "data.npy", rng.standard_normal((200, 3)))
    gas = {name: rng.standard_normal(200) for name in ("Meth", "Eth", "Time", "R1", "R2", "R3")}
    pq.write_table(pa.table(gas), folder / "gas" / "ethylene_CO.parquet")
    for name, last in (("train", ""), ("test", ",mass")):
        lines = [",".join(map(str, [1, *row])) for row in rng.standard_normal((100, 3 + bool(last))).tolist()]
        (folder / "hepmass" / f"1000_{name}.csv").write_text("\n".join([f"# label,f0,f1,f2{last}", *lines]) + "\n")
    with h5py.File(folder / "bsds300" / "BSDS300.hdf5", "w") as file:
        for name in ("train", "validation", "test"):
            file[name] = rng.standard_normal((60, 63))
    channels = [Channel(name) for name in names]
    (folder / "a.fcs").write_bytes(FcsFile(rows.tolist(), channels).content())


def fit(document: dict[str, Any], rng: Random) -> None:
    """Make the data of a spec such as it can be trained on: most random ones end before the first step."""
    data, images = document["data"], document["flow"].get("kind") == "multiscale"
    match data["kind"]:
        case "maf":
            data["path"] = data["name"]
        case "parquet_stream":
            data["path"] = rng.choice(["stream", "a.parquet"])
        case "builtin" if images:
            data["name"] = "digits"
        case "file":
            data["path"] = "images.npy" if images else rng.choice(TABLES)
            data["key"] = "a" if data["path"] in {"a.npz", "a.h5"} else None
    if images or data["kind"] in {"builtin", "toy", "maf"}:  # their columns have other names
        for place in (data, *(data.get("transforms") or ())):
            place.pop("columns", None)
            place.pop("context_columns", None)
    if "test_path" in data:
        data.pop("test_fraction", None)


def random_spec(seed: int, number: int) -> JobSpec:
    """Return the accepted spec of a number, small enough to be run."""
    rng = Random(f"{seed}-{number}")
    documents = Documents(SCHEMA, limits=LIMITS, choices=CHOICES)
    sections = {name: documents.options(SCHEMA["properties"][name]) for name in ("data", "flow")}
    chosen: dict[str, Any] = {}
    for attempt in itertools.count():
        if attempt % 50 == 0:
            # Kept for a while, however often the rest is drawn anew: kinds that are often refused would be rare.
            chosen = {name: rng.choice(options) for name, options in sections.items()}
        document = documents.random(SCHEMA, rng)
        document |= {name: documents.random(section, rng, name) for name, section in chosen.items()}
        document["solver"] = documents.random(SCHEMA["properties"]["solver"], rng, "solver")
        # Pictures take most of the time, and few parts of a spec have a say in them.
        evaluation = documents.random(SCHEMA["properties"]["evaluation"], rng, "evaluation")
        document["evaluation"] = evaluation and evaluation | {"plots": rng.random() < 0.1}
        for name, share in OFTEN_DEFAULT.items():
            if rng.random() < share:
                document["data"].pop(name, None)
        if rng.random() < FITTING:
            fit(document, rng)
        if (document["flow"].get("field") or {}).get("kind") == "plugin":
            continue  # no package that offers one is installed here
        if document["data"].get("name") == "flow_cytometry":
            document["data"]["name"] = "wine"  # of a few rows
        if document.get("stop", {}).get("kind") == "minutes":
            document["stop"]["max_minutes"] = 1e-3
        else:
            document["stop"] = {"kind": "steps", "max_steps": STEPS}
        if document.get("pretraining"):
            document["pretraining"]["steps"] = 1
        # Of a usual batch, up to 1,000 rows, one step may take minutes, and a run stops between its steps only.
        if document["data"].get("batch_size") is None:
            document["data"]["batch_size"] = LIMITS["batch_size"][1]
        document.pop("parent", None)  # which the service finds, not the run
        with contextlib.suppress(ValidationError):
            return JobSpec.model_validate(document)
    raise AssertionError("unreachable")


def run(spec: JobSpec, folder: Path, patience_s: float = LONGEST_S) -> tuple[OutcomeRecord | None, ImpatientOutbox]:
    """Do what the driver and the only rank of an attempt do; return the outcome and the records."""
    with tempfile.TemporaryDirectory(dir=folder) as storage:
        order = RunOrder(
            job_id="job-1",
            attempt=1,
            api_url="http://127.0.0.1:9",
            storage=storage,
            workers=1,
            data_roots=(str(folder),),
            spec=spec,
        )
        outbox = ImpatientOutbox(patience_s)
        _, refusal = read_data(order)
        outcome = refusal.outcome() if refusal is not None else AttemptRun(rank_run(order, outbox)).run()
        return outcome, outbox


def kinds_of(value: Any, name: str = "") -> Iterator[str]:
    """Yield the kinds that a stored spec names, by their section."""
    if isinstance(value, dict):
        if "kind" in value:
            yield f"{name}: {value['kind']}"
        for key, inner in value.items():
            yield from kinds_of(inner, key)
    elif isinstance(value, list):
        for inner in value:
            yield from kinds_of(inner, name)


def fault_of(outcome: OutcomeRecord | None) -> str | None:
    """Return what of an outcome is a fault of ours."""
    if outcome is None:
        return "no outcome"
    if outcome.state is JobState.FAILED and outcome.reason in {None, ReasonCode.INTERNAL}:
        return f"{outcome.reason}: {outcome.message}\n{outcome.data.get('traceback', '')}"
    if "Traceback" in outcome.message:
        return f"a traceback for a message: {outcome.message}"
    failures = (outcome.result.report_failures if outcome.result is not None else None) or ()
    ours = [failure for failure in failures if failure.reason == ReasonCode.INTERNAL]
    return "; ".join(f"{failure.part}: {failure.message}" for failure in ours) or None


def fuzz(seed: int, numbers: range, folder: Path, patience_s: float = LONGEST_S) -> Tally:
    """Run the specs of these numbers, each for so many seconds; files are written into ``folder``."""
    write_files(folder)
    tally = Tally()
    for number in numbers:
        spec = random_spec(seed, number)
        tally.kinds |= set(kinds_of(spec.stored()))
        began = time.perf_counter()
        outbox = None
        try:
            outcome, outbox = run(spec, folder, patience_s)
            fault = fault_of(outcome)
            if outcome is not None:
                tally.ends[f"{outcome.state} {outcome.reason or ''}".strip()] += 1
        except Exception:
            fault = traceback.format_exc()
        if outbox is not None and len(outbox.series("step_seconds")) >= STEPS:
            tally.trained += 1
        if fault is not None:
            traces = [e.data["traceback"] for e in outbox.of("event") if "traceback" in e.data] if outbox else []
            told = "\n".join([fault, *traces])
            tally.faults.append(f"seed {seed}, number {number}: {told}\n{json.dumps(spec.stored())}\n")
            print(tally.faults[-1], flush=True)
        tally.slowest = max(tally.slowest, (time.perf_counter() - began, number))
        if (number + 1) % 25 == 0:
            print(f"{number + 1} specs, {tally.trained} trained: {dict(tally.ends)}", flush=True)
    return tally


def main() -> int:
    """Run specs by the options of the command line; return 1 if one ended in a fault of ours."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=Random().randrange(10**6), help="default: a new one, which is told")
    parser.add_argument("--count", type=int, default=500)
    parser.add_argument("--only", type=int, help="the spec of this number alone")
    given = parser.parse_args()
    torch.set_num_threads(1)
    numbers = range(given.count) if given.only is None else range(given.only, given.only + 1)
    with tempfile.TemporaryDirectory() as folder:
        tally = fuzz(given.seed, numbers, Path(folder))
    seconds, number = tally.slowest
    ends = ", ".join(f"{end}: {count}" for end, count in tally.ends.most_common())
    print(
        f"seed {given.seed}: {len(numbers)} specs, {len(tally.kinds)} kinds, {tally.trained} trained; "
        f"{ends}; slowest: {number}, {seconds:.0f} s"
    )
    print(f"{len(tally.faults)} faults" if tally.faults else "no fault")
    return 1 if tally.faults else 0


if __name__ == "__main__":
    sys.exit(main())
