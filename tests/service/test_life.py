"""Whatever happens to a job in whatever order: its life stays a legal one."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from symadj.service.contract.records import OutcomeRecord
from symadj.service.contract.states import ACTIVE, INTERRUPTIONS, TERMINAL, TRANSITIONS, JobState, ReasonCode
from symadj.service.errors import ConflictError, UnauthorizedError
from symadj.service.lifecycle import attempts
from symadj.service.store import Database, events, jobs
from symadj.service.store.tables import Job
from tests.service.lives import TIME, ask, read, send, step, submit

MAX_ATTEMPTS = 3
NO_WISH = "nothing"
# Where a job is after its attempt was stopped, by the wish at that time.
MET = {
    "cancel": JobState.CANCELLED,
    "pause": JobState.PAUSED,
    "timeout": JobState.FAILED,
    "service_stopped": JobState.QUEUED,
}
# What each wish may be asked in; elsewhere it is a conflict, and changes nothing.
MAY = {
    "cancel": frozenset(JobState) - {JobState.SUCCEEDED, JobState.FAILED},
    "pause": frozenset(JobState) - TERMINAL,
    "resume": frozenset({JobState.PAUSED}),
    "ask_checkpoint": frozenset({JobState.STARTING, JobState.RUNNING}),
}


class Life(RuleBasedStateMachine):
    """One job, its user, its runs (the living and the dead ones), and a dispatcher, in any order."""

    def __init__(self, database: Database) -> None:
        super().__init__()
        self.database = database
        self.tokens: list[str] = []
        self.sent: list[dict[str, int]] = []
        self.end: JobState | None = None

    @initialize()
    def submitted(self) -> None:
        self.job_id = submit(self.database, max_attempts=MAX_ATTEMPTS, timeout_minutes=1)

    @property
    def job(self) -> Job:
        return read(self.database, self.job_id)

    def is_active(self) -> bool:
        return JobState(self.job.state) in ACTIVE

    # ------------------------------------------------------------------------------------------------- the user

    @rule(wish=st.sampled_from(sorted(MAY)))
    def user_asks(self, wish: str) -> None:
        before = self.job
        allowed = JobState(before.state) in MAY[wish]
        if wish == "pause" and before.stop_requested in {"cancel", "timeout"}:
            allowed = False
        if not allowed:
            with pytest.raises(ConflictError):
                ask(self.database, self.job_id, wish)
            assert (self.job.state, self.job.event_seq) == (before.state, before.event_seq)
            return
        ask(self.database, self.job_id, wish)
        if before.state in {JobState.QUEUED, JobState.PAUSED} and wish in {"cancel", "pause"}:
            assert self.job.state == MET[wish]
        elif before.state in ACTIVE and wish in {"cancel", "pause"}:
            assert self.job.stop_requested == wish

    # ------------------------------------------------------------------------------------------- the dispatcher

    @precondition(lambda self: self.job.state == JobState.QUEUED)
    @rule()
    def dispatcher_claims(self) -> None:
        with self.database.session() as session:
            job = jobs.lock(session, self.job_id)
            claim = attempts.claim(session, job, actor="d", lease_seconds=60)
            again = attempts.claim(session, job, actor="another", lease_seconds=60)
        assert claim is not None
        assert again is None
        self.tokens.append(claim.token)
        self.sent.append({})

    @precondition(is_active)
    @rule(reason=st.sampled_from([ReasonCode.WORKER_LOST, ReasonCode.CLUSTER_LOST, ReasonCode.INTERNAL]))
    def dispatcher_finds_the_run_dead(self, reason: ReasonCode) -> None:
        before = self.job
        with self.database.session() as session:
            job = jobs.lock(session, self.job_id)
            attempts.lose(session, job, reason, "gone", actor="d", retry_seconds=0)
        if before.stop_requested is not None:
            assert self.job.state == MET[before.stop_requested]
        elif reason is ReasonCode.INTERNAL or before.attempts_lost + 1 == MAX_ATTEMPTS:
            assert (self.job.state, self.job.reason) == (JobState.FAILED, reason)
        else:
            assert (self.job.state, self.job.attempts_lost) == (JobState.QUEUED, before.attempts_lost + 1)

    @precondition(lambda self: self.is_active() and self.job.state != JobState.RUNNING)
    @rule()
    def ray_refuses(self) -> None:
        before = self.job
        with self.database.session() as session:
            attempts.put_back(session, jobs.lock(session, self.job_id), actor="d", message="not now")
        expected = MET[before.stop_requested] if before.stop_requested is not None else JobState.QUEUED
        assert (self.job.state, self.job.attempts_lost) == (expected, before.attempts_lost)

    @rule()
    def time_is_over(self) -> None:
        with self.database.session() as session:
            attempts.ask_timeout(session, jobs.lock(session, self.job_id), actor="d", message="")

    @rule()
    def service_stops(self) -> None:
        before = self.job
        with self.database.session() as session:
            attempts.ask_service_stop(session, jobs.lock(session, self.job_id), actor="d")
        if before.state in ACTIVE and before.stop_requested is None:
            assert self.job.stop_requested == "service_stopped"
        else:
            assert self.job.stop_requested == before.stop_requested

    @rule()
    def cluster_is_too_small(self) -> None:
        before = self.job.state
        with self.database.session() as session:
            job = jobs.lock(session, self.job_id)
            attempts.refuse(session, job, ReasonCode.CANNOT_FIT, "too large", actor="d")
        assert self.job.state == (JobState.FAILED if before == JobState.QUEUED else before)

    # ------------------------------------------------------------------------------------------------- the runs

    @precondition(lambda self: self.tokens)
    @rule(data=st.data(), source=st.sampled_from(["rank-0", "driver"]))
    def run_sends_a_step(self, data: st.DataObject, source: str) -> None:
        number = data.draw(st.integers(1, len(self.tokens)))
        before = self.job
        answer = self.send(number, source, step(1))
        if answer is None:
            return
        if before.state == JobState.STARTING and source != "driver":
            assert self.job.state == JobState.RUNNING
        else:
            assert self.job.state == before.state
        wish = before.stop_requested or NO_WISH
        if wish == "service_stopped":
            wish = "pause"  # as every version of a run understands it
        assert answer == (wish if before.state in ACTIVE else "cancel")

    @precondition(lambda self: self.tokens)
    @rule(
        data=st.data(),
        state=st.sampled_from(["succeeded", "failed", "cancelled", "paused"]),
        reason=st.sampled_from(list(ReasonCode)),
    )
    def run_says_how_it_ended(self, data: st.DataObject, state: str, reason: ReasonCode) -> None:
        number = data.draw(st.integers(1, len(self.tokens)))
        before = self.job
        outcome = OutcomeRecord.model_validate(
            {"time": TIME, "state": state, "reason": reason if state == "failed" else None}
        )
        if self.send(number, "driver", outcome.model_dump(mode="json")) is None or before.state not in ACTIVE:
            assert self.job.state == before.state, "who was replaced, or has ended, decides nothing"
            return
        now = JobState(self.job.state)
        assert now not in ACTIVE
        if state == "succeeded":
            assert now is JobState.SUCCEEDED
        elif state in {"cancelled", "paused"} and before.stop_requested is not None:
            assert now is MET[before.stop_requested]
        elif now is JobState.QUEUED and before.stop_requested is None:
            may_go_on = {ReasonCode.WORKER_LOST, ReasonCode.CLUSTER_LOST, ReasonCode.CANNOT_FIT} | INTERRUPTIONS
            assert reason in may_go_on
        elif now is JobState.QUEUED:
            assert before.stop_requested == "service_stopped"
            assert self.job.attempts_lost == before.attempts_lost
        elif now is JobState.PAUSED:
            assert before.stop_requested == "pause"

    def send(self, number: int, source: str, record: dict[str, object]) -> str | None:
        """Send a record of an attempt; return the wish in the answer, None if another attempt took its place."""
        sent = self.sent[number - 1]
        try:
            answer = send(self.database, self.tokens[number - 1], sent.get(source, 0) + 1, record, source=source)
        except UnauthorizedError:
            assert number < len(self.tokens)
            return None
        assert number == len(self.tokens)
        sent[source] = sent.get(source, 0) + 1
        return answer.stop.value if answer.stop is not None else NO_WISH

    # ------------------------------------------------------------------------------------------ what always holds

    @invariant()
    def all_is_well(self) -> None:
        with self.database.read_session() as session:
            job = jobs.get(session, self.job_id)
            names = [event.name for event in events.after(session, self.job_id, after_seq=0, limit=10_000)]
            tries = jobs.attempts(session, self.job_id)
        state = JobState(job.state)

        # Every transition was legal, and is an event.
        path = [JobState(name) for name in names if name in set(JobState)]
        assert path[0] is JobState.QUEUED
        assert path[-1] is state
        assert all(after in TRANSITIONS[before] for before, after in pairwise(path))

        # One attempt is open while the job is active, and else none.
        assert [a.number for a in tries if a.finished_at is None] == ([job.attempt] if state in ACTIVE else [])
        assert all(a.outcome is not None for a in tries if a.finished_at is not None)

        # A wish is open only while there is a run to meet it.
        assert (job.stop_requested is None) == (job.stop_requested_at is None)
        assert job.stop_requested is None or state in ACTIVE
        assert state is not JobState.PAUSING or job.stop_requested in {"pause", "cancel"}
        assert job.not_before is None or state is JobState.QUEUED

        # An end is an end.
        assert (job.finished_at is not None) == (state in TERMINAL)
        assert (job.reason is not None) == (state is JobState.FAILED)
        assert self.end in {None, state}
        self.end = state if state in TERMINAL else None


def test_whatever_happens_a_life_stays_legal(database: Database) -> None:
    run_state_machine_as_test(
        lambda: Life(database),
        settings=settings(
            max_examples=20, stateful_step_count=20, deadline=None, suppress_health_check=list(HealthCheck)
        ),
    )
