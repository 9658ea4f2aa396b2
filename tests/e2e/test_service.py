"""Jobs through the whole system: HTTP, store, dispatcher, Ray, two data-parallel workers, telemetry, artifacts."""

from __future__ import annotations

import contextlib
import hashlib
import ipaddress
import json
import os
import re
import signal
import socket
import stat
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import psutil
import pyarrow.parquet as pq
import pytest
from safetensors.numpy import load_file

import symadj_core
from symadj.api.children import MARK
from symadj.api.client import ApiUnreachableError, Client
from symadj.api.schemas.jobs import JobRead
from symadj.service.contract.order import PLACE_VARIABLE
from symadj.service.contract.states import JobState
from symadj.service.lifecycle.attempts import hash_token
from symadj.service.store import Database, jobs
from tests.deaths.aftermath import check_aftermath
from tests.deaths.world import World
from tests.deaths.world import toy as small_steps
from tests.e2e.conftest import Service, ended, following

pytestmark = pytest.mark.ray

Until = Callable[[str, Callable[[JobRead], bool]], JobRead]


def toy(steps: int, **changes: Any) -> dict[str, Any]:
    return {
        "name": "toy",
        "data": {"kind": "toy", "name": "moons", "rows": 2000, "batch_size": 200},
        "flow": {"kind": "cnf", "blocks": 1, "field": {"hidden": [16]}},
        "solver": {"kind": "adaptive", "rtol": 1e-3, "atol": 1e-4},
        "optimizer": {"kind": "adam", "learning_rate": 0.01},
        "stop": {"kind": "steps", "max_steps": steps},
        "resources": {"kind": "cpu", "workers": 2},
        "evaluation": None,
    } | changes


def steps_of(client: Client, job_id: str, name: str = "loss") -> list[int]:
    return [point.step for page in client.metric_pages(job_id, name) for point in page.points]


def test_what_the_service_says_when_it_is_ready_leads_to_the_page(service: Service) -> None:
    (address,) = re.findall(r"^ *page +(\S+)$", service.said, re.MULTILINE)
    answer = httpx.get(address, headers={"Accept": "text/html"})
    assert answer.status_code == 200
    assert "<title>symadj</title>" in answer.text


def test_a_job_trains_and_leaves_metrics_memory_and_files(service: Service, client: Client, until: Until) -> None:
    spec = toy(40, evaluation={"validate_every_steps": 20, "validation_rows": 200, "mixture_components": 3})
    job = until(client.submit(spec).id, ended)

    assert steps_of(client, job.id) == list(range(1, 41))
    losses = _losses(client, job.id)
    assert losses[-1] < losses[0]
    names = {metric.name for metric in client.metric_list(job.id).items}
    assert {"loss", "nfe_forward", "nfe_backward", "grad_norm", "learning_rate", "validation_nll"} <= names

    memory = client.memory(job.id)
    times = {"forward": 40, "backward": 40, "optimizer": 40, "validation": 2, "evaluation": 1}
    assert [(row.rank, row.phase, row.steps) for row in memory.phases] == [
        (rank, phase, count) for rank in (0, 1) for phase, count in times.items()
    ]
    for row in memory.phases:
        assert row.host_peak_bytes is not None, "Linux tells the high-water mark"
        assert row.host_idle_bytes is not None
        assert row.host_peak_bytes >= row.host_idle_bytes

    assert job.result is not None
    assert job.result.test_nll < job.result.baselines.gaussian + 1
    assert job.result.test_nll_stderr > 0
    assert job.result.host_peak_bytes == max(row.host_peak_bytes for row in memory.phases)
    assert abs(job.plan.error) < 0.1, "of a whole worker with its libraries"

    files = {item.name: item for item in client.artifacts(job.id).items}
    assert {"weights.safetensors", "config.json", "curve.png", "pairs.png"} <= files.keys()
    for item in files.values():
        content = Path(item.path).read_bytes()
        assert (len(content), hashlib.sha256(content).hexdigest()) == (item.bytes, item.sha256)
    assert sum(tensor.size for tensor in load_file(files["weights.safetensors"].path).values()) > 0
    assert Path(files["curve.png"].path).read_bytes().startswith(b"\x89PNG")

    shown = service.run("show", job.id)
    assert shown.returncode == 0
    for words in (
        "succeeded",
        "this flow",
        "Gaussian mixture, 3 components",
        "backward",
        "weights.safetensors",
        "curl -s",
    ):
        assert words in shown.stdout


def test_the_api_and_what_runs_are_copied_from_may_die_in_mid_training_and_no_record_is_lost_or_doubled(
    service: Service, client: Client, until: Until
) -> None:
    steps = 600
    job_id = client.submit(toy(steps)).id
    until(job_id, lambda job: job.progress.step >= 20)
    template = service.child("symadj.workers.warm.template")
    ranks = [copy for copy in template.children() if "RayTrainWorker" in " ".join(copy.cmdline())]
    assert len(ranks) == 2, "it starts warm"
    for rank in ranks:
        assert any(part.path.endswith("libjemalloc.so") for part in rank.memory_maps()), "whose heap holds no more"
    (raylet,) = (child for child in service.child("--temp-dir=").children() if child.name() == "raylet")
    assert "workers/warm/setup_worker.py" in " ".join(raylet.cmdline()), "and no process imports Ray before that"
    template.kill()
    for _ in range(2):
        service.child("-m symadj.api").kill()
        answered_at = _step_when_it_answers(client, job_id)
    assert answered_at < steps, "the API died while the job trained"
    job = until(job_id, ended)
    assert job.attempt == 1, "the training was not disturbed"
    for name in ("loss", "nfe_forward"):
        assert steps_of(client, job_id, name) == list(range(1, steps + 1))
    of_steps = [row.steps for row in client.memory(job_id).phases if row.phase not in ("validation", "evaluation")]
    assert of_steps == [steps] * 6
    events = [event.name for event in client.events(job_id).items]
    assert events.count("training_started") == events.count("succeeded") == 1


def _step_when_it_answers(client: Client, job_id: str) -> int:
    deadline = time.monotonic() + 60
    while True:
        try:
            return client.job(job_id).progress.step
        except ApiUnreachableError:
            assert time.monotonic() < deadline


def test_a_running_job_is_cancelled_at_its_next_step(service: Service, client: Client, until: Until) -> None:
    job_id = client.submit(toy(100_000)).id
    until(job_id, lambda job: job.progress.step >= 5)
    assert_each_process_has_the_secrets_that_it_needs(service)
    assert_the_token_is_nowhere(service, job_id)
    assert_listens_on_loopback_alone(service)
    assert_nobody_else_can_read(service.data)
    ray_folder = service.ray_folder()
    assert_nobody_else_can_read(ray_folder.parent)
    assert service.run("cancel", job_id).returncode == 0
    job = until(job_id, lambda job: job.state is JobState.CANCELLED)
    (event,) = [event for event in client.events(job_id).items if event.name == "cancelled"]
    assert event.actor == "driver", "the run itself stopped; nobody had to kill it"
    assert steps_of(client, job_id) == list(range(1, job.progress.step + 1))


def assert_each_process_has_the_secrets_that_it_needs(service: Service) -> None:
    """Secrets of the service are among its settings; a run has the place of its order."""
    found: dict[str, dict[str, str]] = {}
    for process in psutil.Process(service.process.pid).children(recursive=True):
        with contextlib.suppress(psutil.Error):
            found[" ".join(process.cmdline())] = process.environ()
    for words in ("symadj.workers.run", "RayTrainWorker", "symadj.service.dispatcher", "raylet"):
        assert any(words in command for command in found)
    for words in ("DatasetManager", "PlacementGroupCleaner"):
        assert not any(words in command for command in found), "a process of hundreds of MB that no run needs"
    has_key_secret = [command for command, environment in found.items() if "SYMADJ_KEY_SECRET" in environment]
    assert ["-m symadj.api" in command for command in has_key_secret] == [True]
    assert [command for command, environment in found.items() if "SOMEBODYS_TOKEN" in environment] == []
    for command, environment in found.items():
        if MARK not in environment:
            continue  # it has written its title over its environment
        assert environment["OF_THE_USER"] == "wanted"
        if environment[MARK] == f"ray:{service.data}":
            assert {name for name in environment if name.startswith("SYMADJ_")} <= {MARK, PLACE_VARIABLE}, command


def assert_the_token_is_nowhere(service: Service, job_id: str) -> None:
    """The store has its hash, by which it is looked for: in all files of the service and of Ray, and environments."""
    database = Database(f"sqlite:///{service.data / 'symadj.sqlite'}")
    with database.read_session() as session:
        digest = jobs.attempt(session, job_id, 1).token_hash
    database.close()
    ray_folder = service.ray_folder()
    texts = {path: path.read_bytes() for folder in (service.data, ray_folder) for path in regular_files(folder)}
    assert any(path.name == "runtime_env_agent.log" for path in texts), "where Ray writes a job's environment"
    for process in psutil.Process(service.process.pid).children(recursive=True):
        with contextlib.suppress(psutil.Error):
            texts[Path(f"/proc/{process.pid}")] = json.dumps([process.environ(), process.cmdline()]).encode()
    token = re.compile(rb"(?<![\w-])[\w-]{43}(?![\w-])")
    having = [path for path, text in texts.items() if digest in map(hash_of, set(token.findall(text)))]
    assert having == []


def hash_of(word: bytes) -> bytes:
    return hash_token(word.decode())


def regular_files(folder: Path) -> Iterator[Path]:
    return (path for path in folder.rglob("*") if path.is_file() and not path.is_symlink())


def assert_listens_on_loopback_alone(service: Service) -> None:
    """What listens are the API, Ray and the run; the store that the ranks of a run meet at can't be told where."""
    processes = psutil.Process(service.process.pid).children(recursive=True)
    addresses: dict[str, set[str]] = {}
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):  # some live for a moment
            for connection in process.net_connections("inet"):
                if connection.status == psutil.CONN_LISTEN:
                    addresses.setdefault(process.name(), set()).add(connection.laddr.ip)
    assert {"gcs_server", "raylet"} <= addresses.keys()
    elsewhere = {
        name: found
        for name, found in addresses.items()
        if not all(ipaddress.ip_address(ip.removeprefix("::ffff:")).is_loopback for ip in found)
    }
    assert not elsewhere


def assert_nobody_else_can_read(folder: Path) -> None:
    assert stat.S_IMODE(folder.stat().st_mode) & 0o077 == 0 or all(
        stat.S_IMODE(entry.lstat().st_mode) & 0o077 == 0 for entry in folder.iterdir()
    )


@pytest.fixture(scope="module")
def alike(service: Service) -> list[str]:
    """Two jobs of a few steps that another gradient each has trained, while a long one ran on the other CPU."""
    one_worker = {"resources": {"kind": "cpu", "workers": 1}}
    with Client(service.url) as client:
        until = following(client)
        long = client.submit(toy(100_000, **one_worker)).id
        specs = [toy(5, name="alike", gradient={"kind": kind}, **one_worker) for kind in ("symplectic", "backprop")]
        ids = [client.submit(spec).id for spec in specs]
        for job_id in ids:
            until(job_id, ended)
        assert client.job(long).state is JobState.RUNNING, "all the time"
        client.cancel(long)
        until(long, lambda job: job.state is JobState.CANCELLED)
    return ids


def test_jobs_run_side_by_side_and_every_exact_gradient_trains_alike(client: Client, alike: list[str]) -> None:
    symplectic, backprop = (_losses(client, job_id) for job_id in alike)
    assert len(symplectic) == 5
    assert symplectic == pytest.approx(backprop, rel=1e-5)


def _losses(client: Client, job_id: str) -> list[float]:
    return [point.value for page in client.metric_pages(job_id, "loss") for point in page.points]


@pytest.mark.slow
def test_a_diverging_job_fails_with_its_reason_and_step(service: Service, client: Client, until: Until) -> None:
    spec = toy(
        50, optimizer={"kind": "sgd", "learning_rate": 100, "clip_norm": None}, solver={"kind": "fixed", "steps": 4}
    )
    job = until(client.submit(spec).id, lambda job: job.state is JobState.FAILED)
    assert job.failure is not None
    assert job.failure.code == "diverged"
    assert job.failure.data["step"] >= 1
    assert job.attempt == 1, "what is bound to happen again is not tried again"
    assert service.run("watch", job.id).returncode == 1


def test_a_job_on_bad_data_that_were_sent_is_found_out_in_advance_and_ends_before_any_worker_is_placed(
    service: Service, client: Client, tmp_path: Path
) -> None:
    rows = np.random.default_rng(0).standard_normal((300, 2))
    rows[17, 1] = np.nan
    np.save(tmp_path / "bad.npy", rows)
    path = client.upload(tmp_path / "bad.npy").path
    data = {"kind": "file", "path": path, "batch_size": 50}
    (found,) = client.validate(toy(50, data=data)).findings
    assert (found.pointer, found.severity) == ("/data/path", "error")
    assert f"row 17 (from 0), column 'x1' of {path} is nan" in found.detail
    (log,) = service.ray_folder().glob("session_latest/logs/job-driver-*-check.log")
    assert log.name.removeprefix("job-driver-").removesuffix("-check.log") not in os.listdir(service.data / "jobs")
    job_id = client.submit(toy(50, data=data)).id
    assert service.run("watch", job_id).returncode == 1
    job = client.job(job_id)
    assert job.failure is not None
    assert job.failure.code == "data_error"
    assert f"row 17 (from 0), column 'x1' of {path} is nan" in job.failure.message
    place = {"phase": "data", "file": path, "column": "x1", "row": 17}
    assert place.items() <= job.failure.data.items()
    summary = client.data(job.id).summary
    assert summary is not None
    (source,) = summary.sources
    assert [column.not_finite for column in source.columns] == [0, 1], "what was read is said before it is refused"
    assert client.memory(job.id).phases == []
    assert "training_started" not in [event.name for event in client.events(job.id).items]


def test_a_killed_run_that_has_no_more_attempts_fails_with_its_reason_and_what_it_had_recorded_is_kept(
    service: Service, client: Client, until: Until
) -> None:
    job_id = client.submit(toy(100_000, max_attempts=1)).id
    until(job_id, lambda job: job.progress.step >= 30)
    family = {process.pid for process in psutil.Process(service.process.pid).children(recursive=True)}
    drivers = [
        process
        for process in psutil.process_iter(["cmdline"])
        if process.pid in family and "symadj.workers.run" in (process.info["cmdline"] or [])
    ]
    # The API first, so that records pile up in the spools of the run.
    service.child("-m symadj.api").kill()
    for driver in drivers:
        driver.kill()
    _step_when_it_answers(client, job_id)
    job = until(job_id, lambda job: job.state is JobState.FAILED)
    assert job.failure is not None
    assert job.failure.code == "worker_lost"
    while (spool := service.data / "spool" / job_id).exists():
        client.metric(job_id, "loss", after_seq=2**62, wait=0.2)
        assert service.process.poll() is None
    steps = steps_of(client, job_id)
    assert steps == list(range(1, len(steps) + 1))
    assert len(steps) >= job.progress.step
    assert not spool.exists()
    for rank in (0, 1):
        assert client.logs(job_id, rank=rank, limit=1).items[0].text.endswith(f"on {socket.gethostname()}")
    assert "Running entrypoint" in "".join(line.text for line in client.logs(job_id, rank="driver").items)


def test_a_killed_driver_costs_the_steps_since_the_checkpoint_and_no_bit(service: Service, client: Client) -> None:
    world = World(service, client)
    # So many that a busy machine finds the process that must die before it has ended.
    spec = small_steps(1200, workers=1, checkpoints={"every_steps": 100})
    in_peace, disturbed = world.submit(spec), world.submit(spec)
    world.at_step(disturbed, 150)
    world.process(disturbed, "driver").kill()
    world.ended(in_peace)
    check_aftermath(world, disturbed, weights=world.weights(in_peace), attempts=2)
    assert (client.attempts(disturbed).items[1].resumed_from_step or 0) >= 100


def test_a_rank_that_crashes_in_native_code_is_named_and_its_last_lines_are_quoted_and_kept(
    service: Service, client: Client, until: Until
) -> None:
    job_id = client.submit(toy(100_000, max_attempts=1)).id
    until(job_id, lambda job: job.progress.step >= 1)
    first = client.logs(job_id, rank=1, wait=20).items[0].text
    process = re.search(r"rank 1 of 2: process (\d+)", first)
    assert process is not None, first
    os.kill(int(process[1]), signal.SIGABRT)  # as abort() of a library does
    job = until(job_id, lambda job: job.state is JobState.FAILED)
    assert job.failure is not None
    assert job.failure.code == "worker_lost"
    assert job.failure.message.startswith("the process of a worker died: rank 1 (SIGABRT)")
    assert "Fatal Python error: Aborted" in job.failure.message
    assert (job.failure.data["rank"], job.failure.data["signal"]) == (1, "SIGABRT")
    lines = {rank: [line.text for line in client.logs(job_id, rank=rank).items] for rank in (0, 1, "driver")}
    assert [rank for rank in lines if "Fatal Python error: Aborted" in lines[rank]] == [1]
    assert not any("/api/v1/ingest" in line for line in lines[0]), "sending a line makes no other"
    assert "Fatal Python error: Aborted" in service.run("logs", job_id, "--rank", "1").stdout
    assert "Fatal Python error: Aborted" in service.run("show", job_id).stdout


def test_a_plan_knows_what_memory_rays_nodes_have_for_the_workers(client: Client) -> None:
    plan = client.plan(toy(1))
    nodes = client.cluster().nodes
    assert nodes is not None
    assert plan.available_bytes == nodes[0].memory // 2, "two workers on one node"
    assert all(peak.fits_workers is not None for item in plan.gradients for peak in item.peaks)


def test_two_services_do_not_share_a_data_folder(service: Service) -> None:
    second = service.run("serve", "--port", "0", "--data", str(service.data))
    assert second.returncode == 1
    assert "in use by another" in second.stderr


def test_the_command_line_lists_and_compares(service: Service, alike: list[str]) -> None:
    listing = json.loads(service.run("list", "--json", "--name", "alike", "--state", "succeeded").stdout)
    assert [job["id"] for job in listing["items"]] == alike[::-1]
    compared = service.run("memory", *alike)
    assert compared.returncode == 0
    assert "times symplectic" in compared.stdout
    losses = service.run("metrics", alike[0], "loss").stdout.splitlines()
    assert losses[0].split("\t")[0] == "1"
    target = service.data / "downloaded"
    assert service.run("download", alike[0], str(target)).returncode == 0
    assert os.listdir(target)


def test_a_trained_flow_scores_a_file_on_two_workers_as_it_does_at_home(
    service: Service, client: Client, until: Until, tmp_path: Path
) -> None:
    succeeded = client.jobs(state=JobState.SUCCEEDED, name="toy").items  # of the tests before
    trained = succeeded[0].id if succeeded else until(client.submit(toy(2)).id, ended).id
    rows = np.random.default_rng(0).standard_normal((12_000, 2))
    np.save(tmp_path / "rows.npy", rows)
    words = ("score", trained, str(tmp_path / "rows.npy"), "--workers", "2")
    done = service.run(*words, "--download", str(tmp_path / "out.parquet"))
    assert done.returncode == 0, done.stdout + done.stderr
    assert service.run("download", trained, str(tmp_path / "out")).returncode == 0
    flow = symadj_core.load(tmp_path / "out")
    scores = pq.read_table(tmp_path / "out.parquet")["log_prob"].to_numpy()
    np.testing.assert_allclose(scores, flow.log_prob(rows).numpy(), rtol=0, atol=1e-12)
    job = client.job(done.stdout.split()[0])
    assert job.result is not None
    assert job.result.scores is not None
    assert (job.result.scores.rows, job.progress.latest["rows_scored"]) == (12_000, 12_000)
    assert job.result.host_peak_bytes is not None
    assert {phase.rank for phase in client.memory(job.id).phases} == {0, 1}
    assert client.data(job.id).summary is not None
