"""Densities, samples and trajectories of a trained flow, over HTTP."""

from __future__ import annotations

import contextlib
import io
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from itertools import islice
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import psutil
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
import pytest
from click.testing import Result
from typer.testing import CliRunner

import symadj_core
from symadj.api.cli import main
from symadj.service import keys
from symadj.service.contract import layout
from symadj.service.contract.flow_question import MediaType, Operation
from symadj.service.contract.plan import Plan
from symadj.service.contract.spec.section import kinds_of
from symadj.service.contract.spec.solver import NamedGradient
from symadj.service.roles import Role
from symadj.service.store import Database
from tests.api.conftest import Run, child, runs_of
from tests.api.test_jobs import assert_problem
from tests.conftest import TOY, ApiServer, running_api
from tests.core.test_trained import OF_CONTEXT, config, folder
from tests.workers import runs

SECRET = "a secret of the server's for tests"
ROWS = [[0.25, -0.5], [1.0, 0.75], [-0.5, 0.5]]
TABLE = pa.table({"more": ["a", "b", "c"], "y": [row[1] for row in ROWS], "x": [row[0] for row in ROWS]})


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files of a real run on two columns, x and y."""
    place = tmp_path_factory.mktemp("run")
    outcome, _ = runs.run(place, evaluation={"mixture_components": 0, "plots": False, "two_sample_rows": 0})
    assert outcome.state == "succeeded"
    return place / "job-1" / "artifacts" / "1"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApiServer]:
    """An API that asks for keys."""
    with running_api(tmp_path_factory.mktemp("api"), SYMADJ_AUTH="keys", SYMADJ_KEY_SECRET=SECRET) as server:
        yield server


@contextlib.contextmanager
def client_of(server: ApiServer, role: Role = Role.ADMIN, name: str = "root") -> Iterator[httpx.Client]:
    database = Database(f"sqlite:///{server.data / 'symadj.sqlite'}")
    with contextlib.closing(database), database.session() as session:
        _, made = keys.create(session, SECRET.encode(), name=name, role=role)
    with httpx.Client(base_url=server.url, headers={"Authorization": f"Bearer {made}"}, timeout=120) as client:
        yield client


@pytest.fixture(scope="module")
def api(server: ApiServer) -> Iterator[httpx.Client]:
    with client_of(server) as client:
        yield client


def with_files(run: Run, source: Path) -> Run:
    """Store the files of a run as a job's."""
    for name in (layout.CONFIG, layout.WEIGHTS):
        run.store(name, (source / name).read_bytes())
    return run


@pytest.fixture(scope="module")
def job(server: ApiServer, api: httpx.Client, trained: Path) -> Iterator[Run]:
    """A job with a trained flow."""
    with runs_of(server, api) as make:
        yield with_files(make(), trained)


@contextlib.contextmanager
def serving(data: Path, trained: Path, **setting: str) -> Iterator[tuple[ApiServer, Run]]:
    """Run an API with a setting, and a job with a trained flow in it."""
    with (
        running_api(data, **setting) as server,
        httpx.Client(base_url=server.url, timeout=120) as client,
        runs_of(server, client) as make,
    ):
        yield server, with_files(make(), trained)


def ask(run: Run, operation: str, api: httpx.Client | None = None, **arguments: Any) -> httpx.Response:
    return (api or run.api).post(f"/api/v1/jobs/{run.job_id}/flow/{operation}", **arguments)


def written(media_type: MediaType) -> bytes:
    """Return the rows in a format."""
    stream = io.BytesIO()
    match media_type:
        case MediaType.JSON:
            stream.write(json.dumps({"rows": ROWS}).encode())
        case MediaType.NPY:
            np.save(stream, np.array(ROWS))
        case MediaType.CSV:
            pa.csv.write_csv(TABLE, stream)
        case MediaType.PARQUET:
            pa.parquet.write_table(TABLE, stream)
    return stream.getvalue()


def read(answer: httpx.Response) -> dict[str, np.ndarray[Any, Any]]:
    """Return the columns of an answer in any format; of npy, by number."""
    assert answer.status_code == 200, answer.text
    content = answer.content
    match MediaType(answer.headers["content-type"].partition(";")[0]):
        case MediaType.JSON:
            return {name: np.array(values) for name, values in json.loads(content)["columns"].items()}
        case MediaType.NPY:
            array = np.load(io.BytesIO(content))
            return {str(at): column for at, column in enumerate(array.reshape(len(array), -1).T)}
        case MediaType.CSV:
            table = pa.csv.read_csv(io.BytesIO(content))
        case MediaType.PARQUET:
            table = pa.parquet.read_table(io.BytesIO(content))
    return {name: table[name].to_numpy() for name in table.column_names}


@pytest.mark.parametrize("media_type", MediaType)
def test_the_density_is_that_of_the_library_in_every_format(job: Run, trained: Path, media_type: MediaType) -> None:
    headers = {"Content-Type": media_type, "Accept": media_type}
    columns = read(ask(job, "log_prob", content=written(media_type), headers=headers))
    (scores,) = columns.values()
    np.testing.assert_allclose(scores, symadj_core.load(trained).log_prob(ROWS), rtol=1e-12)
    assert columns.keys() == ({"0"} if media_type is MediaType.NPY else {"log_prob"})


@pytest.mark.parametrize("media_type", MediaType)
def test_samples_are_those_of_their_seed_and_can_be_sent_back_as_they_came(job: Run, media_type: MediaType) -> None:
    accept = {"Accept": media_type}
    first, second = (ask(job, "sample", params={"n": 5, "seed": 1}, headers=accept) for _ in range(2))
    assert first.content == second.content
    assert ask(job, "sample", params={"n": 5}, headers=accept).content != first.content
    assert [len(column) for column in read(first).values()] == [5, 5]
    scores = read(ask(job, "log_prob", content=first.content, headers={"Content-Type": media_type}))
    assert scores["log_prob"].shape == (5,)


def test_rows_are_followed_to_the_base(job: Run, trained: Path) -> None:
    flow = symadj_core.load(trained)
    times = [0.0, flow.end_time / 2, flow.end_time]
    found = read(ask(job, "transport", params={"t": times}, json={"rows": ROWS}))
    assert found["flow_time"].tolist() == np.repeat(times, 3).tolist()
    assert found["flow_row"].tolist() == [0, 1, 2] * 3
    paths = np.stack([found["x"], found["y"]], -1)
    np.testing.assert_allclose(paths[:3], ROWS, rtol=1e-6)
    # The flow's own space: to the base, and from there to the data by the transforms.
    np.testing.assert_allclose(paths[6:], flow.space.from_flow(flow.to_base(ROWS), rounded=False), rtol=1e-4, atol=1e-5)


def test_contexts_stand_beside_the_rows_by_name_or_apart(server: ApiServer, api: httpx.Client, tmp_path: Path) -> None:
    files = folder(tmp_path / "given", config(context_columns=["age"], context_transform=OF_CONTEXT))
    with runs_of(server, api) as make:
        run = with_files(make(), files)
        beside = {"columns": {"age": [30, 50], "ssc": [-3, -2.5], "fsc": [1e6, 1.0001e6]}}
        apart = {"rows": [[1e6, -3], [1.0001e6, -2.5]], "context": [[30], [50]]}
        one, other = (read(ask(run, "log_prob", json=body))["log_prob"].tolist() for body in (beside, apart))
        assert one == other
        missing = assert_problem(ask(run, "log_prob", json={"rows": [[1e6, -3]]}), 422)
        assert "age" in missing["detail"]
        drawn = read(
            ask(run, "sample", params={"n": 2}, content=b"age\n30\n50\n", headers={"Content-Type": "text/csv"})
        )
        assert drawn["age"].tolist() == [30, 30, 50, 50]
        ages, samples = tmp_path / "ages.csv", tmp_path / "samples.npy"
        ages.write_text("age\n30\n50\n40\n")
        for most in (1, 2, 4, 100):
            words = ("-n", "3", "--context", str(ages), "--batch-rows", str(most))
            assert command(run, "sample", run.job_id, str(samples), *words).exit_code == 0
            assert np.load(samples)[:, 2].tolist() == np.repeat([30, 50, 40], 3).tolist()
        assert "age" in assert_problem(ask(run, "sample"), 422)["detail"]


@pytest.mark.parametrize(
    ("operation", "arguments", "words"),
    [
        ("log_prob", {"json": {"rows": [[1.0]]}}, "x, y"),
        ("log_prob", {"json": {"columns": {"x": [1.0]}}}, "y"),
        ("log_prob", {"json": {"columns": {"x": [1.0], "y": [1.0, 2.0]}}}, "lengths"),
        ("log_prob", {"json": {"rows": [[1.0, 1.0]], "index": [1, 2]}}, "index"),
        ("log_prob", {"content": b"x,y\n1,\n", "headers": {"Content-Type": MediaType.CSV}}, "finite"),
        ("log_prob", {"content": b"x,z\n1,2\n", "headers": {"Content-Type": MediaType.CSV}}, "'y'"),
        ("log_prob", {"content": b"PAR1", "headers": {"Content-Type": MediaType.PARQUET}}, "parquet"),
        ("log_prob", {"content": b"\x93NUMPY", "headers": {"Content-Type": MediaType.NPY}}, "npy"),
        ("log_prob", {"json": {"columns": {"x": [], "y": []}}}, "no rows"),
        (
            "transport",
            {"params": {"t": [0, 0.5]}, "content": b"x,y\n", "headers": {"Content-Type": MediaType.CSV}},
            "no rows",
        ),
        ("sample", {"json": {"context": [[1.0]]}}, "no context"),
        ("transport", {"params": {"t": [0, 9]}, "json": {"rows": ROWS}}, "t"),
    ],
)
def test_what_does_not_fit_is_refused_with_the_reason(
    job: Run, operation: str, arguments: dict[str, Any], words: str
) -> None:
    problem = assert_problem(ask(job, operation, **arguments), 422)
    assert problem["type"] == "urn:symadj:problem:invalid-rows"
    assert words in problem["detail"]


def test_more_rows_than_one_request_may_take_are_refused_with_how_many_it_may(job: Run) -> None:
    for answer in (
        ask(job, "log_prob", json={"rows": [[0.0, 0.0]] * 10_001}),
        ask(job, "sample", params={"n": 10_001}),
        ask(job, "transport", params={"t": [0, 0.5]}, json={"rows": [[0.0, 0.0]] * 5001}),
    ):
        assert "10,000 rows" in assert_problem(answer, 413)["detail"]


def test_pickled_objects_are_not_loaded(job: Run) -> None:
    stream = io.BytesIO()
    np.save(stream, np.array([{}, {}], dtype=object))
    answer = ask(job, "log_prob", content=stream.getvalue(), headers={"Content-Type": MediaType.NPY})
    assert "npy" in assert_problem(answer, 422)["detail"]


def test_formats_that_are_not_known_are_refused_with_those_that_are(job: Run) -> None:
    for headers, status in (
        ({"Content-Type": "application/x-arff"}, 415),
        ({"Content-Type": "application/json", "Accept": "image/png"}, 406),
        ({"Content-Type": "application/json", "Accept": "text/csv;q=0"}, 406),
    ):
        problem = assert_problem(ask(job, "log_prob", content=b'{"rows": [[0, 0]]}', headers=headers), status)
        assert all(media_type in problem["detail"] for media_type in MediaType)
    liked = {"Accept": "image/png, text/csv;q=0.5, application/json;q=0.1, */*;q=0.01"}
    assert ask(job, "sample", headers=liked).headers["content-type"].startswith("text/csv")


@pytest.mark.parametrize("operation", Operation)
def test_a_job_without_weights_says_so_and_others_jobs_are_not_there(
    server: ApiServer, job: Run, api: httpx.Client, operation: Operation
) -> None:
    arguments: dict[str, Any] = {} if operation is Operation.SAMPLE else {"json": {"rows": ROWS}}
    arguments["params"] = {"t": [0, 0.5]} if operation is Operation.TRANSPORT else {}
    with runs_of(server, api) as make:
        problem = assert_problem(ask(make(), operation, **arguments), 409)
        assert "weights.safetensors" in problem["detail"]
    with client_of(server, Role.VIEWER, f"viewer of {operation}") as viewer:
        assert ask(job, operation, viewer, **arguments).status_code == 200
    with client_of(server, Role.SUBMITTER, f"submitter of {operation}") as stranger:
        assert_problem(ask(job, operation, stranger, **arguments), 404)


def test_the_death_of_the_process_costs_one_request_and_the_api_nothing(server: ApiServer, job: Run) -> None:
    for _ in range(5):  # on a machine with much else to do it may have answered before it is killed
        assert ask(job, "sample").status_code == 200
        before = child(server)
        idle = before.cpu_times()
        with ThreadPoolExecutor() as threads:
            asked = threads.submit(ask, job, "sample", params={"n": 10_000})
            while before.cpu_times() == idle and not asked.done():
                pass  # it has nothing else to do: when it computes, it is the request
            before.kill()
            answer = asked.result()
        if answer.status_code != 200:
            break
    problem = assert_problem(answer, 503)
    assert "signal 9" in problem["detail"]
    assert answer.headers["retry-after"]
    assert job.get("").status_code == 200
    assert ask(job, "sample").status_code == 200
    assert child(server).pid != before.pid


def test_the_process_has_no_secret_of_the_service(server: ApiServer, job: Run) -> None:
    assert ask(job, "sample").status_code == 200
    assert SECRET in psutil.Process(server.process.pid).environ().values()
    assert not [name for name in child(server).environ() if name.startswith("SYMADJ_")]


def test_of_many_requests_some_wait_and_the_others_are_told_to_come_again(server: ApiServer, job: Run) -> None:
    assert ask(job, "sample").status_code == 200
    stopped = child(server)
    stopped.suspend()
    try:
        with ThreadPoolExecutor() as threads:
            asked = [threads.submit(ask, job, "sample") for _ in range(6)]
            first = [done.result() for done in islice(as_completed(asked), 2)]
            stopped.resume()
            statuses = sorted(done.result().status_code for done in asked)
    finally:
        stopped.resume()
    assert statuses == [200] * 4 + [503] * 2
    for answer in first:
        assert assert_problem(answer, 503)["type"] == "urn:symadj:problem:busy"
        assert answer.headers["retry-after"]


WRITTEN: list[tuple[dict[str, Any], list[str]]] = [
    ({"delimiter": ";", "decimal": ","}, ["more;y;x", "a;-0,5;0,25", "b;0,75;1,0", "c;0,5;-0,5"]),
    ({"header": False}, ["0.25,-0.5", "1.0,0.75", "-0.5,0.5"]),
    ({"encoding": "utf-16", "delimiter": "\t"}, ["x\ty", "0.25\t-0.5", "1.0\t0.75", "-0.5\t0.5"]),
]


@pytest.mark.parametrize(("options", "lines"), WRITTEN, ids=[str(options) for options, _ in WRITTEN])
def test_a_csv_file_of_any_program_is_read_as_the_request_says(
    job: Run, trained: Path, tmp_path: Path, options: dict[str, Any], lines: list[str]
) -> None:
    content = "\n".join(lines).encode(options.get("encoding", "utf-8"))
    expected = symadj_core.load(trained).log_prob(np.array(ROWS))
    answer = ask(job, "log_prob", content=content, headers={"Content-Type": MediaType.CSV}, params=options)
    np.testing.assert_allclose(read(answer)["log_prob"], expected, rtol=1e-5)
    (tmp_path / "rows.csv").write_bytes(content)
    names = {name: f"data.{name}" if name == "header" else f"data.csv.{name}" for name in options}
    settings = [word for name, value in options.items() for word in ("--set", f"{names[name]}={json.dumps(value)}")]
    printed = command(job, "logprob", job.job_id, str(tmp_path / "rows.csv"), "--batch-rows", "2", *settings)
    np.testing.assert_allclose([float(word) for word in printed.stdout.split()[1:]], expected, rtol=1e-5)


@pytest.mark.parametrize(
    ("setting", "status", "code"),
    [
        ({"SYMADJ_FLOW_SECONDS": "0.001"}, 504, "flow-timeout"),
        ({"SYMADJ_FLOW_MEMORY": "1MiB"}, 503, "flow-memory"),
    ],
)
def test_what_takes_too_much_is_ended_and_the_answer_says_what_to_do(
    tmp_path: Path, trained: Path, setting: dict[str, str], status: int, code: str
) -> None:
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    with serving(tmp_path, trained, TMPDIR=str(temporary), **setting) as (server, run):
        problem = assert_problem(ask(run, "sample", params={"n": 10_000}), status)
        assert problem["type"] == f"urn:symadj:problem:{code}"
        assert next(iter(setting)) in problem["detail"]
        assert "symadj_core.load" in problem["detail"]
        assert psutil.Process(server.process.pid).children() == []
        assert list(temporary.iterdir()) == []
        assert run.get("").status_code == 200


def command(run: Run, *words: str) -> Result:
    """Run a command as `symadj` does, in this process: it takes no time to start."""
    key = run.api.headers.get("Authorization", "").removeprefix("Bearer ")
    return CliRunner().invoke(main.app, list(words), env={"SYMADJ_URL": run.server.url, "SYMADJ_API_KEY": key})


def test_files_are_sampled_and_scored_in_pieces_that_the_server_takes_and_the_process_ends_with_the_api(
    tmp_path: Path, trained: Path
) -> None:
    flow = symadj_core.load(trained)
    with serving(tmp_path, trained, SYMADJ_FLOW_ROWS="2") as (server, run):
        for of_samples, of_scores in (("csv", "parquet"), ("parquet", "npy"), ("npy", "csv")):
            samples, scores = tmp_path / f"samples.{of_samples}", tmp_path / f"scores.{of_scores}"
            drawn = command(run, "sample", run.job_id, "-n", "5", "--seed", "1", str(samples), "--batch-rows", "4")
            assert drawn.stdout.split() == [str(samples)]
            scored = command(run, "logprob", run.job_id, str(samples), str(scores), "--batch-rows", "4")
            assert scored.stdout.split() == [str(scores)]
            rows = np.stack(list(of_file(samples)), -1)
            assert len(np.unique(rows, axis=0)) == 5
            (found,) = of_file(scores)
            np.testing.assert_allclose(found, flow.log_prob(rows), rtol=1e-4)
        printed = command(run, "logprob", run.job_id, str(tmp_path / "samples.csv")).stdout.split()
        assert printed[0] == "log_prob"
        np.testing.assert_allclose([float(word) for word in printed[1:]], found, rtol=1e-4)
        assert ".parquet" in str(command(run, "sample", run.job_id, str(tmp_path / "out.xlsx")).exception)
        assert not list(tmp_path.glob("*.part"))
        computing = child(server)
        server.process.kill()
        computing.wait(60)


def of_file(file: Path) -> list[np.ndarray[Any, Any]]:
    """Return the columns of a file."""
    if file.suffix == ".npy":
        array = np.load(file)
        return list(array.reshape(len(array), -1).T)
    table = pa.csv.read_csv(file) if file.suffix == ".csv" else pa.parquet.read_table(file)
    return [column.to_numpy() for column in table.columns]


# Small, so that all gradients are soon rehearsed.
PLANNED: dict[str, Any] = TOY | {"flow": {"blocks": 1, "field": {"hidden": [4]}}, "stop": {"max_steps": 1}}


def test_a_plan_is_made_in_the_same_process_and_no_job(server: ApiServer, api: httpx.Client, job: Run) -> None:
    ask(job, "sample")
    process, before = child(server), api.get("/api/v1/jobs").json()["items"]
    made = api.post("/api/v1/plans", json=PLANNED)
    assert made.status_code == 200, made.text
    plan = Plan.model_validate_json(made.content)
    assert {item.gradient["kind"] for item in plan.gradients} == kinds_of(NamedGradient).keys()
    assert (plan.columns, plan.available_bytes) == (2, None)
    assert child(server) == process
    assert api.get("/api/v1/jobs").json()["items"] == before


def test_a_plan_of_data_that_are_not_there_says_so_and_is_made_when_the_columns_are_given(
    api: httpx.Client, job: Run, tmp_path: Path
) -> None:
    spec = PLANNED | {"data": {"kind": "file", "path": "not_there.npy", "batch_size": 10}}
    refused = api.post("/api/v1/plans", json=spec)
    assert "not_there.npy" in assert_problem(refused, 422)["detail"]
    file = tmp_path / "spec.json"
    file.write_text(json.dumps(spec))
    shown = command(job, "plan", str(file), "--columns", "7", "--set", "gradient.kind=aca")
    assert "10 rows of 7 columns" in shown.stdout
    for kind in kinds_of(NamedGradient):
        assert kind in shown.stdout
    answer = command(job, "plan", str(file), "--columns", "7", "--json").stdout
    assert Plan.model_validate_json(answer).columns == 7


def test_the_columns_of_a_file_below_a_data_root_are_read_for_its_plan(server: ApiServer, api: httpx.Client) -> None:
    folder = server.data / "datasets"
    folder.mkdir(exist_ok=True)
    np.save(folder / "five.npy", np.random.default_rng(0).standard_normal((200, 5)))
    made = api.post("/api/v1/plans", json=PLANNED | {"data": {"kind": "file", "path": "five.npy", "batch_size": 10}})
    assert made.json()["columns"] == 5


def test_a_dry_run_reads_the_data_and_says_what_would_fail_and_submits_nothing(
    server: ApiServer, api: httpx.Client, job: Run, tmp_path: Path
) -> None:
    folder = server.data / "datasets"
    folder.mkdir(exist_ok=True)
    (folder / "words.csv").write_text("a,b\n" + "1,x\n" * 200)
    data = {"kind": "file", "path": "words.csv", "batch_size": 10}
    before = api.get("/api/v1/jobs").json()["items"]
    for columns, pointer, told in ((["a", "b"], "/data/columns", "'b'"), (["c"], "/data/columns", "'c'")):
        answer = api.post(
            "/api/v1/jobs", params={"dry_run": True}, json=PLANNED | {"data": data | {"columns": columns}}
        )
        assert answer.status_code == 200, answer.text
        first = answer.json()["findings"][0]
        assert (first["pointer"], first["severity"]) == (pointer, "error")
        assert told in first["detail"]
    assert answer.json()["spec"]["data"]["path"] == "words.csv"
    refused = api.post("/api/v1/jobs", params={"strict": True}, json=PLANNED | {"data": data})
    problem = assert_problem(refused, 422)
    assert problem["findings"][0]["pointer"] == "/data/path"
    file = tmp_path / "spec.json"
    file.write_text(json.dumps(PLANNED | {"data": data}))
    shown = command(job, "validate", str(file))
    assert shown.exit_code == 1
    assert "words.csv, column 'b'" in shown.stdout
    assert api.get("/api/v1/jobs").json()["items"] == before


def test_a_sweeps_dry_run_says_what_its_jobs_would_read(server: ApiServer, job: Run, tmp_path: Path) -> None:
    folder = server.data / "datasets"
    folder.mkdir(exist_ok=True)
    for name, rows in (("few", 100), ("many", 200)):
        (folder / f"{name}.csv").write_text("a,b\n" + "".join(f"{number},{number % 10}\n" for number in range(rows)))
    base = PLANNED | {"data": {"kind": "file", "path": "few.csv", "batch_size": 10}}
    sweep = {"base": base, "parameters": {"data.path": {"choices": ["few.csv", "many.csv"]}}, "trials": 2}
    file = tmp_path / "sweep.json"
    file.write_text(json.dumps(sweep))
    shown = command(job, "sweep", str(file), "--dry-run")
    assert shown.exit_code == 0, shown.output
    for name, rows in (("few", 100), ("many", 200)):
        assert f"Data as read from {name}.csv (csv): {rows} rows of 2 columns" in shown.stdout
    assert "2 trials" in shown.stdout


def test_what_was_sent_is_shown_as_a_run_would_read_it(job: Run, tmp_path: Path) -> None:
    file = tmp_path / "cells.csv"
    file.write_text("a,b\n" + "".join(f"{number},{7 * (number % 10 == 9)}\n" for number in range(50)))
    sent = command(job, "upload", str(file))
    assert sent.exit_code == 0, sent.output
    path = sent.stdout.strip()
    assert path.endswith("/cells.csv")
    assert f"{path} (csv): 50 rows of 2 columns" in sent.stderr
    assert "mostly zeros" in sent.stderr
    assert "error" not in sent.stderr
    assert "warning" not in sent.stderr, "what is unusual is said once"
    read = job.api.post("/api/v1/jobs", params={"dry_run": True}, json={"data": {"kind": "file", "path": path}}).json()
    (source,) = read["data"]["sources"]
    assert [(column["name"], column["max"]) for column in source["columns"]] == [("a", 49), ("b", 7)]
    planned = job.api.post("/api/v1/plans", json=PLANNED | {"data": {"kind": "file", "path": path}})
    assert planned.status_code == 200, planned.text
    assert planned.json()["columns"] == 2
    file.write_text("a,b\n" + "1,x\n" * 50)
    refused = command(job, "upload", str(file))
    assert refused.exit_code == 0, "it was sent"
    assert "column 'b'" in refused.stderr


def test_a_dry_run_says_what_a_worker_would_hold_beyond_its_budget(api: httpx.Client, job: Run, tmp_path: Path) -> None:
    spec = TOY | {"flow": {"blocks": 1, "field": {"hidden": [512]}}, "data": TOY["data"] | {"batch_size": 5000}}
    spec |= {"resources": {"memory_budget": "340MiB"}, "gradient": {"kind": "backprop"}, "stop": {"max_steps": 1}}
    answer = api.post("/api/v1/jobs", params={"dry_run": True}, json=spec)
    told = {item["pointer"]: item for item in answer.json()["findings"]}
    assert told["/resources/memory_budget"]["severity"] == "error"
    assert "340" in told["/resources/memory_budget"]["detail"]
    file = tmp_path / "spec.json"
    file.write_text(json.dumps(PLANNED))
    assert command(job, "validate", str(file)).exit_code == 0
