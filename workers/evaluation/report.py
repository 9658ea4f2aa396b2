"""The evaluation of a trained flow: its measurements and pictures, and the ranks that make them."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from symadj.service.contract.result import Baselines, Calibration, EvaluationResult, TwoSampleTest
from symadj.service.contract.spec.evaluation import Evaluation
from symadj.service.contract.states import ReasonCode
from symadj.workers import plots
from symadj.workers.data import PreparedData
from symadj.workers.distributed.ranks import AttemptFailedError
from symadj.workers.evaluation.baselines import fit_baselines
from symadj.workers.evaluation.calibration import measure_calibration
from symadj.workers.evaluation.gradient_error import gradient_error
from symadj.workers.evaluation.interruptible import interruptible
from symadj.workers.evaluation.parts import ReportParts
from symadj.workers.evaluation.plane import density_over_plane
from symadj.workers.evaluation.samples import draw_samples
from symadj.workers.evaluation.scores import inverse_error, score_test_rows, tested_rows
from symadj.workers.evaluation.trajectories import accepted_steps, end_times, sample_trajectories
from symadj.workers.evaluation.two_sample import FEWEST_ROWS, two_sample_test
from symadj.workers.history import History
from symadj.workers.model.build import evaluation_flow
from symadj.workers.model.likelihood import HeldOut, on_device
from symadj.workers.plane_density import PlaneDensity
from symadj.workers.rank_run import RankRun
from symadj.workers.step_memory import StepMemory
from symadj.workers.validation import Validation
from symadj_core.flows import Flow

__all__ = ["Evaluator"]

Rows = NDArray[np.float64]
T = TypeVar("T")

_MOST_DRAWN = 5000
_CARRIED = 100  # rows whose trajectories are drawn
_POINTS_OF_PATH = 80
_IMAGES_CARRIED, _IMAGES_OF_PATH = 8, 9


class Evaluator:
    """Measures a trained flow on held-out rows; all ranks go through it side by side.

    Args:
        run: on this rank.
        evaluation: the spec's section.
        flow: with training's solver.
        data: prepared.
    """

    def __init__(self, run: RankRun, evaluation: Evaluation, flow: Flow, data: PreparedData) -> None:
        self.rank_run, self.evaluation, self.flow, self.data = run, evaluation, flow, data
        self.spec, self.ranks, self.outbox = run.spec, run.ranks, run.outbox
        self.parts = ReportParts(run)
        budget = run.spec.resources.memory_budget
        self.memory = StepMemory(run.ranks.device, run.ranks.rank, None if budget is None else int(budget))

    def run(self, step: int, history: History, validations: list[Validation]) -> EvaluationResult:
        """Return the evaluation's part of the job's result, and which parts could not be made.

        Args:
            step: that it follows.
            history, validations: of the training.

        Raises:
            AttemptFailedError: on all ranks, when the API asked to stop.
            PeerLostError: a rank died.
        """
        began = time.perf_counter()
        run, evaluation, data, ranks, parts = self.rank_run, self.evaluation, self.data, self.ranks, self.parts
        run.event("evaluation_started", "test likelihood, baselines and plots")
        score, density, inverse, gradient, calibration = None, None, None, None, None
        if evaluation.test:
            score = parts.shared(
                "test", lambda: self._measured(lambda: score_test_rows(run, evaluation, self.flow, data))
            )
        if score is not None:
            run.event(
                "test_scored",
                f"test NLL {score.test_nll:.4f} +- {score.test_nll_stderr:.4f} nats",
                nll=score.test_nll,
                stderr=score.test_nll_stderr,
            )
        score = score or EvaluationResult()
        if evaluation.inverse_rows:
            inverse = parts.shared(
                "inverse_error", lambda: inverse_error(run, evaluation.inverse_rows, self.flow, data)
            )
        if evaluation.gradient_rows:
            gradient = parts.shared(
                "gradient_error", lambda: gradient_error(run, evaluation.gradient_rows, self.flow, data)
            )
        if evaluation.calibration_rows and data.context_dim and data.shape is None:
            calibration = parts.shared(
                "calibration", lambda: self._measured(lambda: measure_calibration(run, evaluation, self.flow, data))
            )
        if evaluation.plots and data.dim == 2 and not data.context_dim:
            density = parts.shared("density.png", lambda: self._measured(self._density))
        self.memory.report(step, self.outbox)
        # Divided so that both take about as long: the first rank samples and draws while the last one fits.
        shares = ranks.gather(ranks.together(partial(self._share, density, calibration), phase="evaluation"))
        two_sample, baselines = shares[0][0], shares[-1][1]
        if evaluation.plots:
            parts.shared(
                "curve.png",
                lambda: run.on_rank_0(
                    lambda: self._draw_curve(history, validations, score.test_nll, baselines), phase="artifacts"
                ),
            )
        parts.exchange()
        return score.model_copy(
            update={
                "inverse_error": inverse,
                "gradient_error": gradient,
                "two_sample": two_sample,
                "calibration": calibration,
                "density_integral": None if density is None else density.integral,
                "density_integral_spread": None if density is None else density.integral_spread,
                "baselines": baselines,
                "report_failures": parts.failures or None,
                "evaluate_seconds": time.perf_counter() - began,
            }
        )

    def try_out(self) -> None:
        """Build what the test is solved with and score one row, before there is anything to lose.

        What can't be made for such data ends the run. What went wrong otherwise (a solver that is stuck) is an event:
        it may be right with other weights.

        Raises:
            AttemptFailedError: on all ranks, when the data do not allow it, or the API asked to stop.
        """
        if not self.evaluation.test:
            return

        def score_one_row() -> None:
            tested, _ = evaluation_flow(self.flow, self.spec, self.evaluation)
            row = on_device(self.data.test.head(1), tested, self.ranks.device)
            HeldOut(row, 1, self.spec.seed).nll(tested, self.outbox.raise_if_stopped)

        try:
            self.ranks.together(score_one_row, phase="setup")
        except AttemptFailedError as error:
            if error.failure.stop is not None or error.failure.reason is ReasonCode.DATA_ERROR:
                raise
            message = f"the test fails on its first row with the weights as they are now: {error.failure.message}"
            self.rank_run.event("evaluation_doubtful", message, reason=error.failure.reason, **error.failure.data)

    def _measured(self, part: Callable[[], T]) -> T:
        """Return what the flow is made to compute for a part, its memory measured."""
        with self.memory.phase("evaluation"):
            return part()

    def _density(self) -> PlaneDensity:
        def exact() -> Flow:
            tested, _ = evaluation_flow(self.flow, self.spec, self.evaluation)
            return tested.with_settings(divergence="exact")

        tested = self.ranks.together(exact, phase="evaluation")
        return density_over_plane(self.rank_run, tested, self.data.test.rows)

    def _share(
        self, density: PlaneDensity | None, calibration: Calibration | None
    ) -> tuple[TwoSampleTest | None, Baselines | None]:
        """Do the work of single ranks; return two-sample test and baselines, each on the rank that made it."""
        evaluation, data, ranks, parts = self.evaluation, self.data, self.ranks, self.parts
        two_sample, baselines = None, None
        if ranks.rank == 0:
            tried = min(evaluation.two_sample_rows, len(data.test))
            count = max(tried, min(_MOST_DRAWN, len(data.test)) if evaluation.plots else 0)
            samples = parts.alone("samples", lambda: self._samples(count)) if count else None
            if evaluation.plots and samples is not None:
                self._draw(samples[:_MOST_DRAWN], density)
            if evaluation.plots and calibration is not None:
                self._draw_calibration(calibration)
            if tried >= FEWEST_ROWS and samples is not None:
                compare = partial(self._two_sample, samples[:tried])
                two_sample = parts.alone("two_sample", lambda: interruptible(self.outbox, compare))
        if ranks.rank == ranks.size - 1 and evaluation.mixture_components:
            training, test = data.training, tested_rows(evaluation, data)
            fit = partial(
                fit_baselines,
                training.rows,
                test.rows,
                evaluation.mixture_components,
                self.spec.seed,
                self._threads,
                contexts=None if training.context is None or test.context is None else (training.context, test.context),
            )
            baselines = parts.alone("baselines", lambda: interruptible(self.outbox, fit))
        return two_sample, baselines

    def _two_sample(self, samples: Rows) -> TwoSampleTest:
        part = self.data.test.head(len(samples))
        rows = part.rows
        if part.context is not None:
            # The samples of a conditional flow have the rows' contexts: each must also suit its own.
            rows, samples = np.hstack([rows, part.context]), np.hstack([samples, part.context])
        return two_sample_test(rows, samples, self.spec.seed, self._threads)

    @property
    def _threads(self) -> int:
        return self.spec.resources.cpus_per_worker

    @property
    def _units(self) -> plots.Units:
        """The units on the axes of pictures of rows."""
        if self.evaluation.plot_units == "transformed":
            return plots.TRANSFORMED
        return plots.original(self.data.transforms, self.data.dim)

    def _samples(self, count: int) -> Rows:
        context = self.data.test.head(count).context
        return draw_samples(
            self.flow, count, self.spec.seed, self.spec.batch_size, self.outbox.raise_if_stopped, context
        )

    def _draw(self, samples: Rows, density: PlaneDensity | None) -> None:
        """Draw what needs samples."""
        name, data = self.spec.name, self.data
        rows = data.test.head(len(samples)).rows
        pictures: dict[str, Callable[[], None]] = {}
        if data.shape is not None:
            pictures["images.png"] = partial(self._draw_images, data.shape, rows[:64], samples[:64])
        else:
            title = f"{name}: test data and flow"
            pairs = partial(plots.draw_pairs, rows, samples, data.columns, title, self._units)
            pictures["pairs.png"] = partial(self._picture, "pairs.png", pairs)
            self.parts.alone("histograms.json", partial(self._store_histograms, rows))
        if density is not None:
            plane = partial(plots.draw_density, density, rows, samples, data.columns, name, self._units)
            pictures["density.png"] = partial(self._picture, "density.png", plane)
        pictures["trajectories.png"] = partial(self._draw_trajectories, rows)
        pictures["steps.png"] = self._draw_steps
        for picture, draw in pictures.items():
            self.parts.alone(picture, draw)

    def _store_histograms(self, rows: Rows) -> None:
        content = plots.histograms(rows, self.data.columns, self.data.original_units)
        self.rank_run.store("histograms.json", "application/json", content)

    def _draw_calibration(self, calibration: Calibration) -> None:
        title = f"{self.spec.name}: held-out rows among the flow's draws for their contexts"
        for picture, draw in (("ranks.png", plots.draw_ranks), ("coverage.png", plots.draw_coverage)):
            self.parts.alone(picture, partial(self._picture, picture, partial(draw, calibration, title)))

    def _draw_images(self, shape: tuple[int, int, int], rows: Rows, samples: Rows) -> None:
        raw, drawn = self.data.original_units(rows), self.data.original_units(samples)
        self._picture("images.png", partial(plots.draw_images, raw, drawn, shape, self.data.levels, self.spec.name))

    def _draw_trajectories(self, rows: Rows) -> None:
        data, seed, title = self.data, self.spec.seed, f"{self.spec.name}: from base to data"
        self.outbox.raise_if_stopped()
        if data.shape is not None:
            context = on_device(data.test.head(_IMAGES_CARRIED), self.flow, self.ranks.device).context
            count = min(_IMAGES_CARRIED, len(data.test))
            paths, times = sample_trajectories(self.flow, count, _IMAGES_OF_PATH, seed, context)
            raw = data.original_units(paths.reshape(-1, data.dim)).reshape(paths.shape)
            grey = plots.grey_range(data.original_units(rows), data.levels)
            self._picture("trajectories.png", partial(plots.draw_image_paths, raw, times, data.shape, grey, title))
        elif data.dim > 1:
            own = on_device(data.test.head(_CARRIED), self.flow, self.ranks.device)
            paths, _ = sample_trajectories(self.flow, len(own.x), _POINTS_OF_PATH, seed, own.context)
            draw = partial(plots.draw_trajectories, paths, rows, data.columns, title, self._units)
            self._picture("trajectories.png", draw)

    def _draw_steps(self) -> None:
        self.outbox.raise_if_stopped()
        tested, _ = evaluation_flow(self.flow, self.spec, self.evaluation)
        part = self.data.test.head(_CARRIED)
        steps = {
            name: accepted_steps(flow, on_device(part, flow, self.ranks.device))
            for name, flow in (("as in training", self.flow), ("as in testing", tested))
        }
        title = f"{self.spec.name}: steps of the solver for {len(part)} test rows"
        self._picture("steps.png", partial(plots.draw_steps, steps, end_times(self.flow), title))

    def _draw_curve(
        self, history: History, validations: list[Validation], nll: float | None, baselines: Baselines | None
    ) -> None:
        known: dict[str, float | None] = {}
        if baselines is not None:
            less = ", no context" if baselines.conditional else ""
            known["Gaussian, linear in the context"] = baselines.linear_gaussian
            known[f"Gaussian{less}"] = baselines.gaussian
            if (mixture := baselines.gaussian_mixture) is not None:
                known[f"{mixture.components} Gaussians{less}"] = mixture.test_nll
        lines = {name: value for name, value in known.items() if value is not None}
        self._picture("curve.png", partial(plots.draw_curve, history, validations, self.spec.name, nll, lines))

    def _picture(self, name: str, draw: Callable[[], bytes]) -> None:
        self.rank_run.store(name, "image/png", interruptible(self.outbox, draw))
