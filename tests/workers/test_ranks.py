"""Several ranks: real processes joined by gloo, without Ray."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist

from symadj_core.flows import MLPField
from tests.workers.runs import KeepingOutbox, order, run
from workers.data import load_data
from workers.flow import build_flow
from workers.ranks import PeerLostError, Ranks
from workers.state import TrainingState
from workers.training import train
from workers.worker import Attempt

PATIENCE_S = 120


def _rank(rank: int, size: int, folder: str, course: Callable[..., Any], changes: dict[str, Any]) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/join", rank=rank, world_size=size)
    outbox = KeepingOutbox()
    attempt = Attempt(order(Path(folder), **changes), Ranks(torch.device("cpu")), outbox)
    try:
        outcome = course(attempt, rank)
    except PeerLostError:
        outcome = "peer lost"
    told = {
        "outcome": outcome,
        "loss": outbox.series("loss"),
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
    spawn = multiprocessing.get_context("spawn")
    processes = [spawn.Process(target=_rank, args=(rank, size, str(folder), course, spec)) for rank in range(size)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(PATIENCE_S)
        assert process.exitcode is not None, "a rank hangs"
    files = [folder / f"rank-{rank}.json" for rank in range(size)]
    return [json.loads(file.read_text()) if file.exists() else None for file in files]


def twice(attempt: Attempt, rank: int) -> Any:
    attempt.run()
    return attempt.run()


def trained_twice(attempt: Attempt, rank: int) -> Any:
    """Train twice from the start; return sums of the weights that this rank ends with, and of their averages."""
    told = []
    for _ in range(2):
        data = load_data(attempt.spec.data)
        state = TrainingState(attempt.spec, build_flow(attempt.spec, data.dim))
        train(attempt.spec, state, data, attempt.ranks, attempt.outbox)
        tensors = [*state.flow.parameters(), *state.evaluated.parameters()]
        told.append([tensor.detach().double().sum().item() for tensor in tensors])
    return told


def rank_1_fails_in_forward(attempt: Attempt, rank: int) -> Any:
    return _failing(attempt, rank, use=lambda n: n == 40)


def rank_1_fails_in_backward(attempt: Attempt, rank: int) -> Any:
    return _failing(attempt, rank, use=lambda n: torch.is_grad_enabled() and n > 40)


def _failing(attempt: Attempt, rank: int, use: Callable[[int], bool]) -> Any:
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


def rank_1_is_killed(attempt: Attempt, rank: int) -> Any:
    put = attempt.outbox.put

    def put_and_die(record: Any) -> None:
        put(record)
        if rank == 1 and record.step == 3:
            os.kill(os.getpid(), signal.SIGKILL)

    attempt.outbox.put = put_and_die  # type: ignore[method-assign]
    return attempt.run()


def test_two_ranks_train_as_one_does_and_the_same_way_every_time(tmp_path: Path) -> None:
    first, second = start(tmp_path / "two", twice)
    assert first is not None
    assert second is not None
    _, alone = run(tmp_path / "one")
    # Not bit for bit: the adaptive solver chooses its steps for the rows that it sees.
    assert first["loss"][:6] == pytest.approx(alone.series("loss"), abs=1e-2)
    assert first["validation"][:2] == pytest.approx(alone.series("validation_nll"), abs=1e-2)
    assert first["loss"][6:] == first["loss"][:6]
    assert second["loss"] == []
    assert first["memory"] == second["memory"] == 2 * 18
    assert second["events"] == []
    assert first["outcome"]["state"] == second["outcome"]["state"] == "succeeded"
    assert first["outcome"]["result"]["test_rows"] == 40


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


def test_the_death_of_a_rank_is_noticed_by_the_others(tmp_path: Path) -> None:
    survivor, dead = start(tmp_path, rank_1_is_killed)
    assert dead is None
    assert survivor is not None
    assert survivor["outcome"] == "peer lost"
