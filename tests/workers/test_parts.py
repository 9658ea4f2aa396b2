"""The smaller parts of a run, each by itself."""

from __future__ import annotations

import hashlib
import io
import os
import traceback
from pathlib import Path

import numpy as np
import pytest
import ray.exceptions
import torch
from PIL import Image
from ray.train import TrainingFailedError
from ray.train.v2._internal.exceptions import UserExceptionWithTraceback, WorkerGroupStartupTimeoutError
from ray.train.v2.api.exceptions import ControllerError, WorkerGroupError

from symadj.service.contract.states import ReasonCode
from symadj.workers.distributed.diagnosis import diagnose_rank
from symadj.workers.distributed.ranks import PeerLostError
from symadj.workers.evaluation.baselines import fit_baselines
from symadj.workers.files.artifacts import ArtifactFolder
from symadj.workers.history import History
from symadj.workers.plots import draw_curve, draw_pairs
from symadj.workers.ray import failures
from symadj.workers.step_memory import StepMemory
from symadj.workers.validation import Validation
from symadj_core.errors import SolverError, Status
from tests.workers.runs import KeepingOutbox, order


def test_an_artifact_appears_whole_with_its_digest_and_replaces_an_older_one(place: str) -> None:
    folder = ArtifactFolder(order(place))
    folder.write("config.json", "application/json", b"old")
    record = folder.write("config.json", "application/json", b"content")
    assert folder.storage.read(f"{folder.path}/config.json") == b"content"
    assert record.sha256 == hashlib.sha256(b"content").hexdigest()
    assert record.bytes == 7
    assert folder.storage.children(folder.path) == ["config.json"]


def test_an_artifact_that_cannot_be_written_leaves_nothing_behind(tmp_path: Path) -> None:
    folder = ArtifactFolder(order(tmp_path))
    path = tmp_path / folder.path
    (path / "weights").mkdir(parents=True)
    with pytest.raises(OSError, match="weights"):
        folder.write("weights", "application/octet-stream", b"content")
    assert os.listdir(path) == ["weights"]


def test_the_baselines_find_the_densities_that_made_the_data() -> None:
    rng = np.random.default_rng(0)
    rows = rng.standard_normal((4000, 2)) * 0.1 + rng.integers(2, size=(4000, 1)) * 4
    baselines = fit_baselines(rows[:3000], rows[3000:], components=2, seed=0, threads=1)
    entropy = np.log(2 * np.pi * np.e * 0.1**2) + np.log(2)
    assert baselines.gaussian_mixture is not None
    assert baselines.gaussian_mixture.components == 2
    assert baselines.gaussian_mixture.test_nll == pytest.approx(entropy, abs=0.1)
    assert baselines.gaussian > entropy + 1


def test_a_mixture_with_more_components_than_rows_has_no_figure() -> None:
    rows = np.random.default_rng(0).standard_normal((20, 1))
    baselines = fit_baselines(rows[:10], rows[10:], components=50, seed=0, threads=1)
    assert baselines.gaussian_mixture is not None
    assert (baselines.gaussian_mixture.components, baselines.gaussian_mixture.test_nll) == (50, None)
    assert np.isfinite(baselines.gaussian)


def test_a_singular_covariance_has_no_gaussian() -> None:
    rows = np.random.default_rng(0).integers(0, 9, (100, 2)) @ np.array([[1.0, 0, 1], [0, 1, 1]])
    assert fit_baselines(rows[:80], rows[80:], components=1, seed=0, threads=1).gaussian is None


def picture(content: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(content)).convert("RGB"))


@pytest.mark.parametrize("dim", [1, 2, 12])
def test_pairs_of_any_number_of_columns_are_drawn(dim: int) -> None:
    rows = np.random.default_rng(0).standard_normal((500, dim))
    image = picture(draw_pairs(rows, rows + 0.1, [f"c{i}" for i in range(dim)], "title"))
    assert image.std() > 1


def history_of(steps: int) -> History:
    history = History()
    for step in range(1, steps + 1):
        history.add({"loss": float(step), "nfe_forward": 10.0, "nfe_backward": 8.0}, None)
    return history


@pytest.mark.parametrize("steps", [1, 7, 5001])
def test_a_curve_of_any_length_is_drawn(steps: int) -> None:
    history = history_of(steps)
    validations = [Validation(steps, 2.1)]
    assert picture(draw_curve(history, [], "title", None, {})).std() > 1
    assert picture(draw_curve(history, validations, "title", 2.0, {"Gaussian": 3.0})).std() > 1


@pytest.mark.parametrize("steps", [1, 3999, 4000, 20_001])
def test_a_long_history_stays_short_and_true(steps: int) -> None:
    course = history_of(steps).course()
    assert len(course.steps) <= 4000
    # The loss of a step was its number.
    np.testing.assert_allclose(course.nll, course.steps)
    assert course.steps[-1] > steps - 16


def test_a_long_training_of_which_few_steps_were_measured_shows_their_memory() -> None:
    history = History()
    for step in range(8000):
        history.add({"loss": 1.0}, 2**20 if step % 32 == 0 else None)
    memory = history.course().memory_bytes
    assert set(memory[np.isfinite(memory)]) == {2**20}
    assert np.isfinite(memory).sum() == 8000 / 32


def test_of_short_steps_the_first_and_every_64th_are_measured_so_that_measuring_takes_little() -> None:
    memory, outbox = StepMemory(torch.device("cpu"), 0, budget=None), KeepingOutbox()
    for step in range(1, 71):
        memory.begin(short=True)
        with memory.phase("forward"):
            pass
        memory.report(step, outbox)
    assert [record.step for record in outbox.of("memory")] == [*range(1, 9), 65]
    memory.begin()
    with memory.phase("validation"):
        pass
    memory.report(70, outbox)
    assert outbox.of("memory")[-1].phase == "validation", "what follows a short step is measured"


def test_a_state_that_became_non_finite_is_diverged_and_other_solver_errors_are_stuck() -> None:
    place = {"t": 0.5, "dt": 0.1, "solver_step": 3}
    for status, reason in (
        (Status.NON_FINITE, ReasonCode.DIVERGED),
        (Status.UNDERFLOW_IN_DT, ReasonCode.SOLVER_STUCK),
        (Status.MAX_STEPS, ReasonCode.SOLVER_STUCK),
    ):
        failure = diagnose_rank(SolverError(status, t=0.5, dt=0.1, step=3), {"step": 7})
        assert failure.reason is reason
        assert failure.data.items() >= (place | {"step": 7, "solver_reason": status.value}).items()


def raised_by(work: object) -> Exception:
    try:
        work()  # type: ignore[operator]
    except Exception as error:
        return error
    raise AssertionError("nothing was raised")


def test_memory_that_cannot_be_had_is_out_of_memory() -> None:
    for error in (raised_by(lambda: torch.empty(2**60, dtype=torch.uint8)), MemoryError()):
        assert diagnose_rank(error, {}).reason is ReasonCode.OUT_OF_MEMORY


def test_an_unexpected_error_is_internal_with_its_trace() -> None:
    failure = diagnose_rank(raised_by(lambda: dict[str, int]()["missing"]), {})
    assert failure.reason is ReasonCode.INTERNAL
    assert "test_parts.py" in failure.data["traceback"]


def user_exception(error: Exception) -> UserExceptionWithTraceback:
    return UserExceptionWithTraceback(error, "".join(traceback.format_exception(error)))


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (WorkerGroupError("", {1: ray.exceptions.ActorDiedError()}), ReasonCode.WORKER_LOST),
        (WorkerGroupError("", {0: user_exception(PeerLostError("gone"))}), ReasonCode.WORKER_LOST),
        (WorkerGroupError("", {0: user_exception(KeyError("x"))}), ReasonCode.INTERNAL),
        (
            WorkerGroupError("", {0: user_exception(KeyError("x")), 1: user_exception(PeerLostError("gone"))}),
            ReasonCode.INTERNAL,
        ),
        (
            WorkerGroupError("", {0: ray.exceptions.ActorDiedError(), 1: user_exception(KeyError("x"))}),
            ReasonCode.WORKER_LOST,
        ),
        (
            WorkerGroupError(
                "", {0: user_exception(torch.OutOfMemoryError("full")), 1: user_exception(PeerLostError("gone"))}
            ),
            ReasonCode.OUT_OF_MEMORY,
        ),
        (WorkerGroupError("", {0: ray.exceptions.OutOfMemoryError("killed")}), ReasonCode.OUT_OF_MEMORY),
        (ControllerError(WorkerGroupStartupTimeoutError(4)), ReasonCode.CANNOT_FIT),
        (ray.exceptions.ActorDiedError(), ReasonCode.CLUSTER_LOST),
        (ConnectionError("no Ray at this address"), ReasonCode.CLUSTER_LOST),
        (TypeError("a fault of ours"), ReasonCode.INTERNAL),
        (TrainingFailedError("other"), ReasonCode.INTERNAL),
    ],
)
def test_what_ray_raises_is_told_by_reason(error: Exception, reason: ReasonCode) -> None:
    failure = failures.diagnose_attempt(error)
    assert failure.reason is reason
    assert "Traceback" not in failure.message
    assert "\n" not in failure.message
