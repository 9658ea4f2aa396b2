"""Weak scaling of data-parallel training: 1 and 2 workers of one thread, 500 rows each at the large size.

``python -m benchmarks.scaling [--size large] [--workers 1 2] [--rounds 7] [--steps 8]``. A step is what a run does: the
mean NLL, its gradient by the symplectic adjoint, the agreement of the ranks and the exchange of gradients as in
`workers.ranks` (gloo), an Adam step. Every worker is a process pinned to a core of its own. Beside them stand as many
runs of one worker each at the same time: what those lose is the machine's doing (shared caches, memory, hyperthreads),
and what is lost beyond that is the exchange's. Rounds alternate; ratios are taken within a round; medians.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import statistics
import subprocess
import sys
import time

WARM_UP = 2


def work(size: str, rank: int, workers: int, steps: int) -> None:
    """Be one worker: print the seconds of each step as JSON."""
    import torch
    import torch.distributed as dist

    from benchmarks.peers.torch_field import fields
    from benchmarks.problem import ATOL, RTOL, SIZES, Problem
    from symadj.workers.distributed.ranks import DataParallel, Ranks
    from symadj_core import controllers, gradients
    from symadj_core.flows import Block, Flow

    torch.set_num_threads(1)
    if workers > 1:
        dist.init_process_group("gloo", rank=rank, world_size=workers)
    problem = Problem.of(SIZES[size])
    controller = controllers.by_name("i", rtol=RTOL, atol=ATOL, control="state")
    gradient = gradients.by_name("symplectic")
    blocks = [
        Block(field, controller=controller, gradient=gradient, divergence="hutchinson") for field in fields(problem)
    ]
    flow = Flow(blocks, problem.size.dim)
    # The same rows for all: every worker has as many evaluations to do.
    data = torch.from_numpy(problem.data)
    ranks = Ranks(torch.device("cpu"))
    parallel = DataParallel(flow, ranks)
    optimizer = torch.optim.Adam(flow.parameters(), lr=1e-5)
    seconds = []
    for step in range(WARM_UP + steps):
        if workers > 1:
            dist.barrier()
        started = time.perf_counter()
        optimizer.zero_grad(set_to_none=True)
        (-parallel.model(data, seed=0).mean()).backward()
        ranks.agree(None)
        parallel.average_gradients()
        optimizer.step()
        if step >= WARM_UP:
            seconds.append(time.perf_counter() - started)
    print(json.dumps(seconds))
    if workers > 1:
        dist.destroy_process_group()


def together(size: str, processes: int, steps: int, *, exchanging: bool) -> list[float]:
    """Return the seconds of the steps of so many workers that run at the same time, of one run or of one each."""
    cores = sorted(os.sched_getaffinity(0))
    if processes > len(cores):
        raise SystemExit(f"{processes} workers need as many cores; this process may use {len(cores)}")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    running = []
    for rank in range(processes):
        place = (str(rank), str(processes)) if exchanging else ("0", "1")
        command = [sys.executable, "-m", "benchmarks.scaling", "--work", size, *place, str(steps)]
        pinned = ["taskset", "--cpu-list", str(cores[rank]), *command]
        running.append(subprocess.Popen(pinned, stdout=subprocess.PIPE, text=True, env=environment))
    seconds: list[float] = []
    for process in running:
        answer, _ = process.communicate()
        if process.returncode:
            raise SystemExit(f"a worker ended with status {process.returncode}")
        seconds += json.loads(answer)
    return seconds


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", default="large")
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--steps", type=int, default=8, help="measured steps of each worker in a round")
    parser.add_argument("--work", nargs=4, metavar=("SIZE", "RANK", "WORKERS", "STEPS"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.work:
        size, *numbers = arguments.work
        work(size, *(int(number) for number in numbers))
        return
    cases = [(count, how) for count in arguments.workers for how in ((False, True) if count > 1 else (True,))]
    rounds: list[dict[tuple[int, bool], float]] = []
    for _ in range(arguments.rounds):
        # Compared within a round: this machine may be faster in one than in the next.
        rounds.append(
            {
                (count, exchanging): statistics.median(
                    together(arguments.size, count, arguments.steps, exchanging=exchanging)
                )
                for count, exchanging in cases
            }
        )
    print("| workers | s a step | efficiency | as many runs of their own, s a step | efficiency beside those |")
    print("| --- | --- | --- | --- | --- |")
    for count in arguments.workers:
        step = statistics.median(measured[count, True] for measured in rounds)
        if count == 1:
            print(f"| 1 | {step:.3f} | 1.00 | | |")
            continue
        apart = statistics.median(measured[count, False] for measured in rounds)
        beside_one = spread([measured[1, True] / measured[count, True] for measured in rounds])
        beside_own = spread([measured[count, False] / measured[count, True] for measured in rounds])
        print(f"| {count} | {step:.3f} | {beside_one} | {apart:.3f} | {beside_own} |")


def spread(ratios: list[float]) -> str:
    """Return the median and all there are, from the lowest to the highest."""
    return f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"


if __name__ == "__main__":
    main()
