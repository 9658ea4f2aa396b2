"""How much is measured: `full` for the page, `quick` to see that everything runs."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["SIZES", "Size"]


@dataclass(frozen=True)
class Size:
    """The extent of every part.

    Attributes:
        solvers: one of each order.
        steps: N, the steps of a solve whose memory is measured; more than any policy keeps that is limited.
        blocks: M, the blocks of a stack.
        blocks_solver, blocks_steps: of the stack whose memory is measured.
        tolerances: rtol of the gradients compared; atol is a hundredth of it.
        tolerance: rtol of the solvers and the stacks compared.
        trained_at: rtol of the flows trained.
        rounding_steps: steps of the solves made in float32 and in float64.
        flow_rows, flow_steps: batch and optimizer steps of the flows trained at a tolerance.
        points: of the grids of the two physical systems.
        trajectories, tests: initial conditions to learn from and to be judged by.
        snapshots: of each trajectory, after its start.
        substeps: steps of the reference scheme between two snapshots.
        iterations, batch: optimizer steps of every learnt field, and pairs of snapshots in each.
    """

    solvers: tuple[str, ...]
    steps: tuple[int, ...]
    blocks: tuple[int, ...]
    blocks_solver: str
    blocks_steps: int
    tolerances: tuple[float, ...]
    tolerance: float
    trained_at: tuple[float, ...]
    rounding_steps: tuple[int, ...]
    flow_rows: int
    flow_steps: int
    points: int
    trajectories: int
    tests: int
    snapshots: int
    substeps: int
    iterations: int
    batch: int


SIZES = {
    "full": Size(
        solvers=("adaptive_heun", "bosh3", "dopri5", "dopri8"),
        steps=(16, 32, 64),
        blocks=tuple(range(1, 11)),
        blocks_solver="dopri5",
        blocks_steps=10,
        tolerances=tuple(10.0**-k for k in range(8, 0, -1)),
        tolerance=1e-5,
        trained_at=(1e-8, 1e-6, 1e-4, 1e-3, 1e-2, 1e-1),
        rounding_steps=(10, 100, 500),
        flow_rows=128,
        flow_steps=100,
        points=32,
        trajectories=24,
        tests=8,
        snapshots=16,
        substeps=30,
        iterations=200,
        batch=32,
    ),
    "quick": Size(
        solvers=("adaptive_heun",),
        steps=(10, 11),
        blocks=(2, 3),
        blocks_solver="adaptive_heun",
        blocks_steps=10,
        tolerances=(1e-5, 1e-2),
        tolerance=1e-2,
        trained_at=(1e-2,),
        rounding_steps=(10,),
        flow_rows=32,
        flow_steps=2,
        points=8,
        trajectories=2,
        tests=2,
        snapshots=2,
        substeps=2,
        iterations=1,
        batch=4,
    ),
}
