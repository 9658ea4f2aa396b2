"""Weak scaling of data-parallel training: 1 and 2 workers of one thread, each with as many rows.

``python -m benchmarks.scaling [--rows same|different] [--workers 1 2] [--rounds 7] [--steps 8]``. A step is what a run
does: the mean NLL, its gradient by the symplectic adjoint, the agreement of the ranks and the exchange of gradients as
in `symadj.workers.distributed` (gloo), an Adam step. Every worker is a process pinned to a core of its own. Beside them
stand as many runs of one worker each at the same time: what those lose is the machine's doing (shared caches, memory,
hyperthreads), and what is lost beyond that is the exchange's. Rounds alternate; ratios are taken within a round;
medians.

- ``same``: 500 rows each at the large size, the same for all, so that every worker has as many evaluations to do.
- ``different``: the demo's flow after 200 steps of training, 250 rows of flow_cytometry each; the adaptive steps are
  those of a worker's own rows (``own``: all wait for the worker that takes the most), or are shared by all
  (``shared``: `solver.shared_steps`). Uses of the field do not depend on the machine's load.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args

import yaml

if TYPE_CHECKING:
    from torch import Tensor

    from symadj.workers.data import Batches
    from symadj_core.flows import Flow

DEMO = Path(__file__).parent.parent / "examples" / "flow_cytometry.yaml"
TRAINED_STEPS = 200
ROWS_EACH = 250
WARM_UP = 2

Rows = Literal["same", "different"]
# How so many workers run: each for itself, together with steps of their own, together with shared steps.
How = Literal["apart", "own", "shared"]


@dataclass(frozen=True)
class Case:
    """Workers that run at the same time."""

    workers: int
    how: How


@dataclass(frozen=True)
class Worked:
    """What one worker told.

    Attributes:
        seconds: of each step.
        uses: of the field in each step, forward and backward.
    """

    seconds: list[float]
    uses: list[int]


@dataclass(frozen=True)
class Round:
    """Medians and means over the steps of one case in a round.

    Attributes:
        seconds: of a step, median over steps and workers.
        uses: of the field in a step, mean over steps and workers.
        most_uses: those of the worker with the most in each step, mean over steps.
    """

    seconds: float
    uses: float
    most_uses: float


def work(rows: Rows, how: How, rank: int, workers: int, parts: int, steps: int, weights: str) -> None:
    """Be one worker: print what each step took as JSON."""
    import torch
    import torch.distributed as dist

    from symadj.workers.distributed.ranks import DataParallel, Ranks
    from symadj.workers.distributed.shared_steps import SharedSteps

    torch.set_num_threads(1)
    exchanging = how != "apart" and workers > 1
    if exchanging:
        dist.init_process_group("gloo", rank=rank, world_size=workers)
    ranks = Ranks(torch.device("cpu"))
    flow, nll = same_rows() if rows == "same" else different_rows(rank, parts, weights)
    shared = SharedSteps(ranks) if exchanging and how == "shared" else None
    if shared is not None:
        flow = shared.flow(flow)
    parallel = DataParallel(flow, ranks)
    optimizer = torch.optim.Adam(flow.parameters(), lr=1e-5)
    seconds, uses = [], []
    for step in range(WARM_UP + steps):
        if exchanging:
            dist.barrier()
        started = time.perf_counter()
        optimizer.zero_grad(set_to_none=True)
        nll(flow, step).backward()
        if shared is not None:
            shared.finish(failed=False)
        ranks.agree(None)
        parallel.average_gradients()
        optimizer.step()
        if step >= WARM_UP:
            seconds.append(time.perf_counter() - started)
            stats = flow.last_stats
            uses.append(stats.nfe_forward + stats.nfe_backward)
    print(json.dumps(asdict(Worked(seconds, uses))), flush=True)
    if exchanging:
        dist.barrier()
    # Not in the ordinary way: now and then one of gloo's threads aborts an interpreter that shuts down around it.
    os._exit(0)


def same_rows() -> tuple[Flow, Callable[..., Tensor]]:
    """Return the flow of the benchmarks' large size, and the mean NLL of its rows."""
    import torch

    from benchmarks.peers.torch_field import fields
    from benchmarks.problem import ATOL, RTOL, SIZES, Problem
    from symadj_core import controllers, gradients
    from symadj_core.flows import Block, Flow

    problem = Problem.of(SIZES["large"])
    controller = controllers.by_name("i", rtol=RTOL, atol=ATOL, control="state")
    gradient = gradients.by_name("symplectic")
    blocks = [
        Block(field, controller=controller, gradient=gradient, divergence="hutchinson") for field in fields(problem)
    ]
    data = torch.from_numpy(problem.data)
    return Flow(blocks, problem.size.dim), lambda model, step: -model(data, seed=0).mean()


def different_rows(rank: int, parts: int, weights: str) -> tuple[Flow, Callable[..., Tensor]]:
    """Return the demo's flow with stored weights, and the mean NLL of a rank's part of a step's rows."""
    import torch

    from symadj.workers.model.likelihood import on_device

    flow, batches = demo(parts)
    flow.load_state_dict(torch.load(weights))

    def nll(model: Callable[..., Tensor], step: int) -> Tensor:
        rows = on_device(batches.batch(TRAINED_STEPS + step, rank, parts), flow, torch.device("cpu"))
        return -model(rows.x, seed=0, step=step, sample_index=rows.index).mean()

    return flow, nll


def demo(parts: int) -> tuple[Flow, Batches]:
    """Return the demo's flow as it is made, and batches of so many parts."""
    from symadj.service.contract.spec import JobSpec
    from symadj.workers.data import DataRoots, load_data
    from symadj.workers.model.build import build_flow

    spec = JobSpec.model_validate(yaml.safe_load(DEMO.read_text()))
    data = load_data(spec.data, DataRoots(()))
    return build_flow(spec, data.dim), data.batches(ROWS_EACH * parts, spec.seed)


def train(weights: str) -> None:
    """Train the demo's flow a little, and store its weights."""
    import torch

    from symadj.workers.model.likelihood import on_device

    torch.set_num_threads(1)
    flow, batches = demo(2)
    optimizer = torch.optim.Adam(flow.parameters(), lr=0.01)
    for step in range(TRAINED_STEPS):
        rows = on_device(batches.batch(step), flow, torch.device("cpu"))
        optimizer.zero_grad()
        (-flow(rows.x, seed=0, step=step, sample_index=rows.index).mean()).backward()
        optimizer.step()
    torch.save(flow.state_dict(), weights)


def together(rows: Rows, case: Case, parts: int, steps: int, weights: str) -> Round:
    """Let the workers of a case run at the same time."""
    cores = sorted(os.sched_getaffinity(0))
    if case.workers > len(cores):
        raise SystemExit(f"{case.workers} workers need as many cores; this process may use {len(cores)}")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    running = []
    for rank in range(case.workers):
        place = (rows, case.how, str(rank), str(case.workers), str(parts), str(steps), weights)
        command = [sys.executable, "-m", "benchmarks.scaling", "--work", *place]
        pinned = ["taskset", "--cpu-list", str(cores[rank]), *command]
        running.append(subprocess.Popen(pinned, stdout=subprocess.PIPE, text=True, env=environment))
    told = []
    for process in running:
        answer, _ = process.communicate()
        if process.returncode:
            raise SystemExit(f"a worker ended with status {process.returncode}")
        told.append(Worked(**json.loads(answer)))
    uses = list(zip(*(worker.uses for worker in told), strict=True))
    return Round(
        statistics.median(second for worker in told for second in worker.seconds),
        statistics.mean(statistics.mean(each) for each in uses),
        statistics.mean(max(each) for each in uses),
    )


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", choices=get_args(Rows), default="same")
    parser.add_argument("--workers", type=int, nargs="+", default=[2], help="beside one alone")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--steps", type=int, default=8, help="measured steps of each worker in a round")
    parser.add_argument("--work", nargs=7, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.work:
        rows, how, *numbers, weights = arguments.work
        work(rows, how, *(int(number) for number in numbers), weights)
        return
    ways: tuple[How, ...] = ("apart", "own") if arguments.rows == "same" else ("apart", "own", "shared")
    alone = Case(1, "apart")
    cases = [alone, *(Case(count, how) for count in arguments.workers for how in ways)]
    with tempfile.TemporaryDirectory() as folder:
        weights = str(Path(folder, "weights.pt"))
        if arguments.rows == "different":
            train(weights)
        # Compared within a round: this machine may be faster in one than in the next.
        rounds = [
            {case: together(arguments.rows, case, max(arguments.workers), arguments.steps, weights) for case in cases}
            for _ in range(arguments.rounds)
        ]
    print("| workers | steps | s a step | to one alone | to as many apart | uses of the field | most of a worker |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for case in cases:
        found = [measured[case] for measured in rounds]
        apart = Case(case.workers, "apart")
        to_alone, to_apart = (
            spread([measured[case].seconds / measured[other].seconds for measured in rounds])
            for other in (alone, apart)
        )
        step = statistics.median(each.seconds for each in found)
        uses, most = (statistics.mean(values) for values in ([f.uses for f in found], [f.most_uses for f in found]))
        print(f"| {case.workers} | {case.how} | {step:.3f} | {to_alone} | {to_apart} | {uses:.1f} | {most:.1f} |")


def spread(ratios: list[float]) -> str:
    """Return the median and all there are, from the lowest to the highest."""
    return f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"


if __name__ == "__main__":
    main()
