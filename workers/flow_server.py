"""Densities, samples and trajectories of trained flows, plans of jobs, and looks at their data, for the API.

The API starts it as ``python -m symadj.workers.flow_server``.
Questions come on standard input and answers go to standard output, one after the other, in the frames of
:mod:`symadj.service.contract.flow_question`. The first frame says that it is ready. It ends when its input does, in the
middle of a computation too, and so it ends with the API.
"""

from __future__ import annotations

import argparse
import csv
import io
import json
import os
import resource
import sys
import tempfile
import threading
import traceback
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from queue import SimpleQueue
from typing import Any, BinaryIO

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import TypeAdapter
from pydantic_core import to_json

from symadj.service.contract.data_summary import DataSummary
from symadj.service.contract.flow_question import (
    LENGTHS,
    CheckQuestion,
    FlowAnswer,
    FlowOutcome,
    FlowQuestion,
    MediaType,
    Operation,
    PlanQuestion,
    Question,
    StoredFile,
    frame,
)
from symadj.service.contract.plan import Plan
from symadj.service.contract.spec import JobSpec
from symadj.service.contract.storage import StorageError, open_storage
from symadj.workers.checking import check_spec
from symadj.workers.data import DataError, DataRoots, check_data
from symadj.workers.data.formats.arrays import read_npy
from symadj.workers.data.formats.delimited import names_without_header, read_csv
from symadj.workers.data.formats.parquet import read_parquet
from symadj.workers.data.formats.raw import InputFile, need
from symadj.workers.model.build import build_flow
from symadj.workers.model.stored_flow import load_flow
from symadj.workers.planning import make_plan
from symadj_core import LoadError, TrainedFlow
from symadj_core.errors import SolverError

__all__ = ["Flows", "Memory", "answer", "die_first", "main"]

Array = NDArray[np.float64]
# Columns of an answer by name, all of one length.
Columns = dict[str, NDArray[Any]]

# That are kept in memory.
MOST_FLOWS = 4
_QUESTION: TypeAdapter[Question] = TypeAdapter(Question)
_BODY = "the body"
# Beside the flow's own columns, in trajectories.
_TIME, _ROW = "flow_time", "flow_row"


class _TooMuchError(Exception):
    """It is more than one request may take."""


class Flows:
    """The flows that were used last, by the sums of their files."""

    def __init__(self) -> None:
        self._kept: OrderedDict[tuple[str, str], TrainedFlow] = OrderedDict()

    def load(self, place: str, config: StoredFile, weights: StoredFile) -> TrainedFlow:
        """Return the flow of two files in the storage at ``place``.

        Raises:
            FileNotFoundError: one is gone.
            LoadError: one is not what was stored, or they are no flow.
            OSError: the storage can't be read.
        """
        key = (config.sha256, weights.sha256)
        if key not in self._kept:
            self._kept[key] = load_flow(open_storage(place), config, weights)
            if len(self._kept) > MOST_FLOWS:
                self._kept.popitem(last=False)
        self._kept.move_to_end(key)
        return self._kept[key]


def answer(flows: Flows, question: Question, content: bytes) -> tuple[FlowAnswer, bytes]:
    """Return what is answered to a question with this content."""
    try:
        if isinstance(question, PlanQuestion):
            return FlowAnswer(outcome=FlowOutcome.DONE), _planned(question).model_dump_json().encode()
        if isinstance(question, CheckQuestion):
            cache = None if question.cache is None else Path(question.cache)
            spec = JobSpec.of_stored(question.spec)
            found = check_spec(spec, question.roots, question.available_bytes, cache, question.uploads)
            return FlowAnswer(outcome=FlowOutcome.DONE), found.model_dump_json().encode()
        flow = flows.load(question.storage, question.config, question.weights)
        return FlowAnswer(outcome=FlowOutcome.DONE), _written(_computed(flow, question, content), question)
    except FileNotFoundError as error:
        return _not_done(FlowOutcome.GONE, error)
    except StorageError as error:
        return _not_done(FlowOutcome.UNREACHABLE, error)
    except LoadError as error:
        return _not_done(FlowOutcome.DAMAGED, error)
    except MemoryError as error:
        return _not_done(FlowOutcome.MEMORY, error)
    except _TooMuchError as error:
        return _not_done(FlowOutcome.TOO_MUCH, error)
    except (DataError, SolverError, ValueError) as error:
        return _not_done(FlowOutcome.REFUSED, error)
    except Exception as error:
        # What torch and its libraries say where an allocation fails.
        if any(words in str(error) for words in ("can't allocate memory", "bad_alloc", "Cannot allocate memory")):
            return _not_done(FlowOutcome.MEMORY, error)
        traceback.print_exc()
        return _not_done(FlowOutcome.FAILED, error)


def _planned(question: PlanQuestion) -> Plan:
    """Return the plan of a job.

    Raises:
        DataError: its data can't be read, or its flow makes no sense for them.
    """
    spec = JobSpec.of_stored(question.spec)
    columns, context_columns, image = question.columns, question.context_columns, question.image
    if columns is None:
        read: list[DataSummary] = []
        cache = None if question.cache is None else Path(question.cache)
        check_data(spec.data, DataRoots(question.roots, cache, uploads=question.uploads), read.append)
        source = read[0].sources[0]
        context_columns = sum(column.context for column in source.columns)
        columns, image = source.dim - context_columns, read[0].image
    flow = build_flow(spec, columns, context_columns, image)
    return make_plan(spec, flow, available_bytes=question.available_bytes, all_gradients=question.all_gradients)


def _not_done(outcome: FlowOutcome, error: Exception) -> tuple[FlowAnswer, bytes]:
    return FlowAnswer(outcome=outcome, message=str(error) or type(error).__name__), b""


def _computed(flow: TrainedFlow, question: FlowQuestion, content: bytes) -> Columns:
    """Return the answer's columns.

    Raises:
        DataError, ValueError, SolverError: what was sent does not fit the flow.
    """
    if question.operation is Operation.SAMPLE:
        contexts = _contexts_sent(flow, question, content)
        if contexts is not None and not len(contexts):
            raise ValueError("there are no contexts: send one at least")
        return _sampled(flow, question, contexts)
    rows, contexts, index = _rows_sent(flow, question, content)
    if not len(rows):
        raise ValueError("there are no rows: send one at least")
    width = len(flow.columns) + len(flow.context_columns)
    if question.operation is Operation.LOG_PROB:
        _refuse_more(question, len(rows), width)
        scores = flow.log_prob(_events(flow, rows), contexts, index=index)
        return {"log_prob": scores.numpy()}
    _refuse_more(question, len(rows) * len(question.times), width)
    names = {_TIME, _ROW} & {*flow.columns, *flow.context_columns}
    if names:
        raise ValueError(f"a trajectory has the columns {_TIME} and {_ROW}, as the flow itself has: ask for npy")
    times = torch.tensor(question.times, dtype=torch.float64)
    paths = flow.transport(_events(flow, rows), times, contexts).numpy().reshape(-1, len(flow.columns))
    columns: Columns = {
        _TIME: np.repeat(times.numpy(), len(rows)),
        _ROW: np.tile(np.arange(len(rows)), len(times)),
        **_named(flow.columns, paths),
    }
    if contexts is not None:
        columns |= _named(flow.context_columns, np.tile(contexts, (len(times), 1)))
    return columns


def _sampled(flow: TrainedFlow, question: FlowQuestion, contexts: Array | None) -> Columns:
    generator = torch.Generator()
    if question.seed is None:
        generator.seed()
    else:
        generator.manual_seed(question.seed)
    width = len(flow.columns) + len(flow.context_columns)
    _refuse_more(question, question.n * (1 if contexts is None else len(contexts)), width)
    drawn = flow.sample((question.n,), contexts, generator=generator)
    if contexts is None:
        return _named(flow.columns, drawn.numpy().reshape(question.n, -1))
    rows = drawn.transpose(0, 1).numpy().reshape(-1, len(flow.columns))
    return _named(flow.columns, rows) | _named(flow.context_columns, np.repeat(contexts, question.n, 0))


def _named(names: Sequence[str], rows: Array) -> Columns:
    return {name: rows[:, at] for at, name in enumerate(names)}


def _refuse_more(question: FlowQuestion, rows: int, width: int) -> None:
    if rows > question.most_rows or rows * width > question.most_values:
        raise _TooMuchError(
            f"this takes {rows:,} rows of {width} values, and one request may take {question.most_rows:,} rows and "
            f"{question.most_values:,} values: send less at a time, as `symadj logprob` and `symadj sample` do, or "
            "download the job's files and use symadj_core.load"
        )


def _events(flow: TrainedFlow, rows: Array) -> Array:
    return rows.reshape(len(rows), *flow.event_shape)


def _contexts_sent(flow: TrainedFlow, question: FlowQuestion, content: bytes) -> Array | None:
    """Return the contexts [m, C] in the body, or None for a flow without."""
    names = flow.context_columns
    if question.sent is None:
        if names:
            raise ValueError(f"this flow needs contexts ({', '.join(names)}): send them in the body, a row each")
        return None
    if question.sent is MediaType.JSON:
        context = json.loads(content).get("context")
        if context is None:
            return _contexts_sent(flow, question.model_copy(update={"sent": None}), b"")
        if names:
            return _of_json(context, names, "context")
    elif names:
        return _of_table(question, content, names)
    raise ValueError("this flow takes no context: it was trained without context columns")


def _rows_sent(
    flow: TrainedFlow, question: FlowQuestion, content: bytes
) -> tuple[Array, Array | None, torch.Tensor | None]:
    """Return the rows [n, D] in the body, their contexts [n, C], and their numbers [n]."""
    both = (*flow.columns, *flow.context_columns)
    if question.sent is not MediaType.JSON:
        rows = _of_table(question, content, both)
        return rows[:, : len(flow.columns)], rows[:, len(flow.columns) :] if flow.context_columns else None, None
    given = json.loads(content)
    sent, context, index = given.get("rows"), given.get("context"), given.get("index")
    if sent is None:
        sent = given["columns"]
    rows = _of_json(sent, flow.columns, "columns")
    if context is not None and not flow.context_columns:
        raise ValueError("this flow takes no context: it was trained without context columns")
    if flow.context_columns:
        if context is None and isinstance(sent, dict):
            context = sent
        if context is None:
            raise ValueError(
                f"this flow needs a context ({', '.join(flow.context_columns)}): send `context`, a row each"
            )
        context = _of_json(context, flow.context_columns, "context")
        if len(context) == 1:
            context = np.repeat(context, len(rows), 0)
    for what, values in (("context", context), ("index", index)):
        if values is not None and len(values) != len(rows):
            raise ValueError(f"{what} has {len(values)} rows, and there are {len(rows)}")
    return rows, context, None if index is None else torch.tensor(index, dtype=torch.int64)


def _of_json(given: Any, names: Sequence[str], what: str) -> Array:
    """Return [n, len(names)] of a list of rows, or of columns by name."""
    if isinstance(given, Mapping):
        missing = [name for name in names if name not in given]
        if missing:
            raise ValueError(f"the {what} {', '.join(missing)} are missing; the flow takes {', '.join(names)}")
        given = {name: given[name] for name in names}
        lengths = {name: len(values) for name, values in given.items()}
        if len(set(lengths.values())) > 1:
            raise ValueError(f"the {what} have different lengths: {lengths}")
        return np.stack([np.asarray(values, np.float64) for values in given.values()], -1)
    for at, row in enumerate(given):
        if len(row) != len(names):
            raise ValueError(f"row {at} has {len(row)} values: the {what} are {', '.join(names)}")
    return np.asarray(given, np.float64).reshape(-1, len(names))


def _of_table(question: FlowQuestion, content: bytes, names: Sequence[str]) -> Array:
    """Return [n, len(names)] of a table, read as a run reads its data."""
    with tempfile.NamedTemporaryFile(prefix="symadj-") as stored:
        stored.write(content)
        stored.flush()
        file = InputFile(Path(stored.name), _BODY)
        if question.sent is MediaType.CSV:
            called = None if question.header else names_without_header(names)
            return read_csv(file, names, header=question.header, names=called, options=question.csv).values
        if question.sent is MediaType.PARQUET:
            return read_parquet(file, names).values.astype(np.float64)
        values = read_npy(file, names).values
    rows = values.reshape(len(values), -1).astype(np.float64)
    if rows.shape[1] != len(names):
        raise ValueError(f"{_BODY} has the shape {list(values.shape)}: expected [n, {len(names)}], {', '.join(names)}")
    return rows


def _written(columns: Columns, question: FlowQuestion) -> bytes:
    """Return the table in the format that was asked for."""
    match question.wanted:
        case MediaType.JSON:
            named = {name: values.tolist() for name, values in columns.items()}
            return to_json({"columns": named}, inf_nan_mode="strings")
        case MediaType.CSV:
            text = io.StringIO()
            writer = csv.writer(text, lineterminator="\n")
            writer.writerow(columns)
            writer.writerows(zip(*(values.tolist() for values in columns.values()), strict=True))
            return text.getvalue().encode()
        case MediaType.NPY:
            stream = io.BytesIO()
            values = [values.astype(np.float64) for values in columns.values()]
            np.save(stream, values[0] if question.operation is Operation.LOG_PROB else np.stack(values, -1))
            return stream.getvalue()
        case MediaType.PARQUET:
            file = InputFile(Path(), "parquet")
            pyarrow, parquet = need("pyarrow", file), need("pyarrow.parquet", file)
            sink = pyarrow.BufferOutputStream()
            parquet.write_table(pyarrow.table(columns), sink)
            return bytes(sink.getvalue())


def _receive(stream: BinaryIO, questions: SimpleQueue[tuple[bytes, bytes]]) -> None:
    """Put what comes into the queue, and end the process when nothing more can."""
    while len(lengths := stream.read(LENGTHS.size)) == LENGTHS.size:
        of_header, of_content = LENGTHS.unpack(lengths)
        questions.put((stream.read(of_header), stream.read(of_content)))
    os._exit(0)


def die_first() -> None:
    """Where memory runs out, let the kernel (Linux) end this process before others in its container."""
    with suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000")


class Memory:
    """The memory that computations may take beyond what the process has when it is ready (Linux; elsewhere any).

    It counts what the process writes to (heap, stacks), not what it maps of files.

    Args:
        size: bytes.
    """

    def __init__(self, size: int) -> None:
        self._most = None
        if sys.platform == "linux":
            pages = int(Path("/proc/self/statm").read_text().split()[5])  # data and stack
            self._most = pages * os.sysconf("SC_PAGESIZE") + size

    @contextmanager
    def bounded(self) -> Iterator[None]:
        """Let allocations beyond it fail within the block."""
        if self._most is None:
            yield
            return
        soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
        resource.setrlimit(resource.RLIMIT_DATA, (self._most, hard))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_DATA, (soft, hard))


def main() -> None:
    """Answer until the input ends."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--memory", type=int, required=True, help="bytes that computations may take")
    parser.add_argument("--threads", type=int, required=True, help="that compute")
    arguments = parser.parse_args()
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a library prints is no answer
    die_first()
    torch.set_num_threads(arguments.threads)
    questions: SimpleQueue[tuple[bytes, bytes]] = SimpleQueue()
    threading.Thread(target=_receive, args=(sys.stdin.buffer, questions), daemon=True).start()
    flows, memory = Flows(), Memory(arguments.memory)
    given = FlowAnswer(outcome=FlowOutcome.DONE), b""
    while True:
        answers.write(frame(*given))
        answers.flush()
        header, content = questions.get()
        question = _QUESTION.validate_json(header)
        with memory.bounded():
            given = answer(flows, question, content)


if __name__ == "__main__":
    main()
