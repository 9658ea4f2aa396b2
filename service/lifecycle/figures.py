"""What is known of jobs beside their rows: how far they are, what they will take, what those in the queue wait for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from sqlalchemy.orm import Session

from symadj.service.contract.records import PRETRAINING_SHORTENED
from symadj.service.contract.states import JobState, StopReason
from symadj.service.store import alerts, events, jobs, metrics, plans
from symadj.service.store.jobs import QueuePlace
from symadj.service.store.plans import Comparison
from symadj.service.store.tables import Job, MetricSeries, PlanRow

__all__ = ["JobFigures", "Place", "of_job", "of_jobs", "of_new_job", "places_of"]

# Steps over which the pace of a run is measured.
_PACE_STEPS = 100


@dataclass(frozen=True)
class Place:
    """Where a job is in the queue, counted from 1, and what it waits for."""

    place: int
    reason: str


@dataclass(frozen=True)
class JobFigures:
    """A job with what its newest records say.

    Attributes:
        series: its metrics with their newest values.
        max_steps: after which it ends; None where something else than steps ends it.
        eta_seconds: until then; None where that is unknown.
        plan: what its newest run said that it would take.
        planned: the plan beside what was measured; None without a plan.
        waiting: of a queued job.
        alerts: rules of the spec's section that hold now, or held at its end.
        cancelled_by: who asked for the end of a job that is cancelled, or about to be.
    """

    job: Job
    series: Sequence[MetricSeries]
    max_steps: int | None
    eta_seconds: float | None
    plan: PlanRow | None
    planned: Comparison | None
    waiting: Place | None
    alerts: Sequence[str]
    cancelled_by: str | None


def of_job(session: Session, job_id: str, *, most_active: int | None) -> JobFigures:
    """Return the figures of a job.

    Raises:
        NotFoundError: there is none of this id.
    """
    (found,) = of_jobs(session, [jobs.get(session, job_id)], most_active=most_active)
    return found


def of_new_job(session: Session, job: Job, *, most_active: int | None) -> JobFigures:
    """Return the figures of a job that this session has put into the queue: nobody has said anything of it yet."""
    return JobFigures(
        job=job,
        series=[],
        max_steps=job.spec.get("stop", {}).get("max_steps"),
        eta_seconds=None,
        plan=None,
        planned=None,
        waiting=places_of(session, [job], most_active=most_active).get(job.id),
        alerts=(),
        cancelled_by=None,
    )


def of_jobs(session: Session, found: Sequence[Job], *, most_active: int | None) -> list[JobFigures]:
    """Return the figures of jobs, in their order; ``most_active`` is how many of an owner may run at once."""
    plan_of = {row.job_id: row for row in plans.of_jobs(session, [job.id for job in found])}
    waiting = places_of(session, found, most_active=most_active)
    cancelled_by = _cancelled_by(session, found)
    begun = [job.id for job in found if job.attempt]  # of the others no run has said anything
    series = metrics.series_of(session, begun)
    shortened = events.newest_of(session, begun, PRETRAINING_SHORTENED)
    active = alerts.active_of(session, begun)
    made = []
    for job in found:
        newest = series.get(job.id, [])
        shorter = shortened.get(job.id)
        most = (job.spec.get("stop", {}) if shorter is None else shorter.data).get("max_steps")
        plan = plan_of.get(job.id)
        made.append(
            JobFigures(
                job=job,
                series=newest,
                max_steps=most,
                eta_seconds=_eta_seconds(session, job, newest, most),
                plan=plan,
                planned=None if plan is None else plans.compared(plan, job, newest),
                waiting=waiting.get(job.id),
                alerts=active.get(job.id, ()),
                cancelled_by=cancelled_by.get(job.id),
            )
        )
    return made


def _cancelled_by(session: Session, found: Sequence[Job]) -> dict[str, str]:
    ids = [job.id for job in found if job.state == JobState.CANCELLED or job.stop_requested == StopReason.CANCEL]
    if not ids:
        return {}
    # Of one that waited there is no request: it was cancelled at once.
    # Of others, who saw them end is not who asked.
    names = (JobState.CANCELLED.value, "prune_requested", "cancel_requested")
    by_event = (events.newest_of(session, ids, name) for name in names)
    return {job_id: event.actor for newest in by_event for job_id, event in newest.items()}


def _eta_seconds(session: Session, job: Job, series: Sequence[MetricSeries], max_steps: int | None) -> float | None:
    if job.state != JobState.RUNNING or max_steps is None or not series:
        return None
    furthest = max(series, key=lambda item: (item.last_step, item.points))
    pace = metrics.seconds_a_step(session, job.id, furthest.name, attempt=job.attempt, steps=_PACE_STEPS)
    return None if pace is None else max(0, max_steps - furthest.last_step) * pace


def places_of(session: Session, found: Sequence[Job], *, most_active: int | None) -> dict[str, Place]:
    """Return the places of those jobs that are in the queue, by their ids."""
    queued = [job for job in found if job.state == JobState.QUEUED]
    if not queued:
        return {}
    places = jobs.places(session, [job.id for job in queued])
    now = datetime.now(UTC)
    return {
        job.id: Place(places[job.id].place, _reason(job, places[job.id], most_active, now))
        for job in queued
        if job.id in places
    }


def _reason(job: Job, found: QueuePlace, most_active: int | None, now: datetime) -> str:
    """Say what a queued job waits for, by the rules of the dispatcher's :class:`Starter`."""
    longest = now + timedelta(seconds=jobs.LONGEST_PAUSE_SECONDS)
    if job.not_before is not None and now < job.not_before <= longest:
        return f"It is tried again after a pause, at {job.not_before:%H:%M:%S} UTC."
    own = found.own_active
    if most_active is not None and own >= most_active:
        return f"{job.owner} has {own} jobs that run already, and may have {most_active} (SYMADJ_MAX_ACTIVE_PER_OWNER)."
    if found.place > 1:
        ahead = found.place - 1
        return f"{ahead} {'job is' if ahead == 1 else 'jobs are'} ahead of it in the queue."
    if found.active:
        return f"It is the next: it starts when there is room for it beside the jobs that run now ({found.active})."
    return "It is the next: it starts as soon as the dispatcher and Ray take it."
