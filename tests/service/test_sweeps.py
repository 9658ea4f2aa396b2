"""Sweeps: what the dispatcher makes of them, from whatever the store has."""

from __future__ import annotations

import functools
import json
import math
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, get_args

import optuna
import psutil
import pytest
from pydantic import ValidationError
from sqlalchemy.orm import Session

from symadj.service.contract import layout
from symadj.service.contract.order import PLACE_VARIABLE, read_order
from symadj.service.contract.records import BatchAnswer
from symadj.service.contract.spec import JobSpec
from symadj.service.contract.spec.search import Pruner, QmcSampler, Sampler
from symadj.service.contract.spec.section import kinds_of
from symadj.service.contract.spec.sweep import SWEEP, SweepSpec
from symadj.service.contract.states import TERMINAL, JobState, SweepState, TrialState
from symadj.service.dispatcher import Dispatcher, studies
from symadj.service.dispatcher.sweeps import PAUSE_SECONDS, SweepRunner
from symadj.service.errors import ConflictError, IdempotencyMismatchError, InvalidSpecError, TooManyRequestsError
from symadj.service.lifecycle import figures, requests, sweeps
from symadj.service.settings import Settings
from symadj.service.store import Database, events, jobs
from symadj.service.store import sweeps as stored
from symadj.service.store.tables import Sweep, SweepTrial
from tests.service.conftest import Clock
from tests.service.lives import TIME, read, send
from tests.service.ray_server import RayServer

BASE: dict[str, Any] = {
    "data": {"kind": "toy", "name": "moons"},
    "stop": {"kind": "steps", "max_steps": 4},
    "evaluation": {"validate_every_steps": 1},
}
RATE = "optimizer.learning_rate"
UNTESTED = BASE | {"evaluation": {"test": False}}
NO_EMA = {"choices": [1]}
DECAYS = {"low": 0.9, "high": 0.99}
UNEVEN = BASE | {"data": BASE["data"] | {"batch_size": 9}, "resources": {"workers": 2}}
TRANSFORMS = {"choices": [[], [{"kind": "standardise"}]]}
LONGEST = {"metric": "train_seconds", "direction": "maximize"}
SEEDS = {"low": 0, "high": 10**9}
RATES = {"low": 1e-4, "high": 1e-1, "log": True}


def sweep_spec(**changes: Any) -> SweepSpec:
    usual = {"base": BASE, "parameters": {RATE: RATES}, "sampler": {"kind": "random"}, "trials": 4}
    return SweepSpec.model_validate({**usual, **changes})


def submit(database: Database, spec: SweepSpec, **options: Any) -> str:
    with database.session() as session:
        return sweeps.submit(session, spec, owner="ada", **options)[0]


def sweep_of(database: Database, sweep_id: str) -> Sweep:
    with database.read_session() as session:
        return stored.get(session, sweep_id)


def trials_of(database: Database, sweep_id: str) -> list[SweepTrial]:
    with database.read_session() as session:
        return list(stored.trials(session, sweep_id))


def states(database: Database, sweep_id: str) -> list[str]:
    return [trial.state for trial in trials_of(database, sweep_id)]


@pytest.fixture
def runner(database: Database, settings: Settings, clock: Clock) -> SweepRunner:
    return SweepRunner(database, settings, clock)


class Runs:
    """The runs of a fake Ray: each reports `steps` values of the validation NLL, and then what came of it."""

    def __init__(self, database: Database, ray: RayServer, nll: Callable[[dict[str, Any], int], float]) -> None:
        self._database, self._ray, self._nll = database, ray, nll
        self.steps: Counter[str] = Counter()

    def go_on(self) -> None:
        """Let every run that has not ended take a step, or stop, or end."""
        for submission, body in list(self._ray.jobs.items()):
            if body["status"] == "RUNNING":
                self._go_on(submission, body)

    def _go_on(self, submission: str, body: dict[str, Any]) -> None:
        order = read_order(body["runtime_env"]["env_vars"][PLACE_VARIABLE])
        token_file = Path(order.storage) / layout.token_file(order.job_id, order.attempt)
        token = token_file.read_text()
        step = self.steps[submission] = self.steps[submission] + 1
        nll = self._nll(order.spec.model_dump(), step)
        record = {"kind": "step", "time": TIME, "step": step, "metrics": {"validation_nll": nll}}
        answer = send(self._database, token, step, record)
        last = step == order.spec.model_dump()["stop"]["max_steps"]
        if answer.stop is not None or last:
            self._end(token, answer, nll)
            body["status"] = "SUCCEEDED"

    def _end(self, token: str, answer: BatchAnswer, nll: float) -> None:
        state = "succeeded" if answer.stop is None else "cancelled"
        outcome = {"kind": "outcome", "time": TIME, "state": state, "message": "over"}
        if state == "succeeded":
            outcome |= {"result": {"validation_nll": nll}}
        send(self._database, token, 1, outcome, source="driver")


def nll_of(spec: dict[str, Any], step: int) -> float:
    """Return one that falls with every step, and is lower with a higher rate."""
    return 3.0 - 10.0 * float(spec["optimizer"]["learning_rate"]) - 0.1 * step


def run_to_end(database: Database, dispatcher: Dispatcher, runs: Runs, sweep_id: str, rounds: int = 100) -> None:
    for _ in range(rounds):
        dispatcher.round()
        runs.go_on()
        if sweep_of(database, sweep_id).state != SweepState.RUNNING:
            return
    raise AssertionError(states(database, sweep_id))


def test_trials_are_jobs_in_the_queue_at_most_so_many_at_once(database: Database, runner: SweepRunner) -> None:
    sweep_id = submit(database, sweep_spec(parallel=3, name="rates"))
    runner.carry_on()
    runner.carry_on()
    made = [read(database, trial.job_id or "") for trial in trials_of(database, sweep_id)]
    assert [(job.name, job.state, job.owner) for job in made] == [(f"rates {n}", "queued", "ada") for n in range(3)]
    assert all(job.spec["labels"] == {SWEEP: sweep_id} for job in made)
    assert len({job.spec["optimizer"]["learning_rate"] for job in made}) == 3
    assert all(1e-4 <= job.spec["optimizer"]["learning_rate"] <= 1e-1 for job in made)


@pytest.mark.parametrize("kind", kinds_of(Sampler))
def test_every_sampler_gives_the_same_trials_whichever_process_asks(
    backend: str,
    database: Database,
    settings: Settings,
    clock: Clock,
    dispatcher: Dispatcher,
    ray: RayServer,
    kind: str,
) -> None:
    choices = {"choices": [[8], [16, 16]]}
    parameters = {"flow.field.hidden": choices, "flow.blocks": {"low": 1, "high": 3}}
    sampler = {"kind": kind} | {"tpe": {"startup_trials": 2}, "cmaes": {"population": 4}}.get(kind, {})
    if kind == "cmaes":
        parameters[RATE] = RATES
    spec = sweep_spec(parameters=parameters, sampler=sampler, trials=6, base=BASE | {"stop": {"max_steps": 1}})
    found = []
    for _ in range(2):
        sweep_id = submit(database, spec)
        run_to_end(database, dispatcher, Runs(database, ray, nll_of), sweep_id)
        assert states(database, sweep_id) == ["succeeded"] * 6
        found.append([trial.parameters for trial in trials_of(database, sweep_id)])
    assert found[0] == found[1]
    if kind == "grid":
        assert found[0] == [{"flow.field.hidden": h, "flow.blocks": b} for h in choices["choices"] for b in (1, 2, 3)]


@pytest.mark.parametrize("backend", ["sqlite"])
@pytest.mark.parametrize("kind", [kind for kind in kinds_of(Pruner) if kind != "none"])
def test_every_pruner_cancels_trials_by_their_own_metrics_and_the_best_goes_on(
    database: Database, dispatcher: Dispatcher, ray: RayServer, kind: str
) -> None:
    rates = [0.05, 0.06, 0.001, 0.07, 0.002, 0.1]
    options = {"startup_trials": 2} if kind in {"median", "percentile"} else {"reduction_factor": 2}
    base = BASE | {"stop": {"kind": "steps", "max_steps": 8}}
    spec = sweep_spec(
        base=base,
        parameters={RATE: {"choices": rates}},
        sampler={"kind": "grid"},
        trials=None,
        pruner={"kind": kind, **options},
    )
    sweep_id = submit(database, spec)
    run_to_end(database, dispatcher, Runs(database, ray, nll_of), sweep_id)
    trials = trials_of(database, sweep_id)
    assert sweep_of(database, sweep_id).state == SweepState.SUCCEEDED
    pruned = [trial for trial in trials if trial.state == TrialState.PRUNED]
    assert pruned
    best = min((trial for trial in trials if trial.value is not None), key=lambda trial: trial.value or 0.0)
    assert best.parameters == {RATE: 0.1}
    for trial in pruned:
        job = read(database, trial.job_id or "")
        assert (job.state, job.reason, job.stop_requested) == ("cancelled", "pruned", None)
        assert job.message == "Its sweep has pruned it. Over"
        with database.read_session() as session:
            (told,) = (e for e in events.after(session, job.id, after_seq=0, limit=99) if e.name == "prune_requested")
            assert figures.of_job(session, job.id, most_active=None).cancelled_by == told.actor == "dispatcher"
        assert told.data["trial"] == trial.number
        assert told.data["step"] < 8
        assert told.message == trial.message


@pytest.mark.parametrize("sequence", get_args(QmcSampler.model_fields["sequence"].annotation))
def test_the_nth_trial_of_qmc_is_the_nth_point_of_one_sequence_whatever_came_of_the_others(sequence: str) -> None:
    widths = [[8], [16], [32]]
    parameters = {"flow.field.hidden": {"choices": widths}, "flow.blocks": {"low": 1, "high": 3}, RATE: RATES}
    spec = sweep_spec(parameters=parameters, sampler={"kind": "qmc", "seed": 3, "sequence": sequence}, trials=8)
    trials: list[SweepTrial] = []
    for number, state in enumerate([*TrialState, *TrialState][:8]):
        values = studies.suggest(spec, trials).values
        trials.append(SweepTrial(number=number, state=state, value=1.0, parameters=values, reports=[], attrs={}))
    space = {
        "flow.field.hidden": optuna.distributions.CategoricalDistribution([0, 1, 2]),
        "flow.blocks": optuna.distributions.IntDistribution(1, 3),
        RATE: optuna.distributions.FloatDistribution(1e-4, 1e-1, log=True),
    }
    with pytest.warns(optuna.exceptions.ExperimentalWarning):
        sampler = optuna.samplers.QMCSampler(qmc_type=sequence, scramble=True, seed=3)
    study = optuna.create_study(sampler=sampler)
    for _ in range(9):
        study.tell(study.ask(space), 1.0)
    for trial, own in zip(trials, study.trials[1:], strict=True):  # the first of Optuna's own is drawn at random
        assert trial.parameters == own.params | {"flow.field.hidden": widths[own.params["flow.field.hidden"]]}
    if sequence == "sobol":  # one in each eighth
        assert sorted(int(8 * math.log10(trial.parameters[RATE] * 1e4) / 3) for trial in trials) == list(range(8))


def _asked_apart() -> int:
    """Return the process that a dispatcher of this one asks for a trial's values."""
    named = {child.pid: child.as_dict(["cmdline"])["cmdline"] or () for child in psutil.Process().children()}
    (found,) = (pid for pid, command in named.items() if "symadj.service.dispatcher.suggestion" in command)
    return found


@pytest.mark.parametrize("backend", ["sqlite"])
def test_gp_is_asked_in_a_process_that_may_die_and_the_dispatcher_does_not_wait_for_it(
    database: Database, dispatcher: Dispatcher, ray: RayServer, clock: Clock
) -> None:
    parameters = {"flow.field.hidden": {"choices": [[8], [16, 16]]}, RATE: RATES}
    sampler, base = {"kind": "gp", "startup_trials": 2}, BASE | {"stop": {"max_steps": 1}}
    spec = sweep_spec(parameters=parameters, sampler=sampler, base=base, trials=3, parallel=2)
    runs, sweep_id = Runs(database, ray, nll_of), submit(database, spec)
    dispatcher.round()
    runs.go_on()
    dispatcher.round()
    asked = _asked_apart()
    assert states(database, sweep_id) == ["succeeded"] * 2
    os.kill(asked, signal.SIGKILL)
    os.waitid(os.P_PID, asked, os.WEXITED | os.WNOWAIT)
    dispatcher.round()
    assert "sampler.kind gp ended by signal 9" in (sweep_of(database, sweep_id).message or "")
    clock.now += PAUSE_SECONDS
    dispatcher.round()
    asked = _asked_apart()
    with database.session() as session:
        job, _ = requests.submit(session, JobSpec.model_validate(BASE), owner="eve")
    dispatcher.round()
    assert read(database, job.id).state == "starting"
    with suppress(ChildProcessError):  # it was faster than that round
        os.waitid(os.P_PID, asked, os.WEXITED | os.WNOWAIT)
        dispatcher.round()
    *before, last = trials_of(database, sweep_id)
    assert last.parameters == studies.suggest(spec, before).values, "the same in any process"
    assert last.attrs, "by the Gaussian process"
    assert sweep_of(database, sweep_id).message is None


class _DiedError(BaseException):
    """The process was killed."""


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
def test_a_dispatcher_may_die_at_every_commit_and_no_trial_is_lost_or_made_twice(
    database: Database,
    dispatcher: Dispatcher,
    settings: Settings,
    clock: Clock,
    ray: RayServer,
    monkeypatch: pytest.MonkeyPatch,
    after: bool,
) -> None:
    spec = sweep_spec(trials=4, pruner={"kind": "median", "startup_trials": 1})
    runs, sweep_id = Runs(database, ray, nll_of), submit(database, spec)
    whole = database.session

    @contextmanager
    def dying() -> Iterator[Session]:
        with whole() as session:
            yield session
            if not after:
                raise _DiedError
        raise _DiedError

    # Before the commit of each of its transactions nothing has happened, after it all of it has.
    for _ in range(200):
        with monkeypatch.context() as patched:
            patched.setattr(database, "session", dying)
            with suppress(_DiedError):
                SweepRunner(database, settings, clock).carry_on()
        dispatcher.round()
        runs.go_on()
        if sweep_of(database, sweep_id).state != SweepState.RUNNING:
            break
    trials = trials_of(database, sweep_id)
    assert [trial.number for trial in trials] == [0, 1, 2, 3]
    with database.read_session() as session:
        made = jobs.page(session, labels=[(SWEEP, sweep_id)], limit=100).items
    assert {job.id for job in made} == {trial.job_id for trial in trials}
    undisturbed = submit(database, spec)
    run_to_end(database, dispatcher, Runs(database, ray, nll_of), undisturbed)
    assert [t.parameters for t in trials_of(database, undisturbed)] == [t.parameters for t in trials]


def test_a_second_dispatcher_that_decided_at_the_same_time_makes_no_second_trial(
    database: Database,
    settings: Settings,
    clock: Clock,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    sweep_id = submit(database, sweep_spec(parallel=1))
    suggest, other = studies.suggest, SweepRunner(database, settings, clock)

    def slowly(*arguments: Any) -> Any:
        monkeypatch.setattr(studies, "suggest", suggest)
        other.carry_on()
        return suggest(*arguments)

    monkeypatch.setattr(studies, "suggest", slowly)
    SweepRunner(database, settings, clock).carry_on()
    assert [trial.number for trial in trials_of(database, sweep_id)] == [0]
    assert [record for record in caplog.records if record.levelname == "ERROR"] == []


def test_a_failed_trial_does_not_end_a_sweep_and_more_than_max_failed_do(
    database: Database, dispatcher: Dispatcher, ray: RayServer
) -> None:
    sweep_id = submit(database, sweep_spec(max_failed=1, trials=4, parallel=1))
    for failed in range(2):
        dispatcher.round()
        assert states(database, sweep_id) == ["failed"] * failed + ["open"]
        (running,) = (job for job in ray.jobs.values() if job["status"] == "RUNNING")
        running |= {"status": "FAILED", "message": "it broke"}
    dispatcher.round()
    sweep = sweep_of(database, sweep_id)
    assert states(database, sweep_id) == ["failed", "failed"]
    assert sweep.state == SweepState.FAILED
    assert "2 trials failed, and max_failed is 1" in (sweep.message or "")
    assert "it broke" in (sweep.message or "")


def test_a_trial_whose_values_do_not_fit_together_has_failed_without_a_job(
    database: Database, runner: SweepRunner
) -> None:
    parameters = {"data.batch_size": {"low": 100, "high": 102}, "resources.workers": {"choices": [1, 2]}}
    spec = sweep_spec(parameters=parameters, sampler={"kind": "grid"}, trials=None, parallel=6, max_failed=6)
    sweep_id = submit(database, spec)
    runner.carry_on()
    trials = trials_of(database, sweep_id)
    wrong = trials[3]
    assert wrong.parameters == {"data.batch_size": 101, "resources.workers": 2}
    assert (wrong.state, wrong.job_id) == ("failed", None)
    assert "101 is not a multiple of resources.workers 2" in (wrong.message or "")
    assert [trial.state for trial in trials if trial is not wrong] == ["open"] * 5


def test_a_cancelled_sweep_begins_no_trial_and_cancels_the_jobs_of_those_that_are_open(
    database: Database, dispatcher: Dispatcher, ray: RayServer
) -> None:
    sweep_id = submit(database, sweep_spec(parallel=3))
    dispatcher.round()
    with database.session() as session:
        sweeps.cancel(session, stored.lock(session, sweep_id), actor="ada")
    with database.session() as session, pytest.raises(ConflictError, match="still stopping"):
        sweeps.delete(session, stored.lock(session, sweep_id))
    runs = Runs(database, ray, nll_of)
    for _ in range(2):
        runs.go_on()
        dispatcher.round()
    assert states(database, sweep_id) == ["cancelled"] * 3
    made = [read(database, trial.job_id or "") for trial in trials_of(database, sweep_id)]
    assert [(job.state, job.reason) for job in made] == [("cancelled", None)] * 3
    with database.session() as session:
        sweeps.delete(session, stored.lock(session, sweep_id))
    assert trials_of(database, sweep_id) == []
    assert [read(database, job.id).state for job in made] == ["cancelled"] * 3, "its jobs stay"


def test_an_owner_without_room_in_the_queue_makes_a_sweep_wait_and_not_fail(
    database: Database, settings: Settings, clock: Clock
) -> None:
    limited = settings.model_copy(update={"max_queued_per_owner": 1})
    runner, sweep_id = SweepRunner(database, limited, clock), submit(database, sweep_spec(parallel=2))
    runner.carry_on()
    assert states(database, sweep_id) == ["open"]
    assert "The next trial waits: ada has 1 jobs in the queue" in (sweep_of(database, sweep_id).message or "")
    (first,) = trials_of(database, sweep_id)
    with database.session() as session:
        requests.cancel(session, jobs.lock(session, first.job_id or ""), actor="ada")
    clock.now += PAUSE_SECONDS
    runner.carry_on()
    assert states(database, sweep_id) == ["cancelled", "open"]
    with database.session() as session, pytest.raises(TooManyRequestsError, match="1 sweeps that run, and 1 may"):
        sweeps.submit(session, sweep_spec(), owner="ada", max_running=1)


def test_a_trial_whose_job_was_deleted_stays_with_its_value(
    database: Database, dispatcher: Dispatcher, ray: RayServer, settings: Settings
) -> None:
    sweep_id = submit(database, sweep_spec(trials=1))
    run_to_end(database, dispatcher, Runs(database, ray, nll_of), sweep_id)
    (before,) = trials_of(database, sweep_id)
    with database.session() as session:
        requests.delete(session, jobs.lock(session, before.job_id or ""), storage=settings.resolved_storage())
    (after,) = trials_of(database, sweep_id)
    assert after.job_id is None
    assert (
        after.value
        == before.value
        == pytest.approx(nll_of({"optimizer": {"learning_rate": before.parameters[RATE]}}, 4))
    )


def test_the_same_key_makes_one_sweep_and_another_spec_under_it_is_refused(database: Database) -> None:
    first = submit(database, sweep_spec(), idempotency_key="k")
    assert submit(database, sweep_spec(), idempotency_key="k") == first
    with pytest.raises(IdempotencyMismatchError):
        submit(database, sweep_spec(trials=5), idempotency_key="k")


def test_what_a_first_job_would_be_refused_for_is_said_of_the_sweep(database: Database) -> None:
    base = BASE | {"resources": {"kind": "cpu", "memory_budget": "1MiB"}}
    with pytest.raises(InvalidSpecError, match="memory_budget"):
        submit(database, sweep_spec(base=base))
    with database.read_session() as session:
        assert stored.page(session, limit=9).items == []
        assert jobs.page(session, limit=9).items == []


@pytest.mark.parametrize(
    ("changes", "pointer", "told"),
    [
        ({"parameters": {"optimizer.learnin_rate": RATES}}, "/parameters/optimizer.learnin_rate", "'learning_rate'"),
        ({"parameters": {RATE: {"low": 1e-3, "high": 200}}}, f"/parameters/{RATE}", "rate 200.0: .*less than or equal"),
        ({"parameters": {"flow.blocks": {"low": 1, "high": 2.5}}}, "/parameters/flow.blocks", "takes whole numbers"),
        ({"parameters": {"regularisers.0.weight": RATES}}, "/parameters/regularisers.0.weight", "has 0 items"),
        ({"parameters": {"seed.x": RATES}}, "/parameters/seed.x", "seed is 0, which has no fields"),
        ({"parameters": {"ema": NO_EMA, "ema.decay": DECAYS}}, "/parameters/ema.decay", "could be a part"),
        ({"parameters": {"labels.team": {"choices": ["x"]}}}, "/parameters/labels.team", "from the sweep"),
        ({"sampler": {"kind": "grid"}, "trials": None}, f"/parameters/{RATE}", "give it choices or a step"),
        ({"trials": None}, "/trials", "trials is missing"),
        ({"sampler": {"kind": "gp"}, "trials": 501}, "/trials", "takes 500 at most"),
        ({"sampler": {"kind": "gp"}, "parameters": {"seed": SEEDS}}, "/parameters/seed", "has 1e[+]09 values"),
        ({"sampler": {"kind": "cmaes"}}, "/sampler/kind", f"{RATE} alone has them"),
        ({"objective": {"metric": "validation"}}, "/objective/metric", "did you mean 'validation_nll'"),
        ({"objective": {"metric": "test_nll"}, "base": UNTESTED}, "/objective/metric", "set evaluation.test"),
        ({"base": BASE | {"evaluation": None}}, "/objective/metric", "nothing is validated"),
        ({"parameters": {"data.transforms": TRANSFORMS}}, "/objective/metric", "could not be compared"),
        ({"base": UNEVEN}, "/base/data/batch_size", "not a multiple"),
        ({"pruner": {"kind": "median"}, "objective": LONGEST}, "/pruner/metric", "the lower it is"),
    ],
)
def test_what_is_wrong_with_a_sweep_is_told_at_its_place(changes: dict[str, Any], pointer: str, told: str) -> None:
    with pytest.raises(ValidationError, match=told) as caught:
        sweep_spec(**changes)
    (found, *_) = caught.value.errors()
    assert found["ctx"]["pointer"] == pointer


@pytest.mark.parametrize(
    ("parameter", "told"),
    [
        ({"low": 10**400, "high": 10**401}, "less than or equal to"),
        ({"low": 0, "high": 1, "step": 1e-300}, "combinations"),
        ({"choices": [functools.reduce(lambda inner, _: [inner], range(500), 0)]}, "more than 32 deep"),
        ({"choices": [1, 2, 1]}, "1 stands twice"),
        ({"low": 2, "high": 1}, "not below"),
        ({"low": 0, "high": 1, "log": True}, "no logarithm"),
    ],
    ids=lambda value: str(value)[:30],
)
def test_a_parameter_that_is_none_is_refused_whatever_it_is(parameter: dict[str, Any], told: str) -> None:
    with pytest.raises(ValidationError, match=told):
        sweep_spec(parameters={RATE: parameter}, sampler={"kind": "grid"}, trials=None)


def test_a_kind_that_varies_takes_the_fields_of_the_other_kind_along() -> None:
    spec = sweep_spec(
        parameters={
            "optimizer": {"choices": [{"kind": "adam"}, {"kind": "sgd", "momentum": 0.5}]},
            "optimizer.learning_rate": RATES,
            "solver.kind": {"choices": ["fixed", "adaptive"]},
        }
    )
    values = {"optimizer.learning_rate": 0.02, "solver.kind": "fixed", "optimizer": {"kind": "sgd", "momentum": 0.5}}
    job = spec.job(values, sweep="swp-1", number=3)
    assert (job.optimizer.kind, job.optimizer.learning_rate, job.solver.kind) == ("sgd", 0.02, "fixed")
    assert SweepSpec.of_stored(json.loads(json.dumps(spec.stored()))) == spec


@pytest.mark.parametrize("backend", ["sqlite"])
def test_a_sweep_of_12_trials_outlives_a_killed_dispatcher(
    database: Database, store_url: str, ray: RayServer, tmp_path: Path
) -> None:
    spec = sweep_spec(trials=12, parallel=2, pruner={"kind": "median", "startup_trials": 2})
    sweep_id, runs = submit(database, spec), Runs(database, ray, nll_of)
    command = [sys.executable, "-m", "symadj.service.dispatcher"]
    environment = os.environ | {
        "SYMADJ_DATA": str(tmp_path),
        "SYMADJ_STORE_URL": store_url,
        "SYMADJ_RAY_ADDRESS": ray.url,
        "SYMADJ_API_URL": ray.url,
        "SYMADJ_POLL_SECONDS": "0.02",
    }
    killed = False
    dispatcher = subprocess.Popen(command, env=environment)
    try:
        deadline = time.monotonic() + 120
        while sweep_of(database, sweep_id).state == SweepState.RUNNING:
            assert time.monotonic() < deadline, states(database, sweep_id)
            if not killed and len(trials_of(database, sweep_id)) >= 5:
                dispatcher.send_signal(signal.SIGKILL)
                dispatcher.wait()
                killed = True
                dispatcher = subprocess.Popen(command, env=environment)
            runs.go_on()
            time.sleep(0.02)
    finally:
        dispatcher.kill()
        dispatcher.wait()
    trials = trials_of(database, sweep_id)
    assert killed
    assert [trial.number for trial in trials] == list(range(12))
    with database.read_session() as session:
        made = jobs.page(session, labels=[(SWEEP, sweep_id)], limit=100).items
    assert sorted(job.id for job in made) == sorted(trial.job_id or "" for trial in trials)
    assert all(JobState(job.state) in TERMINAL for job in made)
    ends = Counter(trial.state for trial in trials)
    assert set(ends) == {"succeeded", "pruned"}
    assert ends["pruned"] == sum((job.state, job.reason) == ("cancelled", "pruned") for job in made)
