"""Rows scored by a trained flow as a job: the same numbers as at home, whoever scores them."""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import signal
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest
import torch
import torch.distributed as dist
from numpy.typing import NDArray

import symadj_core
from symadj.service.contract.layout import CONFIG, SCORES_FILE, WEIGHTS, artifact_folder, flow_folder, piece_folder
from symadj.service.contract.order import RunOrder
from symadj.service.contract.records import OutcomeRecord
from symadj.service.contract.spec import ScoresSpec
from symadj.service.contract.spec.data import ToyData
from symadj.service.contract.states import ReasonCode, StopReason
from symadj.service.contract.storage import Storage, open_storage
from symadj.workers.data.toys import draw_toy
from symadj.workers.distributed.ranks import PeerLostError, Ranks
from symadj.workers.rank_run import RankRun
from symadj.workers.ray.reading import read_data
from symadj.workers.scores.advice import with_advice
from symadj.workers.scores.pieces import cut
from symadj.workers.scores.run import ScoresRun
from tests.core.test_trained import CONDITIONAL, IMAGES, config, folder
from tests.workers.runs import KeepingOutbox, rank_run

# More than are solved together, and not a multiple of that.
ROWS = 11_000
PATIENCE_S = 120


class StoppingOutbox(KeepingOutbox):
    """Asks to stop once so many pieces were reported."""

    def __init__(self, pieces: int, reason: StopReason = StopReason.CANCEL) -> None:
        super().__init__(reason=reason)
        self._pieces = pieces

    @property
    def stop(self) -> StopReason | None:
        return self._reason if len(self.of("step")) >= self._pieces else None


def values(count: int = ROWS, seed: int = 0) -> dict[str, NDArray[np.float64]]:
    """Rows of the flow's two columns, and of its context."""
    draw = np.random.default_rng(seed)
    return {
        "fsc": 1e6 + 100 * draw.standard_normal(count),
        "ssc": -3 + 0.5 * draw.standard_normal(count),
        "age": 40 + 12 * draw.standard_normal(count),
    }


@pytest.fixture
def trained(tmp_path: Path) -> Path:
    """The files of a flow on the columns fsc and ssc."""
    return folder(tmp_path / "out", config())


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A data root."""
    (tmp_path / "data").mkdir()
    return tmp_path / "data"


def order(
    place: Path | str, trained: Path, data: Path, rows: dict[str, Any], attempt: int = 1, **spec: Any
) -> RunOrder:
    """The order for the scores of a job in whose folder the files of a flow are."""
    storage, sums = open_storage(str(place)), {}
    for name in (CONFIG, WEIGHTS):
        content = (trained / name).read_bytes()
        storage.write(f"{flow_folder('job-1')}/{name}", content)
        sums[name] = hashlib.sha256(content).hexdigest()
    files = {"job": "job-0", "config_sha256": sums[CONFIG], "weights_sha256": sums[WEIGHTS]}
    return RunOrder(
        job_id="job-1",
        attempt=attempt,
        api_url="http://127.0.0.1:9",
        storage=str(place),
        workers=1,
        data_roots=(str(data),),
        data_cache=str(data.parent / "cache"),
        spec=ScoresSpec.model_validate({"trained": files, "data": rows, **spec}),
    )


def score(given: RunOrder, outbox: KeepingOutbox | None = None) -> tuple[OutcomeRecord, KeepingOutbox]:
    """Run an attempt as the only rank."""
    outbox = outbox or KeepingOutbox()
    outcome = ScoresRun(rank_run(given, outbox)).run()
    assert outcome is not None
    return outcome, outbox


def scores_of(place: Path | str, attempt: int = 1) -> NDArray[np.float64]:
    with open_storage(str(place)).open(f"{artifact_folder('job-1', attempt)}/{SCORES_FILE}") as file:
        table = pq.read_table(pa.BufferReader(file.read()))
    assert table.column_names == ["log_prob"]
    scores: NDArray[np.float64] = table["log_prob"].to_numpy()
    return scores


def at_home(trained: Path, given: Any, **options: Any) -> NDArray[np.float64]:
    scores: NDArray[np.float64] = symadj_core.load(trained, **options).log_prob(given).numpy()
    return scores


def write(data: Path, name: str, rows: dict[str, NDArray[np.float64]], **options: Any) -> dict[str, Any]:
    """Write rows to a file or a folder; return the section that names it."""
    path, table = data / name, pa.table(dict(reversed(rows.items())))  # not in the flow's order
    match path.suffix:
        case ".npy":
            np.save(path, np.stack(list(rows.values()), -1))
        case ".csv":
            pyarrow.csv.write_csv(table, path)
        case ".parquet":
            pq.write_table(table, path, **options)
        case _:
            path.mkdir()
            pq.write_table(table.slice(0, 3000), path / "a.parquet", row_group_size=700)
            pq.write_table(table.slice(3000), path / "b.parquet")
            return {"kind": "parquet_stream", "path": name}
    return {"kind": "file", "path": name}


@pytest.mark.parametrize("name", ["rows.npy", "rows.csv", "rows.parquet", "rows"])
def test_the_scores_are_those_of_the_flow_taken_home_in_the_order_of_the_rows(
    tmp_path: Path, trained: Path, data: Path, name: str
) -> None:
    rows = values()
    del rows["age"]
    outcome, outbox = score(order(tmp_path / "jobs", trained, data, write(data, name, rows)))
    assert outcome.state == "succeeded", outcome.message
    expected = at_home(trained, rows)
    np.testing.assert_allclose(scores_of(tmp_path / "jobs"), expected, rtol=0, atol=1e-12)
    assert outcome.result is not None
    result = outcome.result.scores
    assert result is not None
    assert result.rows == ROWS
    assert result.log_prob == pytest.approx(expected.mean(), rel=1e-12)
    assert result.log_prob_stderr == pytest.approx(expected.std(ddof=1) / ROWS**0.5, rel=1e-9)
    assert (result.seconds > 0, result.rows_per_second > 0) == (True, True)
    assert [record.metrics["rows_scored"] for record in outbox.of("step")][-1] == ROWS
    assert {record.phase for record in outbox.of("memory")} == {"forward"}
    (artifact,) = outbox.of("artifact")
    assert artifact.name == SCORES_FILE
    assert not open_storage(str(tmp_path / "jobs")).children(piece_folder("job-1")), "finished pieces take room twice"


def test_contexts_lie_beside_the_rows_and_other_columns_are_not_read(tmp_path: Path, data: Path) -> None:
    trained, rows = folder(tmp_path / "out", CONDITIONAL), values()
    table = pa.table({"note": ["text"] * ROWS, **rows})
    pq.write_table(table, data / "rows.parquet", row_group_size=1234)
    outcome, _ = score(order(tmp_path / "jobs", trained, data, {"kind": "file", "path": "rows.parquet"}))
    assert outcome.state == "succeeded", outcome.message
    np.testing.assert_allclose(scores_of(tmp_path / "jobs"), at_home(trained, rows), rtol=0, atol=1e-12)


def test_images_are_scored_as_flat_rows_with_the_noise_that_follows_from_them(tmp_path: Path, data: Path) -> None:
    trained = folder(tmp_path / "out", IMAGES)
    images = np.random.default_rng(0).integers(0, 16, (50, 2, 4, 4)).astype(np.uint8)
    np.save(data / "images.npy", images)
    outcome, _ = score(order(tmp_path / "jobs", trained, data, {"kind": "file", "path": "images.npy"}))
    assert outcome.state == "succeeded", outcome.message
    np.testing.assert_allclose(scores_of(tmp_path / "jobs"), at_home(trained, images), rtol=0, atol=1e-12)


@pytest.mark.parametrize("options", [{"settings": "trained"}, {"units": "transformed"}], ids=str)
def test_units_and_settings_are_those_that_a_flow_is_loaded_with(
    tmp_path: Path, trained: Path, data: Path, options: dict[str, Any]
) -> None:
    rows = {"fsc": np.array([0.5, -1.0]), "ssc": np.array([0.25, 2.0])}
    outcome, _ = score(order(tmp_path / "jobs", trained, data, write(data, "rows.csv", rows), **options))
    assert outcome.state == "succeeded", outcome.message
    np.testing.assert_allclose(scores_of(tmp_path / "jobs"), at_home(trained, rows, **options), rtol=0, atol=1e-12)


def test_a_score_does_not_depend_on_the_workers_or_on_how_the_file_is_cut(
    tmp_path: Path, trained: Path, data: Path
) -> None:
    section = write(data, "rows.parquet", values(21_000), row_group_size=999)
    score(order(tmp_path / "one", trained, data, section))
    whole = write(data, "whole.parquet", values(21_000))
    _, outbox = score(order(tmp_path / "five", trained, data, whole, resources={"workers": 5}))
    assert len(outbox.of("step")) > 3
    assert scores_of(tmp_path / "one").tobytes() == scores_of(tmp_path / "five").tobytes()


@pytest.mark.parametrize(
    ("reason", "state"), [(StopReason.CANCEL, "cancelled"), (StopReason.PAUSE, "paused")], ids=["cancel", "pause"]
)
def test_a_run_stops_between_pieces_and_the_next_attempt_goes_on_from_those_that_are_finished(
    tmp_path: Path, place: str, trained: Path, data: Path, reason: StopReason, state: str
) -> None:
    rows = values(21_000)
    section = write(data, "rows.parquet", rows)
    options: dict[str, Any] = {"resources": {"workers": 2}}
    stopped, outbox = score(order(place, trained, data, section, **options), StoppingOutbox(2, reason))
    assert stopped.state == state
    assert "after step 2" in stopped.message
    assert not outbox.of("artifact")
    outcome, outbox = score(order(place, trained, data, section, attempt=2, **options))
    assert outcome.state == "succeeded", outcome.message
    (started,) = [event for event in outbox.of("event") if event.name == "scoring_started"]
    assert started.data["pieces_finished"] == 2
    assert "of which 2 were finished before" in started.message
    np.testing.assert_allclose(scores_of(place, attempt=2), at_home(trained, rows), rtol=0, atol=1e-12)


def test_finished_pieces_of_rows_that_were_changed_are_scored_again(tmp_path: Path, trained: Path, data: Path) -> None:
    options: dict[str, Any] = {"resources": {"workers": 2}}
    section = write(data, "rows.parquet", values(21_000))
    score(order(tmp_path / "jobs", trained, data, section, **options), StoppingOutbox(2))
    rows = values(21_000, seed=1)
    write(data, "rows.parquet", rows)
    score(order(tmp_path / "jobs", trained, data, section, attempt=2, **options))
    np.testing.assert_allclose(scores_of(tmp_path / "jobs", 2), at_home(trained, rows), rtol=0, atol=1e-12)


def with_nan(rows: dict[str, NDArray[np.float64]]) -> dict[str, NDArray[np.float64]]:
    rows["ssc"][7] = np.nan
    return rows


@pytest.mark.parametrize(
    ("name", "rows", "told"),
    [
        ("rows.csv", lambda rows: {"fsc": rows["fsc"]}, "has no column 'ssc'"),
        ("rows.parquet", lambda rows: {"fsc": rows["fsc"]}, "has no column 'ssc'"),
        ("rows.npy", lambda rows: rows, "rows.npy: has 3 columns without names, and 2 are needed: fsc, ssc"),
        ("rows.csv", with_nan, "row 7 (from 0), column 'ssc' of rows.csv is nan"),
        ("rows.parquet", with_nan, "row 7 (from 0), column 'ssc' of rows.parquet is nan"),
    ],
)
def test_rows_that_the_flow_can_not_take_are_refused_with_their_place_before_any_is_scored(
    tmp_path: Path, trained: Path, data: Path, name: str, rows: Callable[..., Any], told: str
) -> None:
    _, failure = read_data(order(tmp_path / "jobs", trained, data, write(data, name, rows(values(20)))))
    assert failure is not None
    assert failure.reason is ReasonCode.DATA_ERROR
    assert told in failure.message


def test_what_is_read_is_told_before_it_is_scored(tmp_path: Path, trained: Path, data: Path) -> None:
    rows = values(20)
    summary, failure = read_data(order(tmp_path / "jobs", trained, data, write(data, "rows.csv", rows)))
    assert failure is None
    assert summary is not None
    (source,) = summary.sources
    assert (source.name, source.rows, source.dim) == ("rows.csv", 20, 2)
    assert [column.name for column in source.columns] == ["fsc", "ssc"]
    assert source.columns[0].mean == pytest.approx(rows["fsc"].mean())


@pytest.mark.parametrize("path", ["../out/config.json", "link.csv"])
def test_rows_outside_of_the_data_roots_are_not_read(tmp_path: Path, trained: Path, data: Path, path: str) -> None:
    (tmp_path / "secret.csv").write_text("fsc,ssc\n1,2\n")
    (data / "link.csv").symlink_to(tmp_path / "secret.csv")
    if ".." in path:
        with pytest.raises(ValueError, match="leads down from a data root"):
            order(tmp_path / "jobs", trained, data, {"kind": "file", "path": path, "format": "csv"})
        return
    _, failure = read_data(order(tmp_path / "jobs", trained, data, {"kind": "file", "path": path}))
    assert failure is not None
    assert "link.csv" in failure.message


def test_rows_that_came_with_the_request_are_read_from_the_job_s_own_folder(
    tmp_path: Path, storage: Storage, place: str, trained: Path, data: Path
) -> None:
    rows = values(100)
    write(data, "rows.csv", rows)
    content = (data / "rows.csv").read_bytes()
    (data / "rows.csv").unlink()
    storage.write(f"{artifact_folder('job-1', 0)}/rows.csv", content)
    sent = {"kind": "uploaded", "name": "rows.csv", "format": "csv", "bytes": len(content)}
    section = sent | {"sha256": hashlib.sha256(content).hexdigest()}
    outcome, _ = score(order(place, trained, data, section))
    assert outcome.state == "succeeded", outcome.message
    np.testing.assert_allclose(scores_of(place), at_home(trained, rows), rtol=0, atol=1e-12)


DIALECTS: list[tuple[dict[str, Any], str]] = [
    ({"csv": {"delimiter": ";", "decimal": ","}}, "label;ssc;fsc\na;-3,5;1000000,0\nb;-2,25;1000100,5\n"),
    ({"csv": {"delimiter": "\t", "encoding": "utf-16"}}, "fsc\tssc\n1000000.0\t-3.5\n1000100.5\t-2.25\n"),
    ({"csv": {"row_names": True}}, "fsc,ssc\nrow 1,1000000.0,-3.5\nrow 2,1000100.5,-2.25\n"),
    ({"header": False}, "1000000.0,-3.5\n1000100.5,-2.25\n"),
]


@pytest.mark.parametrize("sent", [True, False], ids=["sent", "stored"])
@pytest.mark.parametrize(("written", "text"), DIALECTS, ids=[str(written) for written, _ in DIALECTS])
def test_a_csv_file_of_any_program_is_read_as_the_job_says(
    tmp_path: Path, trained: Path, data: Path, written: dict[str, Any], text: str, sent: bool
) -> None:
    content = text.encode(written.get("csv", {}).get("encoding", "utf-8"))
    section: dict[str, Any] = {"kind": "file", "path": "rows.csv"}
    if sent:
        open_storage(str(tmp_path / "jobs")).write(f"{artifact_folder('job-1', 0)}/rows.csv", content)
        section = {"kind": "uploaded", "name": "rows.csv", "format": "csv", "bytes": 1, "sha256": 64 * "0"}
    else:
        (data / "rows.csv").write_bytes(content)
    outcome, _ = score(order(tmp_path / "jobs", trained, data, section | written))
    assert outcome.state == "succeeded", outcome.message
    expected = at_home(trained, {"fsc": np.array([1e6, 1000100.5]), "ssc": np.array([-3.5, -2.25])})
    np.testing.assert_allclose(scores_of(tmp_path / "jobs"), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("kind", ["toy", "maf"])
def test_a_set_is_scored_by_its_name(tmp_path: Path, data: Path, kind: str) -> None:
    columns = {"toy": ["x", "y"], "maf": ["x1", "x0"]}[kind]
    trained = folder(tmp_path / "out", config(columns=columns))
    rows = np.random.default_rng(0).standard_normal((300, 2))
    section = {"kind": "maf", "name": "miniboone", "path": "."}
    if kind == "toy":
        section = {"kind": "toy", "name": "moons", "rows": 300, "split_seed": 4}
        rows = draw_toy(ToyData.model_validate(section)).rows
    np.save(data / "data.npy", rows)
    outcome, _ = score(order(tmp_path / "jobs", trained, data, section))
    assert outcome.state == "succeeded", outcome.message
    in_order = rows if kind == "toy" else rows[:, ::-1]
    np.testing.assert_allclose(scores_of(tmp_path / "jobs"), at_home(trained, in_order), rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", [CONFIG, WEIGHTS])
def test_a_flow_that_is_not_what_was_stored_gives_no_scores(
    tmp_path: Path, trained: Path, data: Path, name: str
) -> None:
    given = order(tmp_path / "jobs", trained, data, write(data, "rows.csv", values(10)))
    storage = open_storage(given.storage)
    storage.write(f"{flow_folder('job-1')}/{name}", storage.read(f"{flow_folder('job-1')}/{name}") + b" ")
    outcome, outbox = score(given)
    assert (outcome.state, outcome.reason) == ("failed", ReasonCode.DATA_ERROR)
    assert f"{name} is not what the run stored" in outcome.message
    assert not outbox.of("artifact")


def _rank(rank: int, given: str, join: str, told: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{join}", rank=rank, world_size=2)
    outbox = KeepingOutbox()
    run = ScoresRun(RankRun(RunOrder.of_json(given), Ranks(torch.device("cpu")), outbox))
    kept = run.pieces.write

    def die_after_the_first(*piece: Any) -> None:
        kept(*piece)
        if rank == 1:
            os.kill(os.getpid(), signal.SIGKILL)

    run.pieces.write = die_after_the_first  # type: ignore[method-assign]
    try:
        outcome: Any = run.run()
    except PeerLostError:
        outcome = "peer lost"
    Path(told).write_text(json.dumps(str(outcome)))


def test_after_the_death_of_a_rank_another_number_of_them_goes_on_from_the_pieces_of_both(
    tmp_path: Path, trained: Path, data: Path
) -> None:
    rows = values(21_000)
    options: dict[str, Any] = {"resources": {"workers": 2}}
    section = write(data, "rows.parquet", rows)
    given = order(tmp_path / "jobs", trained, data, section, **options)
    server = multiprocessing.get_context("forkserver")
    server.set_forkserver_preload([__name__])
    told = tmp_path / "told.json"
    words = (given.model_dump_json(), str(tmp_path / "join"), str(told))
    processes = [server.Process(target=_rank, args=(rank, *words)) for rank in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(PATIENCE_S)
        assert process.exitcode is not None, "a rank hangs"
    assert json.loads(told.read_text()) == "peer lost"
    outcome, outbox = score(order(tmp_path / "jobs", trained, data, section, attempt=2, **options))
    assert outcome.state == "succeeded", outcome.message
    (started,) = [event for event in outbox.of("event") if event.name == "scoring_started"]
    assert started.data["pieces_finished"] >= 2, "of both ranks"
    np.testing.assert_allclose(scores_of(tmp_path / "jobs", 2), at_home(trained, rows), rtol=0, atol=1e-12)


def test_an_array_that_does_not_fit_into_memory_is_scored_part_by_part(
    tmp_path: Path, trained: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = np.stack(list(values(10_000).values())[:2], -1)
    np.save(data / "rows.npy", rows)
    # No part of it may take more: the array as a whole has twice as much.
    monkeypatch.setattr("symadj.workers.data.formats.raw.available_memory", lambda: rows.nbytes // 2)
    given = order(tmp_path / "jobs", trained, data, {"kind": "file", "path": "rows.npy"})
    _, failure = read_data(given)
    assert failure is None, failure
    outcome, _ = score(given)
    assert outcome.state == "succeeded", outcome.message
    np.testing.assert_allclose(scores_of(tmp_path / "jobs"), at_home(trained, rows), rtol=0, atol=1e-12)


@pytest.mark.parametrize(("choice", "state"), [("warn", "succeeded"), ("fail", "failed")])
def test_a_peak_above_the_memory_budget_is_told_or_ends_the_job(
    tmp_path: Path, trained: Path, data: Path, choice: str, state: str
) -> None:
    section = write(data, "rows.csv", values(10))
    budget = {"memory_budget": "1MiB", "over_budget": choice}
    outcome, outbox = score(order(tmp_path / "jobs", trained, data, section, resources=budget))
    assert outcome.state == state
    assert "memory_budget_exceeded" in [event.name for event in outbox.of("event")]
    if choice == "fail":
        assert outcome.reason is ReasonCode.OUT_OF_MEMORY
        assert with_advice(outcome).data["advice"].startswith("take more memory for a worker")


def test_a_flow_of_an_earlier_version_that_wrote_less_is_refused_before_any_row_is_read(
    tmp_path: Path, trained: Path, data: Path
) -> None:
    described = config()
    del described["context_columns"]
    (trained / CONFIG).write_text(json.dumps(described))
    summary, failure = read_data(order(tmp_path / "jobs", trained, data, write(data, "rows.csv", values(10))))
    assert summary is None
    assert failure is not None
    assert failure.reason is ReasonCode.DATA_ERROR
    assert "the files of the flow of job job-0 can't be used: config.json" in failure.message


def test_ranks_that_have_opened_other_rows_than_each_other_score_none(
    tmp_path: Path, trained: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = order(tmp_path / "jobs", trained, data, write(data, "rows.csv", values(100)))
    gather = Ranks.gather

    def of_another_rank_too(self: Ranks, value: Any) -> list[Any]:
        _, seen = gather(self, value)[0]
        return [value, (100, seen[::-1])]

    monkeypatch.setattr(Ranks, "gather", of_another_rank_too)
    outcome, outbox = score(given)
    assert (outcome.state, outcome.reason) == ("failed", ReasonCode.DATA_ERROR)
    assert "rows.csv was changed while the ranks opened it, with 100, 100 rows" in outcome.message
    assert not outbox.of("step")


def test_a_piece_of_large_rows_has_few_of_them() -> None:
    pieces = cut(20_000, 3 * 32 * 32, 3, 1)
    assert max(len(piece) for piece in pieces) * 3 * 32 * 32 * 8 < 40e6, "bytes"
    assert (pieces[0].begin, pieces[-1].end) == (0, 20_000)
    assert all(first.end == second.begin for first, second in pairwise(pieces))
