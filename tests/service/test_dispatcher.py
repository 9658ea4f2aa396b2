"""The dispatcher against a small server that speaks as much of Ray's interface as it uses."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from symadj.service import spools
from symadj.service.contract.order import PLACE_VARIABLE, read_order
from symadj.service.contract.output import Output, note_outputs
from symadj.service.contract.records import OutcomeRecord
from symadj.service.contract.states import JobState
from symadj.service.dispatcher import MAX_REFUSALS, Dispatcher
from symadj.service.lifecycle import attempts, requests
from symadj.service.ray_jobs import RayJobs, RayRefusedError, RayUnreachableError
from symadj.service.settings import Settings
from symadj.service.store import Database, events, jobs, logs, metrics, sources
from tests.service.lives import submit
from tests.service.ray_server import RayServer


def state(database: Database, job_id: str) -> tuple[str, str | None]:
    with database.read_session() as session:
        job = jobs.get(session, job_id)
        return job.state, job.reason


def test_a_queued_job_becomes_a_ray_job_that_reserves_nothing_for_its_driver(
    database: Database, ray: RayServer, dispatcher: Dispatcher
) -> None:
    job_id = submit(database)
    dispatcher.round()
    (job,) = ray.jobs.values()
    assert state(database, job_id) == ("starting", None)
    assert job["submission_id"] == f"{job_id}-1"
    assert job["entrypoint_num_cpus"] == 0
    assert job["entrypoint"].endswith(" -m symadj.workers.run")
    order = read_order(job["runtime_env"]["env_vars"][PLACE_VARIABLE])
    assert (order.job_id, order.attempt, order.spec.data.kind) == (job_id, 1, "toy")


@pytest.mark.parametrize("warm", [True, False])
def test_all_processes_of_a_run_are_started_warm_where_a_template_listens_unless_that_is_turned_off(
    database: Database, ray: RayServer, settings: Settings, warm: bool
) -> None:
    submit(database)
    client = RayJobs(ray.url)
    place = Path("/a folder/warm.sock")
    dispatcher = Dispatcher(database, client, settings.model_copy(update={"warm_socket": place, "warm_runs": warm}))
    dispatcher.round()
    dispatcher.close()
    client.close()
    (job,) = ray.jobs.values()
    python = settings.worker_python
    if warm:
        python += f" -m symadj.workers.warm.interpreter '{place}'"
    assert job["runtime_env"]["py_executable"] == python
    assert job["entrypoint"] == f"exec {python} -m symadj.workers.run"


def test_only_what_the_cluster_has_room_for_is_submitted_and_nobody_overtakes(
    database: Database, ray: RayServer, dispatcher: Dispatcher
) -> None:
    two = {"kind": "cpu", "workers": 2}
    first, large, small = submit(database), submit(database, resources=two), submit(database)
    dispatcher.round()
    assert [state(database, job)[0] for job in (first, large, small)] == ["starting", "queued", "queued"]
    ray.jobs[f"{first}-1"]["status"] = "FAILED"
    dispatcher.round()
    assert [state(database, job)[0] for job in (first, large, small)] == ["failed", "starting", "queued"]


def test_a_job_that_can_never_fit_is_refused_with_the_numbers_and_blocks_nobody(
    database: Database, dispatcher: Dispatcher
) -> None:
    giant, small = submit(database, resources={"kind": "cpu", "workers": 4}), submit(database)
    dispatcher.round()
    assert state(database, giant) == ("failed", "cannot_fit")
    assert state(database, small) == ("starting", None)
    with database.read_session() as session:
        message = jobs.get(session, giant).message
    assert message is not None
    assert "has room for 2" in message


def test_a_run_that_ends_without_a_word_fails_with_its_last_lines(
    database: Database, ray: RayServer, dispatcher: Dispatcher
) -> None:
    job_id = submit(database)
    dispatcher.round()
    ray.jobs[f"{job_id}-1"] |= {"status": "FAILED", "message": "Job entrypoint exited with code 1"}
    dispatcher.round()
    assert state(database, job_id) == ("failed", "internal")
    with database.read_session() as session:
        message = jobs.get(session, job_id).message or ""
    assert "exited with code 1" in message
    assert "it broke" in message


def test_a_job_that_a_restarted_ray_has_forgotten_does_not_stay_running(
    database: Database, ray: RayServer, dispatcher: Dispatcher
) -> None:
    job_id = submit(database)
    dispatcher.round()
    ray.jobs.clear()
    dispatcher.round()
    assert state(database, job_id) == ("starting", None)
    assert list(ray.jobs) == [f"{job_id}-2"]


def test_a_starting_job_is_stopped_by_ray_when_it_is_cancelled(
    database: Database, ray: RayServer, dispatcher: Dispatcher
) -> None:
    job_id = submit(database)
    dispatcher.round()
    with database.session() as session:
        requests.cancel(session, jobs.lock(session, job_id), actor="ada")
    dispatcher.round()
    assert ray.stopped == [f"{job_id}-1"]
    ray.jobs[f"{job_id}-1"]["status"] = "STOPPED"
    dispatcher.round()
    assert state(database, job_id) == ("cancelled", None)


def test_while_ray_does_not_answer_jobs_wait(database: Database, ray: RayServer, tmp_path: Path) -> None:
    job_id = submit(database)
    lost = Dispatcher(database, RayJobs("http://127.0.0.1:9"), Settings(data=tmp_path))
    with pytest.raises(RayUnreachableError):
        lost.round()
    assert state(database, job_id) == ("queued", None)


def test_a_job_that_ray_refuses_returns_to_the_queue_but_not_for_ever(
    database: Database, ray: RayServer, dispatcher: Dispatcher
) -> None:
    job_id = submit(database)
    ray.refusal = "RuntimeError: No available agent to submit job, please try again later."
    for _ in range(MAX_REFUSALS - 1):
        with pytest.raises(RayRefusedError):
            dispatcher.round()
        assert state(database, job_id) == ("queued", None)
    with pytest.raises(RayRefusedError):
        dispatcher.round()
    assert state(database, job_id) == ("failed", "cluster_lost")
    with database.read_session() as session:
        assert "No available agent" in (jobs.get(session, job_id).message or "")


@pytest.mark.parametrize(("taken", "expected"), [(True, "starting"), (False, "queued")])
def test_a_claim_whose_dispatcher_died_is_settled_by_what_ray_knows(
    database: Database, ray: RayServer, dispatcher: Dispatcher, taken: bool, expected: str
) -> None:
    job_id = submit(database)
    with database.session() as session:
        claim = attempts.claim(session, jobs.lock(session, job_id), actor="the dead one", lease_seconds=60)
    assert claim is not None
    if taken:
        ray.jobs[claim.attempt.submission_id] = {"status": "RUNNING", "message": ""}
    ray.nodes = 0  # nothing new is to start
    dispatcher.round()
    assert state(database, job_id)[0] == "starting", "as long as the lease holds, the claim is not touched"
    with database.session() as session:
        jobs.attempt(session, job_id, 1).lease_expires_at = datetime.now(UTC) - timedelta(seconds=1)
    dispatcher.round()
    assert state(database, job_id)[0] == expected


@pytest.mark.parametrize("ray_knows", [True, False])
def test_a_run_that_reported_before_its_submission_was_written_down_does_not_run_for_ever(
    database: Database, ray: RayServer, dispatcher: Dispatcher, ray_knows: bool
) -> None:
    job_id = submit(database)
    with database.session() as session:
        claim = attempts.claim(session, jobs.lock(session, job_id), actor="the dead one", lease_seconds=-1)
        assert claim is not None
        jobs.transition(session, jobs.lock(session, job_id), JobState.RUNNING, actor="rank-0", message="")
    if ray_knows:
        ray.jobs[claim.attempt.submission_id] = {"status": "FAILED", "message": "", "driver_exit_code": 137}
    dispatcher.round()
    dispatcher.round()
    with database.read_session() as session:
        first, second = jobs.attempts(session, job_id)
    assert (first.outcome, first.reason) == ("lost", "worker_lost" if ray_knows else "cluster_lost")
    assert second.outcome is None


def test_a_job_whose_stored_spec_cannot_be_read_blocks_nobody(database: Database, dispatcher: Dispatcher) -> None:
    broken, sound = submit(database), submit(database)
    with database.session() as session:
        job = jobs.get(session, broken)
        job.spec = job.spec | {"a_field_of_another_version": 1}
    dispatcher.round()
    assert state(database, broken) == ("failed", "internal")
    assert state(database, sound) == ("starting", None)


def test_an_active_job_whose_spec_cannot_be_read_is_watched_on_and_reported_once(
    database: Database, ray: RayServer, settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    client = RayJobs(ray.url)
    job_id = submit(database)
    Dispatcher(database, client, settings).round()
    with database.session() as session:
        job = jobs.get(session, job_id)
        job.spec = job.spec | {"a_field_of_another_version": 1}
    submit(database)
    of_another_version = Dispatcher(database, client, settings)
    for _ in range(10):
        of_another_version.round()
    assert state(database, job_id) == ("starting", None)
    assert [record.message for record in caplog.records].count(f"{job_id}: its stored spec can't be read") == 1


def test_a_job_cancelled_while_ray_refuses_it_is_not_started_again(
    database: Database, ray: RayServer, dispatcher: Dispatcher
) -> None:
    job_id = submit(database)
    with database.session() as session:
        job = jobs.lock(session, job_id)
        attempts.claim(session, job, actor="d", lease_seconds=60)
        requests.cancel(session, job, actor="ada")
        attempts.put_back(session, job, actor="d", message="Ray does not take it now")
    assert state(database, job_id) == ("cancelled", None)


def test_what_a_dead_run_left_in_its_spools_is_delivered_and_its_own_word_on_its_end_counts(
    database: Database, ray: RayServer, dispatcher: Dispatcher, tmp_path: Path
) -> None:
    spool = tmp_path / "spool"
    job_id = submit(database)
    dispatcher.round()
    folder = spool / job_id / "1"
    folder.mkdir(parents=True)
    now = "2026-01-01T00:00:00Z"
    steps = [{"kind": "step", "time": now, "step": n, "metrics": {"loss": float(n)}} for n in range(1, 2501)]
    half_a_line = '{"kind": "step", "ti'
    (folder / "rank-0.jsonl").write_text("".join(json.dumps(step) + "\n" for step in steps) + half_a_line)
    outcome = {"kind": "outcome", "time": now, "state": "failed", "reason": "diverged", "message": "loss is NaN"}
    (folder / "driver.jsonl").write_text(json.dumps(outcome) + "\n")
    dispatcher.round()
    assert state(database, job_id)[0] == "starting", "while Ray has the run, its spools are its own"
    ray.jobs[f"{job_id}-1"]["status"] = "FAILED"
    dispatcher.round()
    assert state(database, job_id) == ("failed", "diverged")
    with database.read_session() as session:
        (series,) = metrics.series(session, job_id)
    assert (series.points, series.last_step) == (2500, 2500)
    assert not (spool / job_id).exists()


def test_the_last_lines_of_processes_that_died_are_stored_with_what_their_spools_have_each_once(
    database: Database, ray: RayServer, dispatcher: Dispatcher, tmp_path: Path
) -> None:
    job_id = submit(database)
    dispatcher.round()
    of_rank, of_driver = (tmp_path / "spool" / job_id / "1" / f"{name}.jsonl" for name in ("rank-0", "driver"))
    printed = tmp_path / "worker.err"
    printed.write_text("first\nFatal Python error: Aborted\npassword=hunter22")
    sent = {"kind": "log", "time": "2026-01-01T00:00:00Z", "stream": "stderr", "lines": ["first"], "end": 6}
    lives_on = note_outputs(of_rank, [Output("stderr", str(printed))])
    of_rank.write_text(json.dumps(sent, separators=(",", ":")) + "\n")
    note_outputs(of_driver, [Output("output", str(printed))]).close()
    of_driver.touch()

    def stored(source: str) -> list[str]:
        with database.read_session() as session:
            return [line.text for line in logs.lines(session, job_id, source=source, limit=9)]

    spools.deliver(database, tmp_path / "spool", job_id, 1, retry_seconds=0)
    assert stored("rank-0") == ["first"], "it lives, and tells the rest itself"
    lives_on.close()
    ray.jobs[f"{job_id}-1"] |= {"status": "FAILED", "driver_exit_code": -6}
    for _ in range(2):
        dispatcher.round()
    rest = ["Fatal Python error: Aborted", "password=[masked]"]
    assert (stored("rank-0"), stored("driver")) == (["first", *rest], ["first", *rest])
    with database.read_session() as session:
        attempt = jobs.attempt(session, job_id, 1)
    assert attempt.reason == "worker_lost"
    assert attempt.message is not None
    assert "crashed in native code (SIGABRT)" in attempt.message
    assert attempt.message.endswith("Traceback: it broke"), "what Ray has of the driver's output"


def test_spools_of_a_deleted_job_are_removed(dispatcher: Dispatcher, tmp_path: Path) -> None:
    spool = tmp_path / "spool"
    (spool / "job-gone" / "1").mkdir(parents=True)
    dispatcher.round()
    assert not (spool / "job-gone").exists()


def test_every_change_of_state_is_an_event_with_its_actor(database: Database, dispatcher: Dispatcher) -> None:
    job_id = submit(database)
    dispatcher.round()
    with database.read_session() as session:
        history = [(e.name, e.actor) for e in events.after(session, job_id, after_seq=0, limit=10)]
    assert history == [("queued", "ada"), ("starting", "dispatcher"), ("submitted", "dispatcher")]
    assert state(database, job_id)[0] == JobState.STARTING


def test_a_stop_of_the_service_ends_what_has_not_begun_waits_for_what_trains_and_starts_nothing(
    database: Database, ray: RayServer, settings: Settings
) -> None:
    starting, training, waiting = submit(database), submit(database), submit(database)
    client = RayJobs(ray.url)
    dispatcher = Dispatcher(database, client, settings.model_copy(update={"stop_grace_seconds": 3600.0}))
    dispatcher.round()
    assert ray.jobs.keys() == {f"{starting}-1", f"{training}-1"}
    with database.session() as session:
        position = sources.get(session, training, 1, "rank-0")
        position.next_seq, position.seen_at = 2, datetime.now(UTC)
        jobs.transition(session, jobs.lock(session, training), JobState.RUNNING, actor="rank-0", message="")
    assert dispatcher.drain()
    assert ray.stopped == [f"{starting}-1"]
    ray.jobs[f"{starting}-1"]["status"] = "STOPPED"
    assert dispatcher.drain()
    assert [state(database, job)[0] for job in (starting, training, waiting)] == ["queued", "running", "queued"]
    with database.session() as session:
        outcome = OutcomeRecord(state=JobState.PAUSED, message="paused after step 7")
        attempts.end(session, jobs.lock(session, training), outcome, actor="driver", retry_seconds=0)
    assert not dispatcher.drain()
    assert state(database, training) == ("queued", None)
    assert len(ray.jobs) == 2, "nothing was started meanwhile"
    dispatcher.close()
    client.close()
