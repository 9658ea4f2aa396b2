"""One rank as torchrun starts it, without Ray: ``python -m tests.gpu.rank DEVICE FOLDER``.

It tries the collectives that a training uses, trains on the flow-cytometry data, and writes what came of both to
FOLDER/told.json.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

from symadj.workers.attempt import AttemptRun
from symadj.workers.distributed.ranks import Ranks
from symadj.workers.rank_run import RankRun
from symadj_core import IController, RankReducedNorm
from symadj_core.flows import Block, Flow, MLPField
from tests.core.systems import relative_error
from tests.workers.runs import KeepingOutbox, order


def collectives(device: torch.device) -> dict[str, Any]:
    """What the group's collectives return on this device."""
    vector = torch.arange(4.0, device=device)
    dist.all_reduce(vector)
    gathered: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(gathered, {"rank": dist.get_rank()})
    torch.manual_seed(0)
    controller = IController(rtol=1e-4, atol=1e-6, norm=RankReducedNorm())
    flow = Flow(Block(MLPField(3, (16,)), controller=controller), 3).double().to(device)
    x = torch.randn(8, 3, dtype=torch.float64).to(device)
    flow(x, seed=0).mean().backward()
    alone = [p.grad.clone() for p in flow.parameters() if p.grad is not None]
    flow.zero_grad()
    DistributedDataParallel(flow)(x, seed=0).mean().backward()
    together = [p.grad for p in flow.parameters() if p.grad is not None]
    return {
        "backend": dist.get_backend(),
        "sum": vector.tolist(),
        "gathered": gathered,
        "ddp_error": relative_error(together, alone),
    }


def training(device: torch.device, folder: Path) -> dict[str, Any]:
    """Train for a hundred steps; what was reported of losses and memory."""
    accelerated = device.type != "cpu"
    rank_order = order(
        folder,
        data={"kind": "builtin", "name": "flow_cytometry", "batch_size": 500},
        flow={"kind": "cnf", "blocks": 1, "field": {"kind": "mlp", "hidden": [64, 64]}},
        solver={"kind": "adaptive", "rtol": 1e-3, "atol": 1e-4},
        stop={"kind": "steps", "max_steps": 100},
        resources={"kind": "gpu" if accelerated else "cpu", "workers": 1},
        evaluation={
            "validate_every_steps": 50,
            "test_rows": 2000,
            "mixture_components": 0,
            "two_sample_rows": 0,
            "plots": False,
        },
    )
    outbox = KeepingOutbox()
    outcome = AttemptRun(RankRun(rank_order, Ranks(device), outbox)).run()
    assert outcome is not None
    (plan,) = (record.plan for record in outbox.of("plan"))
    steps = dict(enumerate(outbox.series("steps_accepted"), 1))
    peaks: dict[int, int] = {}
    for record in outbox.of("memory"):
        if record.phase in ("forward", "backward") and record.device_peak_bytes is not None:
            taken = record.device_peak_bytes - record.device_idle_bytes
            peaks[record.step] = max(taken, peaks.get(record.step, 0))
    planned = {step: max(part.bytes(count) for part in plan.chosen.parts) for step, count in steps.items()}
    return {
        "state": outcome.state,
        "message": outcome.message,
        "test_nll": None if outcome.result is None else outcome.result.test_nll,
        "loss": outbox.series("loss"),
        "device_peaks": [[planned[step], peak] for step, peak in sorted(peaks.items())],
    }


def main() -> None:
    """Join, try, train, tell, leave."""
    device, folder = torch.device(sys.argv[1]), Path(sys.argv[2])
    if device.type == "cuda":
        device = torch.device("cuda", 0)
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    told = collectives(device) | training(device, folder / "storage")
    (folder / "told.json").write_text(json.dumps(told))
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
