"""What is measured after training, part by part and in whole runs."""

from __future__ import annotations

import json
import math
import threading
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure

from symadj.service.contract.spec import JobSpec
from symadj.service.contract.spec.evaluation import Evaluation
from symadj.service.contract.states import StopReason
from symadj.workers.evaluation import report
from symadj.workers.evaluation.baselines import fit_baselines
from symadj.workers.evaluation.interruptible import interruptible
from symadj.workers.evaluation.plane import density_over_plane
from symadj.workers.evaluation.samples import draw_samples
from symadj.workers.evaluation.trajectories import accepted_steps, sample_trajectories
from symadj.workers.model.build import build_flow, evaluation_flow
from symadj.workers.model.likelihood import DeviceRows
from symadj.workers.outcome import StopRequestedError
from symadj.workers.plane_density import PlaneDensity
from symadj.workers.plots import draw_density, histograms
from symadj_core.gradients import GRADIENTS
from tests.workers.loading import load_data
from tests.workers.runs import SMALL, KeepingOutbox, order, rank_run, run

WITHOUT_PLOTS = {"validate_every_steps": None, "mixture_components": 0, "plots": False}


def test_work_is_given_up_where_the_user_wants_the_job_to_stop() -> None:
    class AskedError(Exception):
        pass

    class Outbox(KeepingOutbox):
        def raise_if_stopped(self) -> None:
            if working.is_set():
                raise AskedError

    working, released = threading.Event(), threading.Event()

    def work() -> bool:
        working.set()
        return released.wait(60)

    with pytest.raises(AskedError):
        interruptible(Outbox(), work)
    assert not released.is_set()
    released.set()
    assert interruptible(KeepingOutbox(), lambda: "done") == "done"
    with pytest.raises(ZeroDivisionError):
        interruptible(KeepingOutbox(), lambda: 1 / 0)


@pytest.mark.parametrize("slow", ["fit_baselines", "two_sample_test"])
def test_a_run_stops_while_baselines_are_fitted_or_samples_classified(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, slow: str
) -> None:
    working, released = threading.Event(), threading.Event()

    def work(*_: Any, **__: Any) -> None:
        working.set()
        released.wait(60)

    class Outbox(KeepingOutbox):
        def raise_if_stopped(self) -> None:
            if working.is_set():
                raise StopRequestedError(StopReason.CANCEL)

    monkeypatch.setattr(report, slow, work)
    outcome, _ = run(tmp_path, Outbox())
    assert not released.is_set()
    released.set()
    assert outcome is not None
    assert outcome.state == "cancelled"


def test_the_spread_of_the_integral_tells_a_density_that_slips_through_the_grid() -> None:
    x = np.linspace(-7, 7, 240)
    for width, resolved in ((1.0, True), (0.02, False)):
        peak = np.exp(-0.5 * ((x[:, None] - 0.01) ** 2 + x[None, :] ** 2) / width**2) / (2 * math.pi * width**2)
        density = PlaneDensity(x, x, peak)
        assert (abs(density.integral - 1) < 1e-9) == resolved
        assert (density.integral_spread < 1e-3 * density.integral) == resolved


def test_the_density_of_an_untrained_flow_integrates_to_one_and_is_drawn(tmp_path: Path) -> None:
    spec = JobSpec.model_validate(SMALL)
    assert spec.evaluation is not None
    flow, _ = evaluation_flow(build_flow(spec, 2), spec, spec.evaluation)
    rows = 1.5 * np.random.default_rng(0).standard_normal((1000, 2))
    density = density_over_plane(rank_run(order(tmp_path), KeepingOutbox()), flow, rows)
    assert density.integral == pytest.approx(1.0, abs=1e-3)
    assert density.integral_spread < 1e-3
    assert draw_density(density, rows, rows, ("x", "y"), "title").startswith(b"\x89PNG")


def test_the_gap_is_what_the_loose_tolerance_costs_and_the_flow_nearly_inverts_itself(tmp_path: Path) -> None:
    results = []
    for steps in (2, 40):
        outcome, _ = run(
            tmp_path / str(steps),
            solver={"kind": "fixed", "method": "euler", "steps": steps},
            stop={"kind": "steps", "max_steps": 30},
            evaluation=WITHOUT_PLOTS | {"inverse_rows": 30, "two_sample_rows": 0},
        )
        assert outcome is not None
        results.append(outcome.result)
    loose, tight = results
    for result in results:
        assert result.test_nll_training_tolerance == pytest.approx(result.test_nll + result.test_nll_gap)
        assert result.inverse_error.rows == 30
        assert result.inverse_error.max >= result.inverse_error.rms > 0
        assert result.two_sample is None
        assert result.test_bits_per_dim is result.test_bits_per_dim_stderr is None
        # Standardised columns: the same change of units for every row.
        assert result.test_nll_original_units_stderr == pytest.approx(result.test_nll_stderr)
    assert abs(tight.test_nll_gap) < abs(loose.test_nll_gap)
    assert tight.test_nll_gap_stderr < tight.test_nll_stderr
    assert 5 * tight.inverse_error.rms < loose.inverse_error.rms


def test_a_flow_that_moves_nothing_has_the_figures_of_its_base(tmp_path: Path) -> None:
    outcome, _ = run(
        tmp_path,
        flow={"kind": "cnf", "blocks": 2, "field": {"hidden": [8], "zero_init": True}},
        optimizer={"kind": "adam", "learning_rate": 1e-12},
        stop={"kind": "steps", "max_steps": 1},
        evaluation=WITHOUT_PLOTS | {"two_sample_rows": 0},
    )
    assert outcome is not None
    result = outcome.result
    rows = load_data(JobSpec.model_validate(SMALL).data).test.rows
    nlls = 0.5 * (rows**2).sum(1) + math.log(2 * math.pi)
    assert result.test_nll == pytest.approx(nlls.mean(), abs=1e-5)
    assert result.test_nll_stderr == pytest.approx(nlls.std(ddof=1) / math.sqrt(len(nlls)), rel=1e-4)
    assert result.test_nll_gap == pytest.approx(0, abs=1e-6)
    assert result.inverse_error.max == pytest.approx(0, abs=1e-6)
    assert result.test_rows == len(rows)


def test_the_steps_drawn_are_those_of_the_solve_and_paths_end_where_samples_do() -> None:
    spec = JobSpec.model_validate(SMALL | {"flow": {"kind": "cnf", "blocks": 2, "field": {"hidden": [8]}}})
    flow = build_flow(spec, 2)
    with torch.no_grad():
        for parameter in flow.parameters():
            parameter.mul_(8)  # steep enough for steps that are rejected
    rows = DeviceRows(torch.randn(50, 2, generator=torch.Generator().manual_seed(0)), torch.arange(50), None)
    starts, sizes = accepted_steps(flow, rows)
    with torch.no_grad():
        flow.to_base(rows.x)
    assert flow.last_stats.rejected > 0
    assert len(sizes) == flow.last_stats.accepted
    np.testing.assert_allclose(starts[1:], (starts + sizes)[:-1], atol=1e-6)
    assert (starts[0], starts[-1] + sizes[-1]) == (0, pytest.approx(2))
    paths, times = sample_trajectories(flow, count=5, times=4, seed=0, context=None)
    assert times == pytest.approx([2, 4 / 3, 2 / 3, 0])
    with torch.no_grad():
        ends = flow.from_base(torch.from_numpy(paths[0]).float())
    np.testing.assert_allclose(paths[-1], ends.numpy(), atol=0.05)


def test_an_estimated_divergence_and_fewer_rows_can_be_asked_for_in_the_test(tmp_path: Path) -> None:
    scores = []
    for name, divergence in (("exact", {"kind": "exact"}), ("estimate", {"kind": "hutchinson", "probes": 2})):
        evaluation = WITHOUT_PLOTS | {"divergence": divergence, "test_rows": 30, "inverse_rows": 0}
        outcome, _ = run(tmp_path / name, evaluation=evaluation)
        assert outcome is not None
        scores.append(outcome.result)
    exact, estimate = scores
    assert [score.test_solver.divergence for score in scores] == ["exact", "hutchinson"]
    assert exact.test_rows == estimate.test_rows == 30
    assert exact.baselines == estimate.baselines is None
    assert estimate.test_nll != exact.test_nll
    assert estimate.test_nll == pytest.approx(exact.test_nll, abs=5 * estimate.test_nll_stderr)


def test_the_baselines_are_tested_on_the_same_rows_and_contexts_as_the_flow(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SYMADJ_DATA_ROOTS", str(tmp_path))
    rows = np.random.default_rng(0).normal(size=(200, 3))
    np.savetxt(tmp_path / "x.csv", rows, delimiter=",", header="a,b,c", comments="")
    of_file = {"kind": "file", "path": "x.csv", "columns": ["a", "b"], "context_columns": ["c"], "batch_size": 50}
    few = WITHOUT_PLOTS | {"test_rows": 10, "mixture_components": 1, "inverse_rows": 0, "two_sample_rows": 0}
    outcome, _ = run(tmp_path, data=of_file, evaluation=few | {"calibration_rows": 0})
    assert outcome is not None
    data = load_data(JobSpec.model_validate(SMALL | {"data": of_file}).data)
    training, contexts = data.training.rows, (data.training.context, data.test.context[:10])
    expected = fit_baselines(training, data.test.rows[:10], components=1, seed=0, threads=1, contexts=contexts)
    assert outcome.result.baselines == expected


def test_figures_in_original_units_have_their_own_standard_error(tmp_path: Path) -> None:
    """The logit's Jacobian differs from row to row, and is a large part of what a row costs."""
    outcome, _ = run(
        tmp_path,
        data={
            "kind": "builtin",
            "name": "digits",
            "batch_size": 100,
            "transforms": [{"kind": "dequantise", "levels": 17}, {"kind": "logit", "alpha": 0.01}],
        },
        stop={"kind": "steps", "max_steps": 1},
        evaluation=WITHOUT_PLOTS | {"two_sample_rows": 0, "inverse_rows": 0},
    )
    assert outcome is not None
    result = outcome.result
    bits = 64 * math.log(2)
    assert result.test_bits_per_dim_stderr == pytest.approx(result.test_nll_original_units_stderr / bits)
    assert abs(result.test_nll_original_units_stderr - result.test_nll_stderr) > 0.1 * result.test_nll_stderr


def test_dequantised_data_have_bits_per_dim(tmp_path: Path) -> None:
    outcome, outbox = run(
        tmp_path,
        data={"kind": "builtin", "name": "digits", "batch_size": 100},
        stop={"kind": "steps", "max_steps": 2},
        evaluation=WITHOUT_PLOTS | {"two_sample_rows": 60, "inverse_rows": 0, "plots": True},
    )
    assert outcome is not None
    assert outcome.state == "succeeded", outcome
    result = outcome.result
    assert result.test_bits_per_dim == pytest.approx(result.test_nll_original_units / (64 * math.log(2)))
    # An untrained flow is no better than coding 17 levels by a fixed length, and not absurdly worse.
    assert 1 < result.test_bits_per_dim < 8
    assert result.two_sample.rows == 30
    assert result.inverse_error is None
    assert result.density_integral is None
    drawn = {a.name for a in outbox.of("artifact") if a.media_type == "image/png"}
    assert drawn == {"curve.png", "images.png", "trajectories.png", "steps.png"}


def test_a_run_in_the_plane_tells_the_integral_of_its_density_and_draws_it(tmp_path: Path) -> None:
    outcome, outbox = run(tmp_path, evaluation={"mixture_components": 2, "two_sample_rows": 40})
    assert outcome is not None
    assert outcome.state == "succeeded", outcome
    assert outcome.result.density_integral == pytest.approx(1.0, abs=1e-3)
    assert outcome.result.density_integral_spread < 1e-3
    assert {a.name for a in outbox.of("artifact")} >= {
        "curve.png",
        "pairs.png",
        "density.png",
        "trajectories.png",
        "steps.png",
    }
    (file,) = tmp_path.rglob("histograms.json")
    found = json.loads(file.read_text())
    assert found["columns"] == ["x", "y"]
    assert 0.95 * found["rows"] <= sum(found["counts"][0]) <= found["rows"]


def test_histograms_count_rows_by_column_and_pair_in_the_units_of_the_data() -> None:
    rows = np.random.default_rng(0).normal(size=(200, 3))
    found = json.loads(histograms(rows, ("x", "y", "z"), lambda placed: 500 * np.sinh(placed)))
    assert (found["rows"], found["columns"]) == (200, ["x", "y", "z"])
    for column, (edges, counts) in enumerate(zip(found["edges"], found["counts"], strict=True)):
        raw = 500 * np.sinh(rows[:, column])
        np.testing.assert_array_equal(counts, np.histogram(raw, edges)[0])
        widths = np.diff(np.arcsinh(np.array(edges) / 500))
        np.testing.assert_allclose(widths, widths[0])
        assert sum(counts) >= 198, "all but outliers"
    assert [pair["columns"] for pair in found["pairs"]] == [[0, 1], [0, 2], [1, 2]]
    for pair in found["pairs"]:
        raw = 500 * np.sinh(rows[:, pair["columns"]])
        edges = [found["edges"][column] for column in pair["columns"]]
        np.testing.assert_array_equal(pair["counts"], np.histogram2d(*raw.T, bins=edges)[0])


def test_the_samples_do_not_depend_on_what_was_drawn_before() -> None:
    def on() -> None:
        """Go on."""

    spec = JobSpec.model_validate(SMALL)
    flow = build_flow(spec, load_data(spec.data).dim)
    first = draw_samples(flow, 20, seed=3, piece=8, before_piece=on)
    torch.rand(5)
    np.testing.assert_array_equal(draw_samples(flow, 20, seed=3, piece=8, before_piece=on), first)
    assert not np.array_equal(draw_samples(flow, 20, seed=4, piece=8, before_piece=on), first)


def test_a_conditional_flow_is_trained_and_evaluated_with_the_contexts_of_its_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SYMADJ_DATA_ROOTS", str(tmp_path))
    rng = np.random.default_rng(0)
    side = rng.integers(2, size=1000)
    rows = rng.standard_normal((1000, 2)) * 0.3 + np.where(side, 3, -3)[:, None]
    lines = [f"{x},{y},{c}" for (x, y), c in zip(rows, side, strict=True)]
    (tmp_path / "sides.csv").write_text("\n".join(["x,y,side", *lines]))
    outcome, outbox = run(
        tmp_path,
        data={
            "kind": "file",
            "path": "sides.csv",
            "columns": ["x", "y"],
            "context_columns": ["side"],
            "batch_size": 100,
        },
        pretraining={"steps": 20},
        ema={},
        stop={"kind": "steps", "max_steps": 60},
        evaluation={"mixture_components": 1, "two_sample_rows": 100, "calibration_draws": 20},
    )
    assert outcome is not None
    assert outcome.state == "succeeded", outcome
    result = outcome.result
    assert result.test_nll < result.baselines.gaussian + 1
    assert result.density_integral is None, "there is a density for each context"
    assert result.inverse_error.max < 0.1
    assert (result.calibration.rows, result.calibration.draws) == (100, 20)
    drawn = {a.name for a in outbox.of("artifact") if a.media_type == "image/png"}
    assert drawn == {"curve.png", "pairs.png", "trajectories.png", "steps.png", "ranks.png", "coverage.png"}


@pytest.mark.parametrize("units", get_args(Evaluation.model_fields["plot_units"].annotation))
def test_every_picture_of_rows_says_its_units_and_the_default_is_the_units_of_the_data(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, units: str
) -> None:
    figures: list[Figure] = []
    save = Figure.savefig

    def keep(figure: Figure, *arguments: Any, **options: Any) -> None:
        figures.append(figure)
        save(figure, *arguments, **options)

    monkeypatch.setattr(Figure, "savefig", keep)
    monkeypatch.setenv("SYMADJ_DATA_ROOTS", str(tmp_path))
    np.save(tmp_path / "x.npy", 1e5 + 1000 * np.random.default_rng(0).normal(size=(400, 2)))
    given = {} if units == "original" else {"plot_units": units}
    outcome, outbox = run(
        tmp_path / "jobs",
        data={"kind": "file", "path": "x.npy", "batch_size": 32},
        stop={"kind": "steps", "max_steps": 2},
        evaluation={"mixture_components": 0, "two_sample_rows": 0, "inverse_rows": 0, **given},
    )
    assert outcome is not None
    assert outcome.state == "succeeded", outcome
    names = [artifact.name for artifact in outbox.of("artifact") if artifact.media_type == "image/png"]
    of = dict(zip(names, figures, strict=True))
    for name in ("pairs.png", "density.png", "trajectories.png"):
        figure = of.pop(name)
        said = figure.get_supxlabel() or figure.legends[0].get_title().get_text()
        assert ("units of the data" in said, "transformed units" in said) == (units == "original", units != "original")
        low, high = figure.axes[1 if name == "pairs.png" else 0].get_ylim()
        assert (low > 9e4) == (high > 1e5) == (units == "original"), name
    assert "after the transforms" in of.pop("curve.png").axes[0].get_ylabel()
    assert of.keys() == {"steps.png"}, "a picture whose axes have units of rows is looked at above"


@pytest.mark.parametrize("kind", GRADIENTS)
def test_the_error_of_a_gradient_is_rounding_if_it_is_exact_and_the_tolerance_if_not(kind: str, tmp_path: Path) -> None:
    outcome, _ = run(
        tmp_path,
        flow={"kind": "cnf", "dtype": "float64", "field": {"hidden": [8]}},
        gradient={"kind": kind},
        evaluation=WITHOUT_PLOTS | {"test": False, "inverse_rows": 0, "two_sample_rows": 0, "gradient_rows": 20},
    )
    assert outcome is not None
    error = outcome.result.gradient_error
    assert error.rows == 20
    if kind == "adjoint":
        assert 1e-6 < error.relative < 1
    else:
        assert error.relative < 1e-11
