"""The ready specs in recipes/: each is valid, and trains on small data of the layout that it asks for."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd
import pytest
import yaml
from pydantic import ValidationError

from symadj.service.contract.spec import JobSpec
from symadj.service.contract.spec.training import StopAfterSteps
from symadj.service.contract.spec.trial import TRIAL_LABEL, trial_of
from symadj.workers.model.build import build_flow, evaluation_flow
from tests.workers.runs import run

RECIPES = sorted((Path(__file__).parents[2] / "recipes").glob("*.yaml"))
ROWS = 600


def spec_of(recipe: Path) -> dict[str, Any]:
    spec: dict[str, Any] = yaml.safe_load(recipe.read_text())
    return spec


# Their like are among the others: the same model on fewer columns, or of another paper.
LARGE = {"otflow_bsds300", "rnode_mnist", "ffjord_bsds300"}


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda recipe: recipe.stem)
def test_a_recipe_is_a_valid_spec_named_after_its_file(recipe: Path) -> None:
    spec = JobSpec.model_validate(spec_of(recipe))
    assert spec.name.replace("-", "_").startswith(recipe.stem)


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda recipe: recipe.stem)
def test_a_recipe_is_tried_small_by_one_flag(recipe: Path) -> None:
    spec = JobSpec.model_validate(trial_of(spec_of(recipe)))
    whole = JobSpec.model_validate(spec_of(recipe))
    assert spec.stop == StopAfterSteps(max_steps=20)
    assert spec.pretraining is None or 0 < spec.pretraining.steps < 20
    assert spec.data.batch_size <= 64
    assert spec.evaluation is not None
    assert (spec.evaluation.test_rows, spec.evaluation.plots) == (100, False)
    assert spec.labels == whole.labels | dict([TRIAL_LABEL])
    kept = ("name", "seed", "flow", "solver", "gradient", "regularisers", "resources", "ema")
    assert [getattr(spec, part) for part in kept] == [getattr(whole, part) for part in kept]


@pytest.mark.parametrize(
    "changes",
    [{}, {"labels": {"a": "b"}, "resources": {"workers": 3}}, {"evaluation": None, "stop": {"max_steps": 5}}],
    ids=str,
)
def test_a_spec_is_tried_small_whatever_it_leaves_out(changes: dict[str, Any]) -> None:
    spec = JobSpec.model_validate(trial_of({"data": {"kind": "builtin", "name": "iris"}} | changes))
    assert spec.data.batch_size <= 64
    assert TRIAL_LABEL[0] in spec.labels


def test_a_file_is_tried_however_few_its_rows() -> None:
    spec = JobSpec.model_validate(trial_of({"data": {"kind": "file", "path": "few.csv"}}))
    assert spec.for_rows(20).batch_size == 20


@pytest.mark.parametrize("wrong", [{"data": 3}, {"data": {"kind": "toy"}, "labels": 1, "resources": {"workers": "x"}}])
def test_what_is_wrong_with_a_spec_is_wrong_with_its_trial(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        JobSpec.model_validate(trial_of(wrong))


@pytest.mark.parametrize(
    ("name", "dim", "layers", "factor", "blocks", "batch"),
    [
        ("power", 6, 3, 10, 5, 10_000),
        ("gas", 8, 3, 20, 5, 1_000),
        ("hepmass", 21, 2, 10, 10, 10_000),
        ("miniboone", 43, 2, 20, 1, 1_000),
        ("bsds300", 63, 3, 20, 2, 10_000),
    ],
)
def test_ffjords_recipes_have_the_published_sizes(
    name: str, dim: int, layers: int, factor: int, blocks: int, batch: int
) -> None:
    spec = spec_of(RECIPES[0].with_name(f"ffjord_{name}.yaml"))
    assert spec["flow"]["field"]["hidden"] == [factor * dim] * layers
    assert spec["flow"]["blocks"] == blocks
    assert spec["data"]["batch_size"] == batch


@pytest.mark.parametrize(
    ("name", "of_nll", "of_hjb", "width", "rate", "batch", "steps", "test_steps"),
    [
        ("power", 500, 5, 128, 0.03, 10_000, 10, 24),
        ("gas", 1200, 40, 350, 0.01, 2_000, 10, 30),
        ("hepmass", 500, 40, 256, 0.02, 2_000, 12, 24),
        ("miniboone", 100, 15, 256, 0.02, 2_000, 6, 18),
        ("bsds300", 2000, 800, 512, 0.001, 300, 14, 40),
    ],
)
def test_ot_flows_recipes_have_the_published_settings(
    name: str, of_nll: int, of_hjb: int, width: int, rate: float, batch: int, steps: int, test_steps: int
) -> None:
    spec = JobSpec.model_validate(spec_of(RECIPES[0].with_name(f"otflow_{name}.yaml")))
    weights = {regulariser.kind: regulariser.weight for regulariser in spec.regularisers}
    assert weights == pytest.approx({"transport": 1 / of_nll, "hjb": of_hjb / of_nll}, rel=1e-5)
    assert spec.flow.field.width == width
    assert spec.data.batch_size == batch
    assert spec.optimizer.learning_rate == rate
    assert spec.solver.steps == steps
    assert spec.evaluation is not None
    flow = build_flow(spec, 6)
    _, how = evaluation_flow(flow, spec, spec.evaluation)
    assert how.steps == test_steps


def write_maf(folder: Path, name: str) -> None:
    """Write a few rows of the published layout, of the published width."""
    rng = np.random.default_rng(0)
    folder.mkdir(parents=True)
    match name:
        case "power":
            np.save(folder / "data.npy", rng.normal(size=(ROWS, 8)))
        case "miniboone":
            np.save(folder / "data.npy", rng.normal(size=(ROWS, 43)))
        case "gas":
            names = ["Meth", "Eth", "Time", *(f"R{n}" for n in range(8))]
            pd.DataFrame(rng.normal(size=(ROWS, 11)), columns=names).to_parquet(folder / "ethylene_CO.parquet")
        case "hepmass":
            for file, more in (("1000_train.csv", []), ("1000_test.csv", ["mass"])):
                names = ["# label", *(f"f{n}" for n in range(21)), *more]
                frame = pd.DataFrame(rng.normal(size=(ROWS, len(names))), columns=names)
                frame["# label"] = np.arange(ROWS) % 2
                frame.to_csv(folder / file, index=False)
        case "bsds300":
            with h5py.File(folder / "BSDS300.hdf5", "w") as file:
                for part in ("train", "validation", "test"):
                    file[part] = 0.1 * rng.normal(size=(ROWS // 3, 63))


def write_images(path: Path, rows: int) -> None:
    """Write grey images of 28 x 28 pixels as MNIST's files are."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(0).integers(256, size=(rows, 28, 28), dtype=np.uint8)
    header = b"\0\0\x08\x03" + b"".join(n.to_bytes(4, "big") for n in pixels.shape)
    with gzip.open(path, "wb") as file:
        file.write(header + pixels.tobytes())


@pytest.mark.parametrize(
    "recipe",
    [pytest.param(recipe, marks=[pytest.mark.slow] if recipe.stem in LARGE else []) for recipe in RECIPES],
    ids=lambda recipe: recipe.stem,
)
def test_a_recipe_trains_a_few_steps_on_data_of_its_layout(
    recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SYMADJ_DATA_ROOTS", str(tmp_path))
    spec = spec_of(recipe)
    if spec["data"]["kind"] == "maf":
        write_maf(tmp_path / spec["data"]["path"], spec["data"]["name"])
    if spec["data"]["kind"] == "file":
        write_images(tmp_path / spec["data"]["path"], 80)
        write_images(tmp_path / spec["data"]["test_path"], 20)
    spec["data"]["batch_size"] = 10
    spec["stop"]["max_steps"] = 3
    if "pretraining" in spec:
        spec["pretraining"] |= {"steps": 1, "schedule": {"kind": "constant"}}
    spec["optimizer"]["schedule"].pop("warmup_steps", None)
    spec["resources"] = {"kind": "cpu", "workers": 1}
    spec["evaluation"] |= {"validate_every_steps": 2, "validation_rows": 4, "test_rows": 4, "inverse_rows": 4}
    spec["evaluation"] |= {"mixture_components": 0, "two_sample_rows": 0, "plots": False}
    # The models are for GPUs, and the tolerances for hours.
    if spec["flow"]["kind"] == "multiscale":
        spec["flow"] |= {"hidden_channels": [4, 4], "blocks": 1}
    if spec["solver"]["kind"] == "adaptive":
        spec["solver"] |= {"rtol": 1e-2, "atol": 1e-2}

    outcome, outbox = run(tmp_path / "jobs", **spec)

    assert outcome is not None
    assert outcome.state == "succeeded", outcome
    assert np.isfinite(outcome.result.test_nll)
    assert len(outbox.series("loss")) + len(outbox.series("flow_matching_loss")) == 3
    for regulariser in spec.get("regularisers", []):
        assert len(outbox.series(regulariser["kind"])) == 3
