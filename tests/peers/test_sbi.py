"""The calibration in a result beside sbi's own diagnostics of the same posterior on the same held-out rows."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from sbi.diagnostics import check_tarp, run_sbc, run_tarp
from sbi.diagnostics.sbc import check_uniformity_frequentist
from sbi.inference import DirectPosterior
from torch import Tensor
from torch.distributions import MultivariateNormal

import symadj_core
from symadj.service.contract.result import Calibration
from symadj.workers.evaluation.calibration import calibration_of, places
from symadj_core.trained import TrainedFlow
from tests.workers.loading import load_data
from tests.workers.runs import order, run

Rows = NDArray[np.float64]

ROWS, DRAWS = 400, 200
# Of a mean over the rows, where each has a share of two sets of draws: at most so large, whatever the posterior.
NOISE_OF_DRAWS = (0.25 * (1 / DRAWS + 1 / DRAWS) / ROWS) ** 0.5


@dataclass(frozen=True)
class Gaussian:
    """N(A c + shift, spread^2), where the rows are N(A c, 1): right, too narrow, too wide or in the wrong place.

    It has what sbi's diagnostics ask of a posterior; its draws are fixed, so that both see the same.
    """

    spread: float
    shift: float

    @property
    def contexts(self) -> Tensor:
        return torch.from_numpy(np.random.default_rng(1).standard_normal((ROWS, 2)))

    def mean(self, x: Tensor) -> Tensor:
        return x @ torch.tensor([[1.0, 0.5, -1.0], [0.3, 2.0, 0.0]], dtype=torch.float64)

    @property
    def rows(self) -> Tensor:
        return self.mean(self.contexts) + torch.from_numpy(np.random.default_rng(2).standard_normal((ROWS, 3)))

    def sample_batched(self, shape: torch.Size, x: Tensor, show_progress_bars: bool = False) -> Tensor:
        noise = np.random.default_rng(3).standard_normal((*shape, len(x), 3))
        return self.mean(x) + self.shift + self.spread * torch.from_numpy(noise)

    def log_prob(self, theta: Tensor, x: Tensor) -> Tensor:
        return -0.5 * ((theta - self.mean(x) - self.shift) / self.spread).square().sum(-1)


@pytest.mark.parametrize(("spread", "shift"), [(1, 0), (0.7, 0), (1.4, 0), (1, 0.5)])
def test_the_same_draws_have_the_ranks_the_coverage_and_the_curve_of_sbi(spread: float, shift: float) -> None:
    posterior = Gaussian(spread, shift)
    rows, contexts = posterior.rows, posterior.contexts
    low, high = rows.min(0).values, rows.max(0).values
    references = low + (high - low) * torch.from_numpy(np.random.default_rng(4).uniform(size=rows.shape))
    drawn = posterior.sample_batched(torch.Size([DRAWS]), contexts).transpose(0, 1)
    both = torch.cat([rows[:, None], drawn], 1)
    log_density = posterior.log_prob(both, contexts[:, None])
    between = np.random.default_rng(5).uniform(size=(ROWS, 5))
    arrays = (tensor.numpy() for tensor in (rows, drawn, log_density, references))
    found = places(*arrays, between, (high - low).numpy())
    ours = calibration_of(found, ("a", "b", "c"), DRAWS, "exact")
    before = np.floor(found * (DRAWS + 1))

    sbc = partial(run_sbc, rows, contexts, posterior, num_posterior_samples=DRAWS, show_progress_bar=False)
    ranks, _ = sbc()
    np.testing.assert_array_equal(ranks.numpy(), before[:, :3])
    by_density, _ = sbc(reduce_fns=posterior.log_prob)
    np.testing.assert_array_equal(DRAWS - by_density[:, 0].numpy(), before[:, 3])
    p = check_uniformity_frequentist(ranks, DRAWS)
    assert [column.ks_p for column in ours.columns] == pytest.approx(p.tolist(), abs=0.1)

    curve = run_tarp(rows, contexts, posterior, references, DRAWS, show_progress_bar=False)
    ecp, alpha = (tensor.numpy() for tensor in curve)
    share = before[:, 4] / DRAWS
    # A share at a level itself may be on either side: the levels are rounded.
    below, above = ([(share < level + side).mean() for level in alpha] for side in (-1e-6, 1e-6))
    assert np.all((np.array(below) <= ecp + 1e-6) & (ecp <= np.array(above) + 1e-6))
    # sbi's levels reach from the least to the largest share that there is. At those within ours, its curve is the one
    # of the result but for what lies between two levels.
    within = (alpha > ours.levels[0]) & (alpha < ours.levels[-1])
    np.testing.assert_allclose(np.interp(alpha, ours.levels, ours.tarp.coverage)[within], ecp[within], atol=0.03)
    area, _ = check_tarp(*curve)
    if abs(ours.tarp.area) > 3 * ours.tarp.area_stderr:
        assert np.sign(area) == np.sign(ours.tarp.area)


def two_moons(theta: Rows, rng: np.random.Generator) -> Rows:
    """Greenberg et al. 2019: a crescent, and two posterior modes of that shape."""
    angle, radius = rng.uniform(-np.pi / 2, np.pi / 2, len(theta)), rng.normal(0.1, 0.01, len(theta))
    crescent = np.stack([radius * np.cos(angle) + 0.25, radius * np.sin(angle)], 1)
    turned = np.stack([-np.abs(theta.sum(1)), theta[:, 1] - theta[:, 0]], 1) / 2**0.5
    return crescent + turned


@dataclass(frozen=True)
class Job:
    """What a trained job leaves: its calibration, the flow, and the rows that it was measured on, in original units."""

    calibration: Calibration
    flow: TrainedFlow
    thetas: Tensor
    xs: Tensor


@pytest.fixture(scope="module", params=[100, 1000], ids="{} steps".format)
def job(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Job:
    folder = tmp_path_factory.mktemp("job")
    rng = np.random.default_rng(0)
    theta = rng.standard_normal((10 * ROWS, 2))
    table = np.hstack([theta, two_moons(theta, rng)])
    np.savetxt(folder / "rows.csv", table, delimiter=",", header="t0,t1,x0,x1", comments="")
    spec: dict[str, Any] = {
        "data": {
            "kind": "file",
            "path": "rows.csv",
            "columns": ["t0", "t1"],
            "context_columns": ["x0", "x1"],
            "batch_size": 250,
        },
        "flow": {"kind": "cnf", "field": {"hidden": [64, 64]}},
        "solver": {"kind": "adaptive", "rtol": 1e-3, "atol": 1e-4},
        # By flow matching, which takes milliseconds a step.
        "pretraining": {"steps": request.param, "learning_rate": 5e-3},
        "stop": {"max_steps": request.param + 1},
        "evaluation": {
            "validate_every_steps": None,
            "mixture_components": 0,
            "two_sample_rows": 0,
            "inverse_rows": 0,
            "calibration_rows": ROWS,
            "calibration_draws": DRAWS,
        },
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SYMADJ_DATA_ROOTS", str(folder))
        patch.setenv("SYMADJ_SPOOL", str(folder / "spool"))
        outcome, _ = run(folder / "jobs", **spec)
        test = load_data(order(folder, **spec).spec.data).test
    assert outcome.state == "succeeded", outcome.message
    (weights,) = Path(folder, "jobs").rglob("artifacts/*/weights.safetensors")
    flow = symadj_core.load(weights.parent)
    held_out = torch.from_numpy(table[test.index[:ROWS]]).float()
    return Job(outcome.result.calibration, flow, held_out[:, :2], held_out[:, 2:])


def test_the_calibration_of_a_job_is_that_of_sbi_on_its_flow_and_rows_within_their_noise(job: Job) -> None:
    torch.manual_seed(0)
    prior = MultivariateNormal(torch.zeros(2), torch.eye(2))
    posterior = DirectPosterior(job.flow.as_sbi(), prior)
    ours = job.calibration
    assert (ours.rows, ours.draws) == (ROWS, DRAWS) == (len(job.thetas), DRAWS)

    sbc = partial(run_sbc, job.thetas, job.xs, posterior, num_posterior_samples=DRAWS, show_progress_bar=False)
    ranks, _ = sbc()
    for column, rank in zip(ours.columns, ranks.T.numpy(), strict=True):
        share = (rank + 0.5) / (DRAWS + 1)
        print(f"{column.column}: mean rank {column.mean:.4f}, sbi's {share.mean():.4f}")
        assert column.mean == pytest.approx(share.mean(), abs=4 * NOISE_OF_DRAWS)
        theirs, _ = np.histogram(share, len(column.counts), (0, 1))
        # A row whose place moves a little may cross one edge of a bin.
        assert np.abs(np.cumsum(theirs) - np.cumsum(column.counts)).max() < 0.04 * ROWS

    by_density, _ = sbc(reduce_fns=partial(posterior.log_prob, norm_posterior=False))
    outside = 1 - (by_density[:, 0].numpy() + 0.5) / (DRAWS + 1)
    coverage = [(outside <= level).mean() for level in ours.levels]
    print("coverage", np.round(ours.highest_density.coverage, 3), "sbi's", np.round(coverage, 3))
    assert ours.highest_density.coverage == pytest.approx(coverage, abs=0.04)
    assert ours.highest_density.area == pytest.approx(0.5 - outside.mean(), abs=4 * NOISE_OF_DRAWS)

    # Other random points: as noisy as other rows are.
    ecp, alpha = run_tarp(job.thetas, job.xs, posterior, num_posterior_samples=DRAWS, show_progress_bar=False)
    theirs = np.interp(ours.levels, alpha, ecp)
    print("TARP", np.round(ours.tarp.coverage, 3), "sbi's", np.round(theirs, 3))
    assert ours.tarp.coverage == pytest.approx(theirs, abs=2**0.5 * ours.band)
