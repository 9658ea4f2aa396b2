"""Queries on the plans of jobs, and what was measured beside them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy.orm import Session

from symadj.service.contract.plan import Plan
from symadj.service.contract.records import PlanRecord
from symadj.service.store.tables import Job, MetricSeries, PlanRow

__all__ = ["Comparison", "compared", "of_job", "of_jobs", "put"]


def put(session: Session, job: Job, attempt: int, record: PlanRecord) -> None:
    """Store what an attempt will take, unless a later one has said so already."""
    stored = session.get(PlanRow, job.id)
    if stored is None or stored.attempt <= attempt:
        session.merge(PlanRow(job_id=job.id, attempt=attempt, planned_at=record.time, plan=record.plan.stored()))


def of_job(session: Session, job_id: str) -> PlanRow | None:
    """Return the plan of a job, None where there is none yet."""
    return session.get(PlanRow, job_id)


def of_jobs(session: Session, job_ids: Sequence[str]) -> Sequence[PlanRow]:
    """Return the plans of jobs that have one."""
    return session.scalars(sa.select(PlanRow).where(PlanRow.job_id.in_(job_ids))).all()


@dataclass(frozen=True)
class Comparison:
    """A plan beside what was measured.

    Attributes:
        steps: that the solve of a block took, on the average, in the newest step.
        planned_bytes: of a worker, for so many steps.
        measured_bytes: the highest peak of any worker so far, of the host or, with GPUs, of the device.
    """

    steps: float | None
    planned_bytes: int | None
    measured_bytes: int | None

    @property
    def error(self) -> float | None:
        """Planned / measured - 1; None where one is not known."""
        if self.planned_bytes is None or not self.measured_bytes:
            return None
        return self.planned_bytes / self.measured_bytes - 1.0


def compared(row: PlanRow, job: Job, series: Sequence[MetricSeries]) -> Comparison:
    """Compare the plan of a job with what its metrics and its peaks say."""
    plan = Plan.model_validate(row.plan)
    accepted = next((item.last_value for item in series if item.name == "steps_accepted"), None)
    steps = None if accepted is None or math.isnan(accepted) else accepted / plan.blocks
    return Comparison(
        steps=steps,
        planned_bytes=None if steps is None else plan.worker_bytes(plan.chosen, steps),
        measured_bytes=job.device_peak_bytes if job.spec["resources"]["kind"] == "gpu" else job.host_peak_bytes,
    )
