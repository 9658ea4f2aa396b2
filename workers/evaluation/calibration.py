"""Calibration of a conditional flow: are its draws for the context of a held-out row distributed as the row is?

Three views of the same draws, each a number between 0 and 1 for every row, its *place*, which is uniform if the flow is
right (r of n draws come before the row; the place is drawn uniformly between r / (n + 1) and (r + 1) / (n + 1), which
makes it exactly uniform for any n):

- simulation-based calibration (Talts et al. 2018, arXiv:1804.06788, algorithm 1), of each column: the draws whose value
  is below the row's;
- expected coverage of highest-density regions (Hermans et al. 2022, TMLR, "A crisis in simulation-based inference?",
  section 2; by draws as in Deistler, Goncalves and Macke 2022, NeurIPS, "Truncated proposals for scalable and
  hassle-free simulation-based inference"): the draws whose density is above the row's. The region that holds a share
  a of the flow's probability holds the rows with places up to a;
- TARP (Lemos et al. 2023, ICML, "Sampling-based accuracy testing of posterior estimators for general inference",
  algorithm 2): the draws that are nearer to a random point than the row is.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from symadj.service.contract.result import Calibration, ColumnRanks, Coverage
from symadj.service.contract.spec.evaluation import Evaluation
from symadj.workers.data import PreparedData
from symadj.workers.model.build import validation_flow
from symadj.workers.model.likelihood import DeviceRows, HeldOut, on_device
from symadj.workers.rank_run import RankRun
from symadj_core.flows import Flow, piece_rows

__all__ = ["FEWEST_ROWS", "calibration_of", "measure_calibration", "places"]

Rows = NDArray[np.float64]

# Fewer rows have nothing to say.
FEWEST_ROWS = 20
LEVELS = np.arange(1, 20) / 20
_ROWS_A_BIN, _MOST_BINS = 20, 20  # of a histogram (Talts et al. 2018, section 4.2)
_MOST_COLUMNS = 100  # told one by one
_EXACT_UP_TO = 8  # columns: there are many more draws than rows to validate
_BAND, _BAND_OF_COUNTS = 0.95, 0.99


def measure_calibration(run: RankRun, evaluation: Evaluation, flow: Flow, data: PreparedData) -> Calibration | None:
    """Draw from ``flow`` for the contexts of the first test rows, and compare the rows with the draws.

    Drawn with training's solver, as users draw. The densities are at its tolerances too, exact where that is cheap or
    there are few columns, else with training's divergence. An estimate takes the row's probes for all draws of the row,
    so that it is one function of draw and row: by any such function the places of a right flow are uniform, and a noisy
    one only finds less. The ranks share the rows, a piece at a time; a request to stop takes effect between two pieces.
    A row's draws depend on the seed and the row alone.

    Args:
        run: on this rank.
        evaluation: the spec's section.
        flow: conditional.
        data: prepared.

    Returns:
        None where there are fewer than ``FEWEST_ROWS`` test rows.

    Raises:
        AttemptFailedError: on all ranks, when a rank's solver could not reach the end.
    """
    spec, ranks = run.spec, run.ranks
    part, draws = data.test.head(evaluation.calibration_rows), evaluation.calibration_draws
    if len(part) < FEWEST_ROWS:
        return None
    scored, divergence = ranks.together(lambda: validation_flow(flow, spec, _EXACT_UP_TO), phase="evaluation")
    piece = piece_rows(scored, spec.batch_size // ranks.size)

    def of_own_rows() -> Rows:
        low, high = part.rows.min(0), part.rows.max(0)
        own = on_device(part.share(ranks.rank, ranks.size), flow, ranks.device)
        found = [np.empty((0, data.dim + 2))]
        for rows in own.split(max(1, piece // (1 + draws))):
            noise = [_Noise(spec.seed, int(row), draws, low, high) for row in rows.index]
            drawn, log_density = _draw(flow, scored, rows, noise, piece, spec.seed, run.outbox.raise_if_stopped)
            random = np.stack([row.reference for row in noise]), np.stack([row.between for row in noise])
            found.append(places(rows.x.double().cpu().numpy(), drawn, log_density, *random, high - low))
        return np.concatenate(found)

    of_all = np.empty((len(part), data.dim + 2))
    for rank, share in enumerate(ranks.gather(ranks.together(of_own_rows, phase="evaluation"))):
        of_all[rank :: ranks.size] = share
    return ranks.together(lambda: calibration_of(of_all, data.columns, draws, divergence), phase="evaluation")


class _Noise:
    """All that is random of a row, a function of seed and row.

    Attributes:
        base: [draws, dim] float64, standard normal.
        reference: [dim] float64, uniform between ``low`` and ``high`` [dim].
        between: [dim + 2] float64, uniform: where between two draws a place is.
    """

    def __init__(self, seed: int, row: int, draws: int, low: Rows, high: Rows) -> None:
        generator = np.random.Generator(np.random.Philox(key=np.array([seed, row], np.uint64)))
        self.base = generator.standard_normal((draws, len(low)))
        self.reference = generator.uniform(low, high)
        self.between = generator.uniform(size=len(low) + 2)


@torch.no_grad()
def _draw(
    flow: Flow,
    scored: Flow,
    rows: DeviceRows,
    noise: Sequence[_Noise],
    piece: int,
    seed: int,
    before_piece: Callable[[], None],
) -> tuple[Rows, Rows]:
    """Return draws [n, draws, dim] for the contexts of ``rows``, and log q [n, 1 + draws] of each row and its draws.

    Raises:
        SolverError: a draw could not be carried to the data, or a row or a draw to the base.
    """
    base = torch.from_numpy(np.stack([row.base for row in noise])).to(rows.x)
    count, draws, dim = base.shape

    def for_each(times: int, x: Tensor) -> DeviceRows:
        assert rows.context is not None
        index, context = (of_rows.repeat_interleave(times, 0) for of_rows in (rows.index, rows.context))
        return DeviceRows(x.reshape(-1, dim), index, context)

    drawn = []
    for part in for_each(draws, base).split(piece):
        before_piece()
        drawn.append(flow.from_base(part.x, part.context))
    x = torch.cat(drawn).view(base.shape)
    nll, _ = HeldOut(for_each(1 + draws, torch.cat([rows.x[:, None], x], 1)), piece, seed).nll(scored, before_piece)
    return x.double().cpu().numpy(), -nll.view(count, 1 + draws).cpu().numpy()


def places(rows: Rows, drawn: Rows, log_density: Rows, references: Rows, between: Rows, span: Rows) -> Rows:
    """Return the places of rows among their draws, all float64: [n, dim] of each column, then of density and TARP.

    Args:
        rows: [n, dim].
        drawn: [n, draws, dim], of the flow for the context of each row.
        log_density: [n, 1 + draws], of the flow at each row and at its draws.
        references: [n, dim], TARP's random points. The distance is Euclidean, of columns divided by ``span``.
        between: [n, dim + 2] in [0, 1): where between two draws a place is.
        span: [dim], of each column; 0 for a column that does not vary.
    """
    scale = np.where(span > 0, span, 1)
    # The squares, in the place of distances, have their order.
    distance, of_drawn = (
        (((x - r) / scale) ** 2).sum(-1) for x, r in ((rows, references), (drawn, references[:, None]))
    )
    before = [
        (drawn < rows[:, None]).sum(1),
        (log_density[:, 1:] > log_density[:, :1]).sum(1)[:, None],
        (of_drawn < distance[:, None]).sum(1)[:, None],
    ]
    place: Rows = (np.concatenate(before, 1) + between) / (drawn.shape[1] + 1)
    return place


def calibration_of(of_all: Rows, columns: Sequence[str], draws: int, divergence: str) -> Calibration:
    """Return what the places [n, dim + 2] of rows among ``draws`` draws, as of ``places``, say of a flow.

    Args:
        columns: their names, dim of them.
        divergence: of the densities, by its name.
    """
    from scipy.stats import binom, kstest, kstwo  # takes a second to import

    count, bins = len(of_all), min(_MOST_BINS, max(2, len(of_all) // _ROWS_A_BIN))
    p = np.array([kstest(place, "uniform").pvalue for place in of_all.T])
    told = np.sort(np.argsort(p[:-2], kind="stable")[:_MOST_COLUMNS])
    low, high = binom.interval(_BAND_OF_COUNTS, count, 1 / bins)
    density, tarp = of_all[:, -2], of_all[:, -1]
    return Calibration(
        rows=count,
        draws=draws,
        divergence=divergence,
        columns=[_ranks(columns[n], of_all[:, n], float(p[n]), bins) for n in told],
        columns_tested=len(columns),
        counts_expected=count / bins,
        counts_low=int(low),
        counts_high=int(high),
        levels=LEVELS.tolist(),
        band=float(kstwo.ppf(_BAND, count)),
        highest_density=_coverage(density, 0, float(p[-2])),
        tarp=_coverage(tarp, 0.5, float(p[-1])),
    )


def _ranks(column: str, place: Rows, p: float, bins: int) -> ColumnRanks:
    central = float(((place >= 0.25) & (place < 0.75)).mean())
    return ColumnRanks(
        column=column,
        counts=np.histogram(place, bins, (0, 1))[0].tolist(),
        mean=float(place.mean()),
        mean_stderr=_stderr(place),
        central_half=central,
        central_half_stderr=math.sqrt(central * (1 - central) / len(place)),
        ks_p=p,
    )


def _coverage(place: Rows, above: float, p: float) -> Coverage:
    """Return the distribution of ``place`` [n] beside the uniform one, and the area between them above ``above``."""
    # The integral of the step that one row makes, less that of the diagonal.
    areas = (1 - np.maximum(place, above)) - (1 - above**2) / 2
    return Coverage(
        coverage=[float((place <= level).mean()) for level in LEVELS],
        area=float(areas.mean()),
        area_stderr=_stderr(areas),
        ks_p=p,
    )


def _stderr(values: Rows) -> float:
    return float(values.std(ddof=1)) / math.sqrt(len(values))
