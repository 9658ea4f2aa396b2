"""Alerts: each is an event once, and once again after it was over, whoever looks and whoever dies meanwhile."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy.orm import Session

from symadj.service import webhooks
from symadj.service.alerts import RULES
from symadj.service.contract.notices import Notice
from symadj.service.contract.spec.alerts import Alerts
from symadj.service.dispatcher.alerting import STORE_SECONDS, Alerter
from symadj.service.hosts import AllowedHosts
from symadj.service.store import Database, alerts, events
from symadj.service.store import webhooks as stored_webhooks
from tests.service.conftest import Clock
from tests.service.lives import TIME, ask, claim, end, send, step, submit


class Training:
    """A job that runs, whose records a test sends."""

    def __init__(self, database: Database, **changes: Any) -> None:
        self.database = database
        self.job_id = submit(database, **changes)
        self._token = claim(database, self.job_id).token
        self._sent = 0
        self._step = 0
        self.send({"kind": "event", "time": TIME, "name": "started", "message": ""})

    def send(self, *records: dict[str, Any]) -> None:
        send(self.database, self._token, self._sent + 1, *records)
        self._sent += len(records)

    def steps(self, count: int, **metrics: Any) -> None:
        """Do steps of which all have the same metrics."""
        numbers = range(self._step + 1, self._step + count + 1)
        self.send(*(step(number, 1.0) | {"metrics": {"loss": 1.0} | metrics} for number in numbers))
        self._step += count

    def told(self) -> list[tuple[str, str]]:
        """Return its alerts: event and rule."""
        with self.database.read_session() as session:
            found = events.after(session, self.job_id, after_seq=0, limit=1000)
            return [(event.name, event.data["rule"]) for event in found if event.name.startswith("alert")]

    def active(self) -> list[str]:
        with self.database.read_session() as session:
            return alerts.active_of(session, [self.job_id]).get(self.job_id, [])


RAISED, OVER = "alert", "alert_over"


def test_a_divergence_is_told_once_and_once_again_after_it_was_over(database: Database) -> None:
    training, alerter = Training(database), Alerter(database)
    for metrics, expected in (
        ({"loss": 1.0}, []),
        ({"loss": "NaN"}, [(RAISED, "diverged")]),
        ({"loss": "Infinity"}, []),
        ({"loss": 1.0}, [(OVER, "diverged")]),
        ({"loss": "NaN"}, [(RAISED, "diverged")]),
    ):
        before = training.told()
        training.steps(30, **metrics)
        alerter.look()
        alerter.look()
        assert training.told() == before + expected
    assert training.active() == ["diverged"]


def test_a_step_that_was_skipped_for_its_divergence_is_told(database: Database) -> None:
    training, alerter = Training(database), Alerter(database)
    training.send({"kind": "event", "time": TIME, "name": "divergence_skip_batch", "message": "nan at step 3"})
    alerter.look()
    alerter.look()
    assert training.told() == [(RAISED, "diverged")]


def test_a_training_that_fails_before_anybody_looked_is_told_of_for_all_that(database: Database) -> None:
    training, alerter = Training(database), Alerter(database)
    end(database, training.job_id, "failed", reason="diverged", message="the loss is nan")
    for _ in range(3):
        alerter.look()
    assert training.told() == [(RAISED, "diverged")]
    assert training.active() == ["diverged"], "it stays with the job"


def test_a_solver_that_takes_many_times_its_usual_evaluations_is_told(database: Database) -> None:
    training, alerter = Training(database, alerts={"nfe_factor": 4}), Alerter(database)
    training.steps(10, nfe_forward=500)
    training.steps(30, nfe_forward=20)
    training.steps(1, nfe_forward=80)
    alerter.look()
    assert training.told() == []
    training.steps(50, nfe_forward=81)
    alerter.look()
    assert training.told() == [(RAISED, "nfe")], "what explodes is not usual"
    training.steps(30, nfe_forward=25)
    alerter.look()
    assert training.told() == [(RAISED, "nfe"), (OVER, "nfe")]


@pytest.mark.parametrize("metric", ["validation_nll", "nll", "loss"])
def test_an_nll_that_does_not_fall_is_told_and_that_it_falls_again(database: Database, metric: str) -> None:
    rule = {"plateau": {"steps": 100, "improvement": 0.1}}
    training, alerter = Training(database, alerts=rule), Alerter(database)
    for count, nll, expected in ((90, 3.0, []), (90, 2.0, []), (120, 1.95, [RAISED]), (40, 0.5, [OVER])):
        before = training.told()
        training.steps(count, **{metric: nll})
        alerter.look()
        assert training.told() == before + [(name, "plateau") for name in expected]


def test_a_peak_above_the_budget_is_told_once(database: Database) -> None:
    training = Training(database, resources={"kind": "cpu", "memory_budget": "600MiB"})
    alerter = Alerter(database)
    memory = {"kind": "memory", "time": TIME, "step": 1, "rank": 0, "phase": "forward", "host_idle_bytes": 0}
    memory |= {"device_idle_bytes": None, "device_peak_bytes": None}
    for peak, expected in ((599, []), (601, [(RAISED, "over_budget")]), (700, [(RAISED, "over_budget")])):
        training.send(memory | {"host_peak_bytes": peak * 2**20, "step": peak})
        alerter.look()
        assert training.told() == expected


def test_a_run_that_makes_no_step_is_told_and_that_it_goes_on_and_one_that_is_paused_is_not(
    database: Database, clock: Clock
) -> None:
    training, alerter = Training(database, alerts={"stalled_seconds": 60}), Alerter(database, clock=clock)
    training.steps(1)
    for seconds, expected in ((0, []), (59, []), (2, [RAISED]), (100, [RAISED])):
        clock.now += seconds
        alerter.look()
        assert training.told() == [(name, "stalled") for name in expected]
    training.steps(1)
    alerter.look()
    assert training.told() == [(RAISED, "stalled"), (OVER, "stalled")]
    ask(database, training.job_id, "pause")
    end(database, training.job_id, "paused")
    clock.now += 1000
    alerter.look()
    assert len(training.told()) == 2


def test_who_comes_after_a_killed_one_tells_nothing_twice_and_forgets_nothing(database: Database, clock: Clock) -> None:
    training = Training(database, alerts={"nfe_factor": 4})
    training.steps(30, nfe_forward=20, loss="NaN")
    first = Alerter(database, clock=clock)
    first.look()
    clock.now += STORE_SECONDS
    first.look()
    training.steps(1, nfe_forward=100, loss="NaN")
    Alerter(database).look()
    Alerter(database).look()
    assert training.told() == [(RAISED, "diverged"), (RAISED, "nfe")]


def test_of_two_who_look_at_the_same_time_one_tells(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    training, first, second = Training(database), Alerter(database), Alerter(database)
    opened, waiting = alerts.opened, [first]

    def read_before_the_first_writes(session: Session) -> Any:
        found = list(opened(session))
        if waiting:
            waiting.pop().look()
        return found

    monkeypatch.setattr(alerts, "opened", read_before_the_first_writes)
    training.steps(1, loss="NaN")
    second.look()
    second.look()
    assert training.told() == [(RAISED, "diverged")]


def test_a_webhook_is_told_of_an_alert_and_of_its_end(database: Database) -> None:
    with database.session() as session:
        webhook = webhooks.create(
            session,
            owner="ada",
            url="http://127.0.0.1:1/",
            events=[Notice.ALERT, Notice.ALERT_OVER],
            labels={},
            all_owners=False,
            allowed=AllowedHosts.parse("127.0.0.1"),
        )
    training, alerter = Training(database), Alerter(database)
    for loss in ("NaN", 1.0):
        training.steps(30, loss=loss)
        alerter.look()
    with database.read_session() as session:
        page = stored_webhooks.page_of_deliveries(session, webhook.id, state=None, limit=9, after=None)
        assert sorted(item.event for item in page.items) == ["alert", "alert_over"]


def test_rules_that_are_off_tell_nothing(database: Database, clock: Clock) -> None:
    off = {"diverged": False, "plateau": None, "nfe_factor": None, "over_budget": False, "stalled_seconds": None}
    assert off.keys() == Alerts.model_fields.keys()
    training = Training(database, alerts=off, resources={"kind": "cpu", "memory_budget": "600MiB"})
    alerter = Alerter(database, clock=clock)
    training.steps(30, nfe_forward=1, nll=1)
    training.steps(30, nfe_forward=1000, nll=1, loss="NaN")
    alerter.look()
    clock.now += 10**9
    alerter.look()
    assert training.told() == []


def test_the_rules_are_those_of_the_spec() -> None:
    assert {name.removesuffix("_seconds").removesuffix("_factor") for name in Alerts.model_fields} == set(RULES)
