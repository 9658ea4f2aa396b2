"""The calibration of conditional flows: what it says of flows that are right, too sure, not sure enough, or biased."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from symadj.service.contract.result import Calibration
from symadj.service.contract.spec import JobSpec
from symadj.service.contract.spec.evaluation import Evaluation
from symadj.service.contract.states import StopReason
from symadj.workers import plots
from symadj.workers.distributed.ranks import AttemptFailedError
from symadj.workers.evaluation import calibration
from symadj.workers.evaluation.calibration import FEWEST_ROWS, calibration_of, measure_calibration, places
from symadj.workers.model.build import build_flow
from symadj.workers.outcome import StopRequestedError
from symadj_core.flows import Block, Flow
from tests.workers.loading import load_data
from tests.workers.runs import SMALL, KeepingOutbox, order, rank_run, run

Rows = NDArray[np.float64]

DATA = {
    "kind": "file",
    "path": "rows.csv",
    "columns": ["x", "y"],
    "context_columns": ["c"],
    "transforms": [],
    "batch_size": 32,
}
# A flow that moves nothing: for any context, its draws are standard normal.
STILL: dict[str, Any] = {
    "data": DATA,
    "flow": {"kind": "cnf", "blocks": 1, "field": {"hidden": [4], "zero_init": True}},
    "solver": {"kind": "fixed", "method": "rk4", "steps": 1},
}
QUICK: dict[str, Any] = {
    "validate_every_steps": None,
    "mixture_components": 0,
    "inverse_rows": 0,
    "two_sample_rows": 0,
    "plots": False,
}


@pytest.fixture
def roots(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SYMADJ_DATA_ROOTS", str(tmp_path))
    return tmp_path


def write_rows(folder: Path, spread: float = 1.0, shift: float = 0.0, count: int = 5000) -> None:
    """Write rows of which x is normal with that spread and mean, y standard normal, and a context c."""
    rng = np.random.default_rng(0)
    rows = np.column_stack([shift + spread * rng.standard_normal(count), rng.standard_normal((count, 2))])
    np.savetxt(folder / "rows.csv", rows, delimiter=",", header="x,y,c", comments="")


def measured(folder: Path, outbox: KeepingOutbox | None = None, **changes: Any) -> Calibration | None:
    """Measure the still flow on the rows in ``folder``."""
    own = rank_run(order(folder / "jobs", **STILL | {"evaluation": changes}), outbox or KeepingOutbox())
    data = load_data(own.spec.data)
    assert own.spec.evaluation is not None
    return measure_calibration(own, own.spec.evaluation, build_flow(own.spec, data.dim, data.context_dim), data)


def normal(spread: float, shift: float, rows: int = 1000, draws: int = 200) -> Calibration:
    """The calibration of N(A c + shift, spread^2) where the rows are N(A c, 1), by draws and densities of its own."""
    rng = np.random.default_rng(1)
    mean = rng.standard_normal((rows, 2)) @ [[1.0, 0.5, -1.0], [0.3, 2.0, 0.0]]
    held_out = mean + rng.standard_normal(mean.shape)
    drawn = mean[:, None] + shift + spread * rng.standard_normal((rows, draws, 3))
    both = np.concatenate([held_out[:, None], drawn], 1)
    log_density = -0.5 * (((both - mean[:, None] - shift) / spread) ** 2).sum(-1)
    low, high = held_out.min(0), held_out.max(0)
    found = places(
        held_out, drawn, log_density, rng.uniform(low, high, mean.shape), rng.uniform(size=(rows, 5)), high - low
    )
    return calibration_of(found, ("a", "b", "c"), draws, "exact")


def test_a_place_is_the_share_of_the_draws_below_denser_and_nearer() -> None:
    drawn = np.array([[[1.0, 50.0], [2.0, 60.0], [3.0, 70.0], [9.0, 80.0]]])
    log_density = np.array([[-2.0, -1.0, -3.0, -1.5, -1.9]])
    # From the point (0, 0), in columns divided by 1 and 100, the row is 2.55 away.
    found = places(
        np.array([[2.5, 50.0]]), drawn, log_density, np.zeros((1, 2)), np.full((1, 4), 0.5), np.array([1.0, 100.0])
    )
    np.testing.assert_allclose(found, (np.array([[2, 0, 3, 2]]) + 0.5) / 5)


def test_draws_of_the_truth_have_uniform_ranks_and_the_coverage_of_their_levels() -> None:
    right = normal(spread=1, shift=0)
    assert all(column.ks_p > 0.01 for column in right.columns)
    for curve in (right.highest_density, right.tarp):
        assert curve.ks_p > 0.01
        assert np.abs(np.subtract(curve.coverage, right.levels)).max() < right.band < 0.05
        assert abs(curve.area) < 3 * curve.area_stderr
    for column in right.columns:
        assert sum(column.counts) == right.rows == 1000
        assert all(right.counts_low <= count <= right.counts_high for count in column.counts)
        assert abs(column.mean - 0.5) < 3 * column.mean_stderr
        assert abs(column.central_half - 0.5) < 3 * column.central_half_stderr


@pytest.mark.parametrize(("spread", "sign"), [(0.7, -1), (1.4, 1)], ids=["too narrow", "too wide"])
def test_draws_that_spread_too_little_or_too_much_are_found_by_every_view_in_their_direction(
    spread: float, sign: int
) -> None:
    wrong = normal(spread, shift=0)
    for column in wrong.columns:
        assert column.ks_p < 1e-3
        assert sign * (column.central_half - 0.5) > 4 * column.central_half_stderr
        assert abs(column.mean - 0.5) < 4 * column.mean_stderr, "they are where they should be"
        ends = column.counts[0] + column.counts[-1]
        assert sign * (2 * wrong.counts_expected - ends) > 0
    for curve in (wrong.highest_density, wrong.tarp):
        assert curve.ks_p < 1e-3
        assert sign * curve.area > 4 * curve.area_stderr
        assert max(sign * np.subtract(curve.coverage, wrong.levels)) > wrong.band


@pytest.mark.parametrize("shift", [-0.8, 0.8])
def test_draws_in_the_wrong_place_are_found_with_the_side_that_they_are_on(shift: float) -> None:
    wrong = normal(spread=1, shift=shift)
    for column in wrong.columns:
        assert column.ks_p < 1e-6
        assert np.sign(0.5 - column.mean) == np.sign(shift)
    assert wrong.tarp.ks_p < 1e-3
    density = wrong.highest_density
    assert density.ks_p < 1e-3
    assert density.area < -4 * density.area_stderr, "too sure of where the rows are"


def test_a_curve_that_leaves_the_band_has_a_p_value_below_five_per_cent() -> None:
    even = (np.arange(200) + 0.5) / 200
    band = calibration_of(np.stack([even] * 3, 1), ("a",), 10, "exact").band
    for shrunk, outside in ((0.85 * band, False), (1.15 * band, True)):
        curve = calibration_of(np.stack([(1 - shrunk) * even] * 3, 1), ("a",), 10, "exact").tarp
        assert (curve.ks_p < 0.05) == outside


@pytest.mark.parametrize("draws", [1, 7, 100])
def test_places_are_uniform_whatever_the_number_of_draws(draws: int) -> None:
    assert min(column.ks_p for column in normal(1, 0, draws=draws).columns) > 0.01


@pytest.mark.parametrize(
    ("spread", "shift", "found"), [(1, 0, ""), (1.6, 0, "too sure"), (0.6, 0, "not sure enough"), (1, 0.7, "too low")]
)
def test_a_flow_is_measured_by_its_own_draws_and_densities(
    roots: Path, spread: float, shift: float, found: str
) -> None:
    write_rows(roots, spread, shift)
    calibration = measured(roots)
    assert calibration is not None
    assert (calibration.rows, calibration.draws, calibration.divergence) == (500, 100, "exact")
    x, y = calibration.columns
    assert (x.column, y.column) == ("x", "y")
    assert y.ks_p > 0.01, "nothing is wrong with this column"
    assert (x.ks_p < 1e-3) == (calibration.highest_density.ks_p < 0.01) == bool(found)
    half = (x.central_half - 0.5) / x.central_half_stderr
    assert (half > 3) == (found == "not sure enough")
    assert (half < -3) == (found in ("too sure", "too low"))
    assert ((x.mean - 0.5) / x.mean_stderr > 3) == (found == "too low")
    area = calibration.highest_density.area / calibration.highest_density.area_stderr
    assert (area < -2, area > 2) == (found in ("too sure", "too low"), found == "not sure enough")


class Swirl(nn.Module):
    """A field that depends on its context."""

    context_dim = 1

    def __init__(self) -> None:
        super().__init__()
        self.rate = nn.Parameter(torch.tensor(2.0))

    def forward(self, t: Tensor, y: Tensor, context: Tensor) -> Tensor:
        return context + torch.sin(self.rate * y.flip(-1) + context)


@pytest.mark.parametrize("exact_up_to", [8, 0])
def test_a_flow_is_calibrated_on_rows_that_it_drew_itself_whatever_its_divergence(
    roots: Path, monkeypatch: pytest.MonkeyPatch, exact_up_to: int
) -> None:
    monkeypatch.setattr(calibration, "_EXACT_UP_TO", exact_up_to)
    write_rows(roots, count=4000)
    own = rank_run(order(roots / "jobs", data=DATA), KeepingOutbox())
    data = load_data(own.spec.data)
    made = Flow(Block(Swirl(), divergence="hutchinson"), dim=2)
    context = torch.from_numpy(data.test.context).float()
    base = torch.randn(len(context), 2, generator=torch.Generator().manual_seed(1))
    rows = made.from_base(base, context).detach().double().numpy()
    least = []
    for contexts in (data.test.context, data.test.context[::-1]):
        given = replace(data, test=replace(data.test, raw=rows, context=contexts.copy()))
        found = measure_calibration(own, Evaluation(calibration_draws=30), made, given)
        assert found is not None
        assert found.divergence == ("exact" if exact_up_to else "hutchinson")
        curves = [found.highest_density, found.tarp, *found.columns]
        least.append(min(figure.ks_p for figure in curves))
    right, of_other_rows = least
    assert right > 0.01
    assert of_other_rows < 1e-4


def test_rows_and_draws_that_do_not_fit_into_a_piece_give_the_same_numbers(
    roots: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_rows(roots, count=400)
    few = {"calibration_rows": 20, "calibration_draws": 10}
    whole = measured(roots, **few)
    for piece in (6, 40):
        monkeypatch.setattr(calibration, "piece_rows", lambda *_, piece=piece: piece)
        assert measured(roots, **few) == whole


def test_a_stop_takes_effect_between_two_pieces(roots: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Outbox(KeepingOutbox):
        pieces = 0

        def raise_if_stopped(self) -> None:
            self.pieces += 1
            if self.pieces == 3:
                raise StopRequestedError(StopReason.CANCEL)

    monkeypatch.setattr(calibration, "piece_rows", lambda *_: 10)
    write_rows(roots, count=400)
    outbox = Outbox()
    with pytest.raises(AttemptFailedError) as stopped:
        measured(roots, outbox)
    assert stopped.value.failure.stop is StopReason.CANCEL
    assert outbox.pieces == 3


def test_too_few_rows_have_no_calibration_and_as_many_as_are_asked_for_are_taken(roots: Path) -> None:
    write_rows(roots, count=400)
    assert measured(roots, calibration_rows=FEWEST_ROWS - 1) is None
    few = measured(roots, calibration_rows=FEWEST_ROWS, calibration_draws=3)
    assert few is not None
    assert (few.rows, few.draws, len(few.columns[0].counts)) == (FEWEST_ROWS, 3, 2)


def test_of_very_many_columns_the_least_uniform_are_told() -> None:
    of_all = np.random.default_rng(0).uniform(size=(60, 302))
    of_all[:, 200] *= 0.5
    many = calibration_of(of_all, [f"x{n}" for n in range(300)], 10, "exact")
    assert (len(many.columns), many.columns_tested) == (100, 300)
    assert "x200" in [column.column for column in many.columns]


def test_a_calibration_that_cannot_be_made_costs_nothing_else(roots: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> Rows:
        raise RuntimeError("no places")

    monkeypatch.setattr(calibration, "places", fail)
    write_rows(roots, count=400)
    outcome, outbox = run(roots / "jobs", **STILL | {"stop": {"max_steps": 1}, "evaluation": QUICK})
    assert outcome is not None
    assert outcome.state == "succeeded"
    (failure,) = outcome.result.report_failures
    assert (failure.part, failure.reason) == ("calibration", "internal")
    assert "no places" in failure.message
    assert outcome.result.calibration is None
    assert outcome.result.test_rows == 40
    assert "weights.safetensors" in [artifact.name for artifact in outbox.of("artifact")]


@pytest.mark.parametrize(
    "changes",
    [{"evaluation": QUICK | {"calibration_rows": 0}}, {"data": SMALL["data"]}],
    ids=["turned off", "no context"],
)
def test_there_is_none_where_it_is_turned_off_or_the_flow_has_no_context(roots: Path, changes: dict[str, Any]) -> None:
    write_rows(roots, count=400)
    outcome, _ = run(roots / "jobs", **STILL | {"stop": {"max_steps": 1}, "evaluation": QUICK} | changes)
    assert outcome is not None
    assert outcome.state == "succeeded", outcome.message
    assert outcome.result.calibration is None


@pytest.mark.parametrize("columns", [1, 13])
def test_pictures_are_drawn_of_any_number_of_columns_and_names(columns: int) -> None:
    of_all = np.random.default_rng(0).uniform(size=(40, columns + 2))
    shown = calibration_of(of_all, [f"$x_{n}" for n in range(columns)], 10, "exact")
    for draw in (plots.draw_ranks, plots.draw_coverage):
        assert draw(shown, "title $1").startswith(b"\x89PNG")


def test_the_default_spec_asks_for_it() -> None:
    evaluation = JobSpec.model_validate({"data": DATA}).evaluation
    assert evaluation is not None
    assert evaluation.calibration_rows >= FEWEST_ROWS
