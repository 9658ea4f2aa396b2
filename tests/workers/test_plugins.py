"""The example of a field in a package of its own: trained, taken home, and missed where it is not installed."""

from __future__ import annotations

import inspect
import json
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import symadj_core
from symadj.service import plugins
from symadj.service.contract.spec import JobSpec
from symadj.workers.ray.reading import read_data
from symadj_core import LoadError
from symadj_core.errors import PluginError
from symadj_core.flows import Block, Exact, Flow
from symadj_core.flows.fields import plugin_field
from tests.workers.runs import SMALL, order, run

PACKAGE = "symadj-equivariant==0.1.0"
FIELD = {"kind": "plugin", "name": "equivariant", "options": {"kernels": 4}}


@pytest.fixture(scope="module")
def installed(equivariant: Path) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as path:
        path.syspath_prepend(equivariant)
        yield


def spec_of(folder: Path, columns: int = 6) -> dict[str, Any]:
    """A spec as the API stores it, of three particles in a plane, about 1 from each other."""
    random = np.random.default_rng(0)
    np.save(folder / "particles.npy", random.normal(size=(200, columns)))
    data = {"kind": "file", "path": str(folder / "particles.npy"), "batch_size": 32, "transforms": []}
    flow = {"blocks": 1, "field": FIELD, "divergence": {"kind": "exact"}}
    evaluation = {"mixture_components": 0, "inverse_rows": 0, "two_sample_rows": 0, "plots": False}
    small = SMALL | {"data": data, "flow": flow, "evaluation": evaluation, "stop": {"kind": "steps", "max_steps": 3}}
    return plugins.resolved(JobSpec.model_validate(small)).stored()


@pytest.fixture(scope="module")
def data_root(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("particles")
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("SYMADJ_DATA_ROOTS", str(folder))
        yield folder


@pytest.fixture(scope="module")
def trained(installed: None, data_root: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Path]:
    """The outcome of a job whose field is the example's, and the folder of its files."""
    store = tmp_path_factory.mktemp("store")
    outcome, _ = run(store, **spec_of(data_root))
    return outcome, store / "job-1" / "artifacts" / "1"


def test_it_trains_and_its_density_is_that_of_the_particles_turned_and_in_any_order(
    trained: tuple[Any, Path], data_root: Path
) -> None:
    outcome, folder = trained
    assert outcome.state == "succeeded", outcome.message
    assert outcome.result.test_solver.divergence == "exact"
    described = json.loads((folder / "config.json").read_text())["spec"]["flow"]["field"]
    assert (described["package"], described["options"]["particle_dim"]) == (PACKAGE, 2)
    assert f"safetensors and, for its field, {PACKAGE}\n" in (folder / "README.md").read_text()
    flow = symadj_core.load(folder)
    rows = torch.from_numpy(np.load(data_root / "particles.npy")[np.load(folder / "test_rows.npy")])
    scores = flow.log_prob(rows)
    assert float(-scores.mean()) == pytest.approx(outcome.result.test_nll_original_units, abs=1e-5)
    turn = torch.linalg.qr(torch.tensor([[0.6, 1.0], [-1.0, 0.3]], dtype=rows.dtype))[0]
    changed = (rows.view(-1, 3, 2)[:, [2, 0, 1]] @ turn).reshape(-1, 6)
    torch.testing.assert_close(flow.log_prob(changed), scores, rtol=1e-4, atol=1e-4)


def test_the_defaults_in_its_schema_are_those_of_its_class(installed: None) -> None:
    (offered,) = plugins.offered_fields()
    taken = inspect.signature(plugin_field("equivariant")).parameters
    described = offered.options["properties"]
    assert described.keys() == taken.keys() - {"dim", "context_dim"}
    assert {name: about["default"] for name, about in described.items()} == {n: taken[n].default for n in described}


def test_its_closed_divergence_and_the_gradient_are_those_by_autograd(installed: None) -> None:
    torch.manual_seed(0)
    field = plugin_field("equivariant", PACKAGE)(6, particle_dim=3, kernels=3)
    torch.nn.init.normal_(field.get_parameter("centring"))
    assert (field.knows_trace, field.has_cheap_trace) == (True, True)
    x = torch.randn(5, 6, dtype=torch.float64)

    def score() -> list[torch.Tensor]:
        flow = Flow([Block(field, divergence=Exact(), solver="rk4", controller=None)], 6).double()
        flow.zero_grad()
        log_prob = flow(x)
        log_prob.sum().backward()
        return [log_prob.detach(), *(p.grad.clone() for p in flow.parameters() if p.grad is not None)]

    closed = score()
    # A hook may change what forward does: then the divergence is taken by autograd.
    field.register_forward_hook(lambda *_: None)
    for mine, by_autograd in zip(closed, score(), strict=True):
        torch.testing.assert_close(mine, by_autograd)


def test_a_folder_whose_package_is_missing_says_which_one_to_install(
    trained: tuple[Any, Path], monkeypatch: pytest.MonkeyPatch, equivariant: Path, tmp_path: Path
) -> None:
    install(monkeypatch, instead_of=equivariant)
    with pytest.raises(LoadError, match=f"of the package {PACKAGE}, and no release .* here: pip install {PACKAGE}"):
        symadj_core.load(trained[1])
    install(monkeypatch, release("0.2.0", equivariant, tmp_path), instead_of=equivariant)
    with pytest.raises(LoadError, match=f"symadj-equivariant==0.2.0 is installed instead: pip install {PACKAGE}"):
        symadj_core.load(trained[1])


def test_a_run_on_a_node_without_the_package_fails_before_workers_are_placed_and_says_which(
    installed: None, data_root: Path, monkeypatch: pytest.MonkeyPatch, equivariant: Path, tmp_path: Path
) -> None:
    spec = spec_of(data_root)
    install(monkeypatch, instead_of=equivariant)
    _, refused = read_data(order(tmp_path, **spec))
    assert refused is not None
    assert refused.reason == "plugin_error"
    assert f"pip install {PACKAGE}" in refused.message
    outcome, _ = run(tmp_path, **spec)
    assert (outcome.state, outcome.reason) == ("failed", "plugin_error")
    assert f"pip install {PACKAGE}" in outcome.message


def test_rows_that_the_field_does_not_take_are_refused_before_workers_are_placed(
    installed: None, data_root: Path, tmp_path: Path
) -> None:
    _, refused = read_data(order(tmp_path, **spec_of(data_root, columns=5)))
    assert refused is not None
    assert refused.reason == "data_error"
    assert "5 columns are not particles of 2 coordinates" in refused.message


@pytest.mark.parametrize(
    ("module", "reason"),
    [
        ("raise OSError('no such library')", "broken==1.0 can't be imported: OSError: no such library"),
        ("Field = dict", "not a class derived from VectorField"),
    ],
)
def test_a_package_that_can_not_be_used_is_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, module: str, reason: str
) -> None:
    (tmp_path / f"{tmp_path.name}.py").write_text(module)
    (tmp_path / "broken-1.0.dist-info").mkdir()
    (tmp_path / "broken-1.0.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: broken\nVersion: 1.0\n")
    entry = f"[{plugins.GROUP}]\nbroken = {tmp_path.name}:Field\n"
    (tmp_path / "broken-1.0.dist-info" / "entry_points.txt").write_text(entry)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(PluginError, match=reason):
        plugin_field("broken")


def install(monkeypatch: pytest.MonkeyPatch, *packages: Path, instead_of: Path) -> None:
    """Let Python find packages in these folders and not in another one."""
    monkeypatch.setattr(sys, "path", [*map(str, packages), *(path for path in sys.path if path != str(instead_of))])


def release(version: str, packages: Path, folder: Path) -> Path:
    """The packages as another release of them."""
    copy = Path(shutil.copytree(packages, folder / version))
    (metadata,) = copy.glob("symadj_equivariant-*.dist-info/METADATA")
    metadata.write_text(metadata.read_text().replace("Version: 0.1.0", f"Version: {version}", 1))
    return copy
