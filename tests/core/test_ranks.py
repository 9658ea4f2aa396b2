"""Several ranks with a reduced norm follow the solution that one worker follows on the whole batch."""

from __future__ import annotations

import os
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from symadj_core import IController, Quadrature, RankReducedNorm, solve
from symadj_core.flows import Block, Flow, MLPField
from symadj_core.solvers.controller import rms_norm

RANKS = 2


def batch() -> tuple[Tensor, Tensor]:
    """Eight samples of very different scales, so that halves of the batch alone would take different steps."""
    scale = torch.tensor([0.01] * 4 + [4.0] * 4, dtype=torch.float64)[:, None]
    noise = torch.randn(8, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return noise * scale, torch.arange(8)


def make_flow(norm: Any) -> Flow:
    torch.manual_seed(0)
    controller = IController(rtol=1e-4, atol=1e-6, norm=norm)
    return Flow(
        [Block(MLPField(2, (8,)), controller=controller, divergence="hutchinson") for _ in range(2)], 2
    ).double()


def status_of_a_quadrature(rate: float) -> str:
    """How a solve ends whose quadrature grows by that rate, which the error control does not see."""
    quadrature = Quadrature(lambda t, y: (-y, torch.full((1,), rate, dtype=y.dtype)), torch.zeros(1).double())
    solution = solve(
        lambda t, y: -y,
        torch.ones(1, dtype=torch.float64),
        torch.tensor([0.0, 1.0]),
        controller=IController(norm=RankReducedNorm()),
        quadrature=quadrature,
        throw=False,
    )
    return solution.status.value


def train_on_one_rank(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    # A rank that waits for one that is elsewhere gives up.
    wait, join = timedelta(seconds=60), f"file://{folder}/store"
    dist.init_process_group("gloo", init_method=join, rank=rank, world_size=RANKS, timeout=wait)
    x, index = batch()
    # Not as many on each.
    mine = slice(0, 5) if rank == 0 else slice(5, 8)
    flow = make_flow(RankReducedNorm())
    parallel = DistributedDataParallel(flow)
    log_prob = parallel(x[mine], seed=1, step=2, sample_index=index[mine])
    (RANKS * log_prob.sum() / len(x)).backward()
    stats = flow.last_stats
    saved = {"steps": stats.accepted, "dt": stats.dt_max, "grads": [p.grad for p in flow.parameters()]}
    saved["status"] = status_of_a_quadrature(float("inf") if rank == 1 else 1.0)
    torch.save(saved, f"{folder}/rank{rank}.pt")
    dist.barrier()
    # Not in the ordinary way: now and then one of gloo's threads aborts an interpreter that shuts down around it.
    os._exit(0)


def test_two_workers_give_the_gradient_of_one_on_the_whole_batch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    x, index = batch()
    alone = make_flow(rms_norm)
    alone(x, seed=1, step=2, sample_index=index).mean().backward()
    expected = [p.grad for p in alone.parameters()]
    steps, dt = alone.last_stats.accepted, alone.last_stats.dt_max

    half = make_flow(rms_norm)
    half(x[:5], seed=1, step=2, sample_index=index[:5])
    assert half.last_stats.dt_max != dt

    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "lo")
    mp.spawn(train_on_one_rank, args=(str(tmp_path),), nprocs=RANKS)
    for rank in range(RANKS):
        saved = torch.load(tmp_path / f"rank{rank}.pt")
        assert saved["steps"] == steps
        assert saved["dt"] == pytest.approx(dt, rel=1e-9)
        torch.testing.assert_close(saved["grads"], expected, rtol=1e-10, atol=1e-12)
        assert saved["status"] == "non_finite", "on both, though the quadrature of one alone is infinite"
