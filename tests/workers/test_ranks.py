"""Several ranks: real processes joined by gloo, without Ray."""

from __future__ import annotations

import json
import math
import multiprocessing
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import torch.distributed as dist

from symadj.service.contract.records import OutcomeRecord
from symadj.service.contract.result import JobResult
from symadj.service.contract.spec import JobSpec
from symadj.service.contract.spec.evaluation import Evaluation
from symadj.service.contract.spec.solver import AdaptiveSolver, FixedSolver
from symadj.service.contract.states import StopReason
from symadj.workers.attempt import AttemptRun
from symadj.workers.data.batches import PartBatches
from symadj.workers.distributed.ranks import AttemptFailedError, DataParallel, PeerLostError, Ranks
from symadj.workers.distributed.shared_steps import SharedSteps
from symadj.workers.evaluation.calibration import measure_calibration
from symadj.workers.model.build import build_flow
from symadj.workers.rank_run import RankRun
from symadj.workers.training.loop import train
from symadj.workers.training.state import TrainingState
from symadj_core.flows import MLPField
from tests.workers.loading import load_data
from tests.workers.runs import SMALL, KeepingOutbox, order, rank_run, run

PATIENCE_S = 120


def _rank(
    rank: int,
    size: int,
    folder: str,
    course: Callable[..., Any],
    changes: dict[str, Any],
    environment: dict[str, str],
) -> None:
    os.environ.update(environment)
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/join", rank=rank, world_size=size)
    outbox = KeepingOutbox()
    attempt = AttemptRun(RankRun(order(Path(folder), **changes), Ranks(torch.device("cpu")), outbox))
    try:
        outcome = course(attempt, rank)
    except PeerLostError:
        outcome = "peer lost"
    told = {
        "outcome": json.loads(outcome.model_dump_json()) if isinstance(outcome, OutcomeRecord) else outcome,
        "loss": outbox.series("loss"),
        "nfe_forward": outbox.series("nfe_forward"),
        "learning_rate": outbox.series("learning_rate"),
        "flow_matching_loss": outbox.series("flow_matching_loss"),
        "validation": outbox.series("validation_nll"),
        "memory": len(outbox.of("memory")),
        "events": [event.name for event in outbox.of("event")],
    }
    Path(folder, f"rank-{rank}.json").write_text(json.dumps(told))
    if outcome != "peer lost":
        dist.destroy_process_group()


def start(folder: Path, course: Callable[..., Any], size: int = 2, **changes: Any) -> list[dict[str, Any] | None]:
    """Run ``course`` on each rank and return what the ranks told; None of a rank that died."""
    folder.mkdir(exist_ok=True)
    spec = {"resources": {"kind": "cpu", "workers": size}} | changes
    # Each a new process, but of one that has loaded torch already, and has the environment of that time.
    server = multiprocessing.get_context("forkserver")
    server.set_forkserver_preload([__name__])
    environment = dict(os.environ)
    processes = [
        server.Process(target=_rank, args=(rank, size, str(folder), course, spec, environment)) for rank in range(size)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join(PATIENCE_S)
        assert process.exitcode is not None, "a rank hangs"
    files = [folder / f"rank-{rank}.json" for rank in range(size)]
    return [json.loads(file.read_text()) if file.exists() else None for file in files]


def twice(attempt: AttemptRun, rank: int) -> Any:
    attempt.run()
    again = attempt.order.model_copy(update={"job_id": "job-2"})
    return AttemptRun(RankRun(again, attempt.ranks, attempt.rank_run.outbox)).run()


def interrupted_once(attempt: AttemptRun, rank: int) -> Any:
    """Train to the end; and again, in two attempts. Return the sums of the weights of both."""
    whole = attempt.run()
    job = attempt.order.model_copy(update={"job_id": "job-2"})
    stopped = AttemptRun(RankRun(job, attempt.ranks, KeepingOutbox(stop_after=3, reason=StopReason.PAUSE))).run()
    resumed = AttemptRun(RankRun(job.model_copy(update={"attempt": 2}), attempt.ranks, attempt.rank_run.outbox)).run()
    sums = [a.sha256 for a in attempt.rank_run.outbox.of("artifact") if a.name == "weights.safetensors"]
    return [outcome and outcome.state for outcome in (whole, stopped, resumed)], sums


def rank_1_meets_infinity_once(attempt: AttemptRun, rank: int) -> Any:
    """Let the vector field of rank 1 be infinite in one backward pass."""
    step, forward, put = 0, MLPField.forward, attempt.rank_run.outbox.put

    def put_and_count(record: Any) -> None:
        nonlocal step
        put(record)
        step = max(step, getattr(record, "step", 0))

    def infinite(self: MLPField, t: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        found = forward(self, t, y)
        return found * math.inf if step == 2 and torch.is_grad_enabled() else found

    attempt.rank_run.outbox.put = put_and_count  # type: ignore[method-assign]
    if rank == 1:
        MLPField.forward = infinite  # type: ignore[method-assign]
    return attempt.run()


def trained_twice(attempt: AttemptRun, rank: int) -> Any:
    """Train twice from the start; return sums of the weights that this rank ends with, and of their averages."""
    told = []
    for _ in range(2):
        data = load_data(attempt.spec.data)
        state = TrainingState(attempt.spec, build_flow(attempt.spec, data.dim))
        train(attempt.rank_run, state, data)
        tensors = [*state.flow.parameters(), *state.evaluated.parameters()]
        told.append([tensor.detach().double().sum().item() for tensor in tensors])
    return told


def rank_1_fails_in_forward(attempt: AttemptRun, rank: int) -> Any:
    return _failing(attempt, rank, use=lambda n: not torch.is_grad_enabled() and n > 40)


def rank_1_fails_in_backward(attempt: AttemptRun, rank: int) -> Any:
    return _failing(attempt, rank, use=lambda n: torch.is_grad_enabled() and n > 40)


def rank_1_has_no_second_batch(attempt: AttemptRun, rank: int) -> Any:
    """Let rank 1 fail before the forward pass of its second step."""
    batch = PartBatches.batch

    def missing(self: PartBatches, step: int, rank: int = 0, ranks: int = 1) -> Any:
        if step == 1:
            raise MemoryError
        return batch(self, step, rank, ranks)

    if rank == 1:
        PartBatches.batch = missing  # type: ignore[method-assign]
    return attempt.run()


def rank_1_has_room_for_few_rows(attempt: AttemptRun, rank: int) -> Any:
    """Let the vector field of rank 1 ask for more memory than there is, for more than 5 rows."""
    forward = MLPField.forward

    def greedy(self: MLPField, t: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        if len(y) > 5:
            torch.empty(2**60, dtype=torch.uint8)
        return forward(self, t, y)

    if rank == 1:
        MLPField.forward = greedy  # type: ignore[method-assign]
    return attempt.run()


def _failing(attempt: AttemptRun, rank: int, use: Callable[[int], bool]) -> Any:
    """Let the vector field of rank 1 ask for more memory than there is, at a chosen use."""
    uses = 0
    forward = MLPField.forward

    def greedy(self: MLPField, t: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        nonlocal uses
        uses += 1
        if use(uses):
            torch.empty(2**60, dtype=torch.uint8)
        return forward(self, t, y)

    if rank == 1:
        MLPField.forward = greedy  # type: ignore[method-assign]
    return attempt.run()


def calibrated(attempt: AttemptRun, rank: int) -> Any:
    """Measure the calibration of the flow as it is made."""
    data = load_data(attempt.spec.data)
    flow = build_flow(attempt.spec, data.dim, data.context_dim)
    found = measure_calibration(attempt.rank_run, Evaluation(calibration_draws=20), flow, data)
    assert found is not None
    return found.model_dump(mode="json")


def rank_1_is_killed(attempt: AttemptRun, rank: int) -> Any:
    put = attempt.rank_run.outbox.put

    def put_and_die(record: Any) -> None:
        put(record)
        if rank == 1 and record.step == 3:
            os.kill(os.getpid(), signal.SIGKILL)

    attempt.rank_run.outbox.put = put_and_die  # type: ignore[method-assign]
    return attempt.run()


def test_two_ranks_train_as_one_does_and_the_same_way_every_time(tmp_path: Path) -> None:
    # In float64, and loosely solved, so that steps of a rank's own would show.
    changes: dict[str, Any] = {"flow": {"kind": "cnf", "dtype": "float64", "blocks": 1, "field": {"hidden": [8]}}}
    changes["solver"] = SMALL["solver"] | {"shared_steps": True}
    first, second = start(tmp_path / "two", twice, **changes)
    assert first is not None
    assert second is not None
    _, alone = run(tmp_path / "one", **changes)
    # The adaptive steps of training are those of one with all rows.
    assert first["nfe_forward"][:6] == alone.series("nfe_forward")
    assert first["loss"][:6] == pytest.approx(alone.series("loss"), rel=1e-10)
    # Those of a validation are of the rows that a rank sees.
    assert first["validation"][:2] == pytest.approx(alone.series("validation_nll"), abs=1e-2)
    assert first["loss"][6:] == first["loss"][:6]
    assert second["loss"] == []
    assert first["memory"] == second["memory"] == 2 * (6 * 3 + 2 + 1)
    assert second["events"] == []
    assert first["outcome"]["state"] == second["outcome"]["state"] == "succeeded"
    assert JobResult.model_validate(first["outcome"]["result"]).test_rows == 40


def test_a_calibration_does_not_depend_on_how_many_ranks_share_the_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SYMADJ_DATA_ROOTS", str(tmp_path))
    rows = np.random.default_rng(0).standard_normal((350, 3))
    np.savetxt(tmp_path / "rows.csv", rows, delimiter=",", header="x,y,c", comments="")
    changes: dict[str, Any] = {
        "data": {"kind": "file", "path": "rows.csv", "columns": ["x", "y"], "context_columns": ["c"], "batch_size": 32},
        # Steps that are the same for all rows, whichever are solved together.
        "solver": {"kind": "fixed", "method": "rk4", "steps": 2},
    }
    first, second = start(tmp_path / "two", calibrated, **changes)
    assert first is not None
    assert second is not None
    alone = calibrated(AttemptRun(rank_run(order(tmp_path / "one", **changes), KeepingOutbox())), 0)
    assert alone["rows"] == 35, "not as many on each"
    assert first["outcome"] == second["outcome"] == alone


def test_the_ranks_end_with_the_same_weights_and_averages_after_pre_training_with_pairs_of_their_own(
    tmp_path: Path,
) -> None:
    # Two rows a rank for three blocks: on each rank there is a block that flow matching gives no row.
    changes: dict[str, Any] = {
        "data": {"kind": "toy", "name": "moons", "rows": 200, "batch_size": 4},
        "flow": {"kind": "cnf", "blocks": 3, "field": {"hidden": [8]}},
        "pretraining": {"steps": 3},
        "regularisers": [{"kind": "kinetic", "weight": 0.1}],
        "ema": {"decay": 0.9},
    }
    first, second = start(tmp_path / "two", trained_twice, **changes)
    assert first is not None
    assert second is not None
    once, again = first["outcome"]
    assert once == again, "the same spec, the same bits"
    assert second["outcome"] == first["outcome"], "on both ranks"
    half = len(once) // 2
    assert once[:half] != once[half:], "the average is not the weights"
    assert len(first["flow_matching_loss"]) == 2 * 3
    assert len(first["loss"]) == 2 * 3


@pytest.mark.parametrize("size", [2, 3])
def test_ranks_go_on_from_a_checkpoint_to_the_bits_of_ranks_never_stopped(tmp_path: Path, size: int) -> None:
    # More than two ranks: the order of a sum matters.
    changes: dict[str, Any] = {
        "data": {"kind": "toy", "name": "moons", "rows": 400, "batch_size": 30},
        "flow": {"kind": "cnf", "blocks": 2, "field": {"hidden": [16, 16]}},
        "evaluation": None,
    }
    told = start(tmp_path, interrupted_once, size=size, **changes)
    assert told[0] is not None
    states, sums = told[0]["outcome"]
    assert states == ["succeeded", "paused", "succeeded"]
    assert len(sums) == 2
    assert sums[0] == sums[1]


def models_of_their_own(attempt: AttemptRun, rank: int) -> Any:
    """Begin with other weights on each rank, one of which only rank 0 uses; then with other shapes."""
    torch.manual_seed(rank)
    model = torch.nn.ModuleDict(
        {"both": torch.nn.Linear(2, 3), "first": torch.nn.Linear(2, 3), "norm": torch.nn.BatchNorm1d(3)}
    )
    model["norm"].running_mean += rank
    parallel = DataParallel(model, attempt.ranks)
    torch.manual_seed(0)
    alone = torch.nn.Linear(2, 3)
    rows = torch.full((1, 2), 1.0 + rank)
    (model["both"](rows) + (model["first"](rows) if rank == 0 else 0)).sum().backward()
    parallel.average_gradients()
    gradients = {name: None if p.grad is None else p.grad.tolist() for name, p in model.named_parameters()}
    same = torch.equal(model["both"].weight, alone.weight)
    try:
        DataParallel(torch.nn.Linear(2, 3 + rank), attempt.ranks)
    except AttemptFailedError as error:
        return same, model["norm"].running_mean.tolist(), gradients, error.failure.message
    return None


def test_ranks_begin_with_the_weights_of_rank_0_and_have_the_mean_of_their_gradients(tmp_path: Path) -> None:
    told = start(tmp_path, models_of_their_own)
    for rank in told:
        assert rank is not None
        same, mean, gradients, refusal = rank["outcome"]
        assert same
        assert mean == [0.0] * 3, "of buffers, too"
        assert gradients["both.weight"] == [[1.5, 1.5]] * 3
        assert gradients["first.weight"] == [[0.5, 0.5]] * 3, "what a rank does not use counts as zero there"
        assert gradients["norm.weight"] is None, "no rank has it: an optimiser leaves it as it is, as on one rank"
        assert "other parameters on rank 1 than on rank 0: [(4, 2), (4,)], not [(3, 2), (3,)]" in refusal


IMAGES: dict[str, Any] = {
    "data": {"kind": "builtin", "name": "digits", "batch_size": 20},
    "flow": {"kind": "multiscale", "levels": 2, "blocks": 1, "hidden_channels": [2]},
    "solver": {"kind": "fixed", "method": "euler", "steps": 2},
}
STREAM: dict[str, Any] = {
    "data": {
        "kind": "parquet_stream",
        "path": "rows.parquet",
        "columns": ["x", "y"],
        "context_columns": ["c"],
        "batch_size": 32,
        "validation_rows": 20,
        "test_rows": 20,
        "buffer_rows": 64,
    },
}


@pytest.mark.parametrize("kind", [IMAGES, STREAM], ids=["images", "a stream with context"])
def test_ranks_with_images_or_a_stream_go_on_to_the_bits_of_ranks_never_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: dict[str, Any]
) -> None:
    monkeypatch.setenv("SYMADJ_DATA_ROOTS", str(tmp_path))
    values = np.random.default_rng(0).standard_normal((300, 3)).cumsum(1)
    pq.write_table(pa.table(dict(zip("cxy", values.T, strict=True))), tmp_path / "rows.parquet", row_group_size=50)
    told = start(tmp_path, interrupted_once, evaluation=None, **kind)
    for rank in told:
        assert rank is not None
        assert rank["outcome"][0] == ["succeeded", "paused", "succeeded"]
    assert told[0] is not None
    sums = told[0]["outcome"][1]
    assert len(sums) == 2
    assert sums[0] == sums[1]


@pytest.mark.parametrize(
    ("choice", "rates"), [({"kind": "skip_batch"}, [0.01] * 6), ({"kind": "halve_rate"}, [0.01] * 3 + [0.005] * 3)]
)
def test_a_divergence_of_one_rank_is_got_over_by_all_as_the_spec_wants(
    tmp_path: Path, choice: dict[str, str], rates: list[float]
) -> None:
    first, second = start(tmp_path, rank_1_meets_infinity_once, on_divergence=choice, evaluation=None)
    assert first is not None
    assert second is not None
    assert first["outcome"]["state"] == second["outcome"]["state"] == "succeeded"
    assert len(first["loss"]) == 6
    assert first["learning_rate"] == rates
    assert f"divergence_{choice['kind']}" in first["events"]


@pytest.mark.parametrize(
    ("course", "phase"), [(rank_1_fails_in_forward, "forward"), (rank_1_fails_in_backward, "backward")]
)
def test_a_failure_of_one_rank_ends_all_with_its_reason(tmp_path: Path, course: Callable[..., Any], phase: str) -> None:
    told = start(tmp_path, course)
    for rank in told:
        assert rank is not None
        assert rank["outcome"]["reason"] == "out_of_memory"
        assert rank["outcome"]["data"]["rank"] == 1
        assert rank["outcome"]["data"]["phase"] == phase
        assert "smaller data.batch_size" in rank["outcome"]["data"]["advice"]
        assert "forward" in rank["outcome"]["data"]["memory"]


def test_a_rank_that_fails_before_its_second_forward_pass_leaves_none_waiting(tmp_path: Path) -> None:
    for rank in start(tmp_path, rank_1_has_no_second_batch):
        assert rank is not None
        assert (rank["outcome"]["reason"], rank["outcome"]["data"]["rank"]) == ("out_of_memory", 1)


def test_all_ranks_halve_their_microbatches_when_one_runs_out_of_memory_and_no_step_is_lost(tmp_path: Path) -> None:
    changes: dict[str, Any] = {
        "flow": {"kind": "cnf", "dtype": "float64", "field": {"hidden": [8]}},
        "solver": {"kind": "fixed", "method": "rk4", "steps": 2},
        "evaluation": None,
    }
    (tmp_path / "alone").mkdir()
    _, alone = run(tmp_path / "alone", **changes)
    resources = {"kind": "cpu", "workers": 2, "microbatch_size": "auto"}
    told = start(tmp_path / "two", rank_1_has_room_for_few_rows, resources=resources, **changes)
    for rank in told:
        assert rank is not None
        assert rank["outcome"]["state"] == "succeeded"
    assert told[0] is not None
    assert told[0]["loss"] == pytest.approx(alone.series("loss"), rel=1e-10)
    # From 16 rows of a rank to 8, and to 4.
    assert told[0]["events"].count("microbatch_halved") == 2


def test_the_death_of_a_rank_is_noticed_by_the_others(tmp_path: Path) -> None:
    survivor, dead = start(tmp_path, rank_1_is_killed)
    assert dead is None
    assert survivor is not None
    assert survivor["outcome"] == "peer lost"


class CountingRanks(Ranks):
    """The only rank, which counts what it would exchange with others."""

    exchanges = 0

    def add_up(self, tensor: torch.Tensor) -> None:
        self.exchanges += 1


@pytest.mark.parametrize("kind", ["symplectic", "adjoint"])
def test_ranks_that_share_steps_exchange_nothing_in_the_backward_pass(kind: str) -> None:
    spec = JobSpec.model_validate(SMALL | {"gradient": {"kind": kind}})
    flow, ranks = build_flow(spec, 2), CountingRanks(torch.device("cpu"))
    shared = SharedSteps(ranks).flow(flow)
    loss = -shared(torch.randn(4, 2), seed=0).mean()
    stats = shared.last_stats
    # Three as the solve begins.
    assert ranks.exchanges == 3 + stats.accepted + stats.rejected
    loss.backward()
    assert ranks.exchanges == 3 + stats.accepted + stats.rejected


def test_steps_are_shared_by_several_ranks_where_the_spec_lets_them_adapt_and_asks_for_it() -> None:
    ranks = Ranks(torch.device("cpu"))
    asked = AdaptiveSolver(shared_steps=True)
    assert SharedSteps.wanted_by(asked, ranks) is None, "one rank has none to share them with"
    ranks.size = 2
    assert SharedSteps.wanted_by(asked, ranks) is not None
    assert SharedSteps.wanted_by(AdaptiveSolver(), ranks) is None
    assert SharedSteps.wanted_by(FixedSolver(kind="fixed"), ranks) is None


@pytest.mark.parametrize("collective", ["all_gather_object", "broadcast"])
def test_a_peer_that_dies_while_the_ranks_compare_and_send_their_weights_is_a_lost_peer(
    monkeypatch: pytest.MonkeyPatch, collective: str
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("Connection closed by peer")

    monkeypatch.setattr(dist, "all_gather_object", lambda values, value: None)
    monkeypatch.setattr(dist, collective, broken)
    ranks = Ranks(torch.device("cpu"))
    ranks.size = 2
    with pytest.raises(PeerLostError, match="Connection closed"):
        DataParallel(torch.nn.Linear(1, 1), ranks)
