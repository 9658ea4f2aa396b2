"""Whether a job's data, flow and memory fit, found before there is a job."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from pydantic import ByteSize

from symadj.service.contract.data_summary import DataSummary
from symadj.service.contract.finding import CheckedSpec, Finding
from symadj.service.contract.plan import Plan
from symadj.service.contract.spec import JobSpec
from symadj.service.contract.uploaded import UploadedFile
from symadj.workers.data import DataError, DataRoots, check_data
from symadj.workers.model.build import build_flow
from symadj.workers.planning import make_plan

__all__ = ["check_spec"]


def check_spec(
    spec: JobSpec,
    roots: Sequence[str],
    available_bytes: int | None,
    cache: Path | None = None,
    uploads: Sequence[UploadedFile] = (),
) -> CheckedSpec:
    """Read a job's data as its run would, and plan its memory. What looks wrong about the data is a warning.

    Args:
        spec: of the job.
        roots: the folders that the data may lie below.
        available_bytes: the most that each worker could have, where that is known.
        cache: the folder for copies of files from buckets; None is one in the system's temporary folder.
        uploads: those that the spec names.

    Raises:
        StorageUnreachableError: a bucket with the data does not answer.
        ValueError: a figure of the plan makes no sense.
    """
    read: list[DataSummary] = []
    findings = _findings(spec, DataRoots(roots, cache, uploads=uploads), available_bytes, read)
    return CheckedSpec(findings=findings, data=next(iter(read), None))


def _findings(spec: JobSpec, roots: DataRoots, available_bytes: int | None, read: list[DataSummary]) -> list[Finding]:
    """Return what is found, and leave in ``read`` what is read."""
    try:
        training_rows = check_data(spec.data, roots, read.append)
    except DataError as error:
        return [Finding(pointer=_pointer(spec, error), severity="error", detail=str(error))]
    if (why := spec.too_few(training_rows)) is not None:
        return [Finding(pointer="/resources/workers", severity="error", detail=why)]
    spec = spec.for_rows(training_rows)
    first = read[0].sources[0]
    context = sum(column.context for column in first.columns)
    try:
        flow = build_flow(spec, first.dim - context, context, read[0].image)
    except DataError as error:
        return [Finding(pointer="/flow", severity="error", detail=str(error))]
    doubts = [
        Finding(pointer="/data", severity="warning", detail=f"{source.name}: {remark}")
        for source in read[0].sources
        for remark in source.remarks
    ]
    return [*doubts, *_memory(make_plan(spec, flow, available_bytes=available_bytes, all_gradients=False))]


def _pointer(spec: JobSpec, error: DataError) -> str:
    """Return the part of the spec that an error of the data is about."""
    if "column" in error.place and getattr(spec.data, "columns", None) is not None:
        named = error.place["column"] in getattr(spec.data, "context_columns", ())
        return "/data/context_columns" if named else "/data/columns"
    given = error.place.get("file")
    return next((f"/data/{name}" for name in ("path", "test_path") if given == getattr(spec.data, name, "")), "/data")


def _memory(plan: Plan) -> Iterator[Finding]:
    """Yield what of a plan does not fit."""
    peaks = plan.chosen.peaks
    for pointer, what, bound, fits in (
        ("/resources/memory_budget", "resources.memory_budget", plan.memory_budget, [p.fits_budget for p in peaks]),
        ("/resources", "the most that a node has for it", plan.available_bytes, [p.fits_workers for p in peaks]),
    ):
        if bound is None or False not in fits:
            continue
        peak = peaks[fits.index(False)]
        yield Finding(
            pointer=pointer,
            severity="warning" if True in fits else "error",
            detail=(
                f"a worker is to hold {_size(peak.worker_bytes)} where each block's solve takes {peak.steps} steps, "
                f"and {what} is {_size(bound)}: take a smaller data.batch_size, more workers or another gradient "
                "(`symadj plan` shows what each takes)"
            ),
        )


def _size(count: float) -> str:
    return ByteSize(int(count)).human_readable(separator=" ")
