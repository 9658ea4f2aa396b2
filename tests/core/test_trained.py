"""Trained flows taken home: rows, contexts and shapes in the units of the data, and files that are no flow."""

from __future__ import annotations

import io
import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import safetensors.torch
import torch
from torch.distributions import (
    Categorical,
    Independent,
    MixtureSameFamily,
    Normal,
    TransformedDistribution,
    biject_to,
    kl_divergence,
)
from torch.distributions.transforms import AffineTransform

import symadj_core
from symadj_core import LoadError, TrainedFlow
from symadj_core.trained import DataSpace, as_tested, build_flow, estimate_kl
from symadj_core.trained.build import USUAL_EVALUATION
from symadj_core.transforms import restore_transforms

MLP = {"kind": "mlp", "hidden": [8], "time": "concatsquash", "activation": "tanh", "zero_init": False}
FLOW: dict[str, Any] = {
    "kind": "cnf",
    "blocks": 2,
    "field": MLP,
    "divergence": {"kind": "hutchinson", "distribution": "rademacher", "probes": 1},
    "end_time": 1.0,
    "learn_end_time": False,
    "dtype": "float32",
    "field_dtype": None,
}
SOLVER: dict[str, Any] = {"kind": "adaptive", "method": "dopri5", "rtol": 1e-5, "atol": 1e-6, "max_steps": 1000}
STANDARDISE = {"kind": "standardise", "mean": [1e6, -3.0], "std": [100.0, 0.5]}
ARCSINH = {"kind": "arcsinh", "scale": 150.0, "columns": [0]}
OF_CONTEXT = {"kind": "standardise", "mean": [40.0], "std": [12.0]}


def config(**changes: Any) -> dict[str, Any]:
    """`config.json` of a run on two columns, with some entries replaced."""
    spec = {"flow": FLOW, "solver": SOLVER, "seed": 3, "evaluation": USUAL_EVALUATION}
    spec |= {"data": {"batch_size": 100, "split_seed": 5}}
    described = {"format": 1, "columns": ["fsc", "ssc"], "transforms": [STANDARDISE], "context_columns": []}
    return described | {"context_transform": None, "shape": None, "levels": None, "spec": spec} | changes


def folder(path: Path, described: dict[str, Any]) -> Path:
    """A folder as `symadj download` writes it."""
    shape = described["shape"]
    flow = build_flow(
        described["spec"]["flow"], SOLVER, len(described["columns"]), len(described["context_columns"]), shape, seed=1
    )
    path.mkdir()
    (path / "config.json").write_text(json.dumps(described))
    safetensors.torch.save_file(flow.state_dict(), path / "weights.safetensors")
    return path


CONDITIONAL = config(context_columns=["age"], context_transform=OF_CONTEXT)
IMAGES = config(
    columns=[f"pixel_{n}" for n in range(32)],
    shape=[2, 4, 4],
    levels=16,
    transforms=[{"kind": "dequantise", "levels": 16}, {"kind": "logit", "alpha": 0.05}],
)


@pytest.fixture
def flow(tmp_path: Path) -> TrainedFlow:
    return symadj_core.load(folder(tmp_path / "out", config()))


@pytest.fixture
def conditional(tmp_path: Path) -> TrainedFlow:
    return symadj_core.load(folder(tmp_path / "out", CONDITIONAL))


@pytest.fixture
def images(tmp_path: Path) -> TrainedFlow:
    return symadj_core.load(folder(tmp_path / "out", IMAGES))


def rows(count: int = 6) -> torch.Tensor:
    noise = torch.randn(count, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    return noise * torch.tensor([100.0, 0.5]) + torch.tensor([1e6, -3.0])


def test_the_density_is_one_per_unit_of_the_data(tmp_path: Path) -> None:
    transforms = restore_transforms([ARCSINH, STANDARDISE | {"mean": [9.0, 0.0]}])
    described = config(transforms=[transform.parameters() for transform in transforms])
    flow = symadj_core.load(folder(tmp_path / "out", described)).with_settings(rtol=1e-10, atol=1e-10)
    x = rows()[:1].requires_grad_()
    # log p(x) = log N(z; 0, I) + log |det dz/dx|, the determinant by autograd through all of it.
    flow = flow.with_settings(gradient="backprop")
    jacobian = torch.autograd.functional.jacobian(lambda given: flow.to_base(given)[0], x)[:, 0]
    z = flow.to_base(x)[0]
    expected = Normal(0.0, 1.0).log_prob(z).sum() + torch.linalg.slogdet(jacobian)[1]
    torch.testing.assert_close(flow.log_prob(x)[0], expected, rtol=1e-7, atol=0)


def test_rows_come_as_tensors_arrays_lists_and_by_the_names_of_columns_in_any_order(flow: TrainedFlow) -> None:
    x = rows()
    expected = flow.log_prob(x)
    named = {"ssc": x[:, 1].numpy(), "unknown": np.zeros(6), "fsc": x[:, 0].numpy()}
    structured = np.zeros(6, dtype=[("ssc", "f8"), ("fsc", "f8")])
    structured["ssc"], structured["fsc"] = x[:, 1], x[:, 0]
    for given in (x.numpy(), x.tolist(), named, structured, pa.table(named)):
        assert torch.equal(flow.log_prob(given), expected)


def test_the_answer_has_the_dtype_of_a_floating_tensor_and_is_float64_otherwise(flow: TrainedFlow) -> None:
    assert flow.log_prob(rows().float()).dtype == torch.float32
    for given in (rows(), rows().long(), rows().float().numpy()):
        assert flow.log_prob(given).dtype == torch.float64
    assert flow.sample((2,)).dtype == torch.float64


def test_scores_depend_on_no_other_row(flow: TrainedFlow) -> None:
    x = rows(400)
    scores = flow.log_prob(x)
    order = torch.randperm(400)
    torch.testing.assert_close(flow.log_prob(x[order]), scores[order], rtol=0, atol=1e-5)
    torch.testing.assert_close(torch.cat([flow.log_prob(part) for part in x.split(7)]), scores, rtol=0, atol=1e-5)
    assert torch.equal(flow.log_prob(x.view(4, 100, 2)), flow.log_prob(x).view(4, 100))
    assert flow.log_prob(x[:0]).shape == (0,)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (torch.zeros(3, 3), r"expected rows \[..., 2\], got \[3, 3\]: the columns are 'fsc', 'ssc'"),
        (torch.zeros(()), r"expected rows \[..., 2\], got \[\]"),
        (torch.tensor([[0.0, 1.0], [0.0, float("nan")]]), r"row 1 \(from 0\), column 'ssc' is nan"),
        ({"fsc": [1.0]}, r"the columns 'ssc' is missing; the flow takes 'fsc', 'ssc', and there are 'fsc'"),
        ({"fsc": ["a"], "ssc": [1.0]}, "'fsc' can't be read as numbers"),
    ],
)
def test_rows_that_are_not_those_of_the_flow_are_refused(flow: TrainedFlow, given: Any, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        flow.log_prob(given)


def test_a_context_is_given_raw_beside_the_rows_or_before(conditional: TrainedFlow) -> None:
    x, age = rows(), torch.linspace(20, 70, 6).double()[:, None]
    expected = conditional.log_prob(x, context=age)
    assert len(expected.unique()) == 6
    frame = {"age": age[:, 0].numpy(), "fsc": x[:, 0].numpy(), "ssc": x[:, 1].numpy()}
    assert torch.equal(conditional.log_prob(frame), expected)
    given = conditional.condition({"age": age[:, 0].numpy()})
    assert (given.batch_shape, given.event_shape) == ((6,), (2,))
    assert torch.equal(given.log_prob(x), expected)
    assert given.log_prob(x[:, None]).shape == (6, 6)
    torch.testing.assert_close(given.log_prob(x[:, None]).diagonal(), expected, rtol=0, atol=1e-6)
    assert given.sample((3,)).shape == conditional.sample((3,), age).shape == (3, 6, 2)
    assert not torch.allclose(expected, conditional.log_prob(x, context=age + 1), atol=1e-3)
    with pytest.raises(ValueError, match=r"needs a context \[..., 1\] \(age\)"):
        conditional.log_prob(x)
    with pytest.raises(ValueError, match=r"expected a context \[..., 1\] \('age'\), got \[6, 2\]"):
        conditional.log_prob(x, context=x)
    with pytest.raises(ValueError, match="column 'age' is inf"):
        conditional.log_prob(x, context=[float("inf")])


def test_a_flow_without_context_takes_none(flow: TrainedFlow) -> None:
    with pytest.raises(ValueError, match="takes no context"):
        flow.log_prob(rows(), context=[1.0])


def test_samples_are_in_the_units_of_the_data_and_follow_the_generator(flow: TrainedFlow) -> None:
    first = flow.sample((1000,), generator=torch.Generator().manual_seed(1))
    assert torch.equal(first, flow.sample((1000,), generator=torch.Generator().manual_seed(1)))
    assert not torch.equal(first, flow.sample((1000,)))
    torch.testing.assert_close(flow.from_base(flow.to_base(first)), first, rtol=1e-7, atol=1e-4)
    assert abs(first[:, 0].mean() - 1e6) < 200
    torch.manual_seed(1)
    assert torch.equal(flow.sample((1000,)), first)


def test_trajectories_are_in_the_units_of_the_data_from_end_to_end(flow: TrainedFlow) -> None:
    x = rows()
    there = flow.transport(x, torch.linspace(0, flow.end_time, 5))
    assert there.shape == (5, 6, 2)
    torch.testing.assert_close(there[0], x)
    back = flow.transport(there[-1], torch.tensor([flow.end_time, 0.0]))
    torch.testing.assert_close(back[-1], x, rtol=1e-7, atol=1e-4)


def test_images_come_and_go_as_images_of_whole_numbers(images: TrainedFlow) -> None:
    drawn = images.sample((5,))
    assert drawn.shape == (5, 2, 4, 4)
    assert torch.equal(drawn, drawn.round())
    assert 0 <= drawn.min() <= drawn.max() <= 15
    torch.testing.assert_close(images.log_prob(drawn.flip(0)).flip(0), images.log_prob(drawn), rtol=0, atol=1e-4)
    with pytest.raises(ValueError, match=r"x.reshape\(-1, 2, 4, 4\)"):
        images.log_prob(drawn.view(5, 32))
    with pytest.raises(ValueError, match="row 0, 'pixel_0' is 16: this flow takes whole numbers from 0 to 15"):
        images.log_prob(torch.full((1, 2, 4, 4), 16.0))


def test_whole_numbers_get_the_noise_of_their_row_and_others_none(images: TrainedFlow) -> None:
    drawn = images.sample((3,))
    numbers = torch.arange(3)
    by_number = images.log_prob(drawn, index=numbers)
    torch.testing.assert_close(images.log_prob(drawn[1:], index=numbers[1:]), by_number[1:], rtol=0, atol=1e-4)
    assert not torch.allclose(images.log_prob(drawn, index=numbers + 7), by_number)
    middle = (drawn + 0.5).requires_grad_()
    (gradient,) = torch.autograd.grad(images.log_prob(middle).sum(), middle)
    assert gradient.abs().min() > 0


def test_the_support_has_the_ends_that_a_transform_has(tmp_path: Path) -> None:
    logit = {"kind": "logit", "alpha": 0.0, "columns": [1]}
    mixed = symadj_core.load(folder(tmp_path / "mixed", config(transforms=[logit])))
    assert mixed.support.check(torch.tensor([-5.0, 0.5])).all()
    assert not mixed.support.check(torch.tensor([-5.0, 1.5])).all()
    inside = biject_to(mixed.support)(torch.randn(10, 2, dtype=torch.float64))
    assert torch.isfinite(mixed.log_prob(inside)).all()
    with pytest.raises(ValueError, match=r"column 'ssc' comes to logit as 1\.5"):
        mixed.log_prob(torch.tensor([0.0, 1.5]))


def test_it_stands_beside_the_distributions_of_torch(flow: TrainedFlow, tmp_path: Path) -> None:
    x = rows()
    batch = Independent(flow.expand(3), 1)
    torch.testing.assert_close(batch.log_prob(x[:, None].expand(6, 3, 2)), flow.log_prob(x) * 3, rtol=0, atol=1e-5)
    moved = TransformedDistribution(flow, [AffineTransform(torch.tensor([5.0, 0.0]), torch.tensor([2.0, 1.0]))])
    torch.testing.assert_close(
        moved.log_prob(x * torch.tensor([2.0, 1.0]) + torch.tensor([5.0, 0.0])), flow.log_prob(x) - np.log(2.0)
    )
    conditional = symadj_core.load(folder(tmp_path / "conditional", CONDITIONAL))
    parts = conditional.condition([[20.0], [60.0]])
    mixture = MixtureSameFamily(Categorical(torch.tensor([0.25, 0.75])), parts)
    expected = torch.logsumexp(parts.log_prob(x[:, None]) + torch.tensor([0.25, 0.75]).log(), -1)
    torch.testing.assert_close(mixture.log_prob(x), expected, rtol=0, atol=1e-5)
    assert mixture.sample((4,)).shape == (4, 2)


def test_the_kl_divergence_is_an_estimate_that_says_so_and_has_its_error(tmp_path: Path) -> None:
    torch.manual_seed(0)
    described = config(spec=config()["spec"] | {"flow": FLOW | {"field": MLP | {"zero_init": True}}})
    # Without weights in its last layers the flow is the base, moved and scaled: a Gaussian.
    flow = symadj_core.load(folder(tmp_path / "out", described))
    mean, std = torch.tensor([1e6, -3.0]).double(), torch.tensor([100.0, 0.5]).double()
    other = Independent(Normal(mean + std, std), 1)  # KL 1/2 a column, either way
    for p, q in ((flow, other), (other, flow), (flow.expand(3), other)):
        value, stderr = estimate_kl(p, q, draws=4000)
        assert value.shape == stderr.shape == p.batch_shape
        assert (stderr > 0).all()
        assert (stderr < 0.05).all()
        assert ((value - 1.0).abs() < 5 * stderr).all()
        with pytest.warns(UserWarning, match=r"an estimate from 1000 draws; symadj_core.trained.estimate_kl"):
            torch.testing.assert_close(kl_divergence(p, q), torch.ones(p.batch_shape).double(), rtol=0, atol=0.3)
    with pytest.warns(UserWarning, match="an estimate"):
        torch.testing.assert_close(kl_divergence(flow, flow), torch.zeros(()).double(), rtol=0, atol=1e-4)
    with pytest.raises(ValueError, match=r"the events of p are \[2\] and those of q \[\].*Independent"):
        estimate_kl(flow, Normal(mean, std))


def test_gradients_flow_to_rows_and_contexts_of_any_order(conditional: TrainedFlow) -> None:
    exact = conditional.with_settings(gradient="backprop", rtol=1e-9, atol=1e-9)
    x, age = rows(1).requires_grad_(), torch.tensor([[30.0]], dtype=torch.float64, requires_grad=True)
    scale = torch.tensor([100.0, 0.5], dtype=torch.float64)

    def of_standardised(y: torch.Tensor, years: torch.Tensor) -> torch.Tensor:
        return exact.log_prob(y * scale + torch.tensor([1e6, -3.0]), context=years)

    y = ((x - torch.tensor([1e6, -3.0])) / scale).detach().requires_grad_()
    assert torch.autograd.gradcheck(of_standardised, (y, age), atol=1e-5)
    (score,) = torch.autograd.grad(exact.log_prob(x, context=age).sum(), x, create_graph=True)
    (second,) = torch.autograd.grad(score[0, 0], x)
    assert torch.isfinite(second).all()
    assert second.abs().max() > 0


def test_the_settings_are_those_of_the_test_or_of_training_or_as_asked(tmp_path: Path) -> None:
    out = folder(tmp_path / "out", config())
    tested, trained = symadj_core.load(out), symadj_core.load(out, settings="trained")
    settings = [flow.flow.stack()[0].settings for flow in (tested, trained, tested.with_settings(rtol=1e-4))]
    assert [s.controller.rtol for s in settings] == [pytest.approx(1e-7), 1e-5, 1e-4]  # type: ignore[attr-defined]
    assert [s.divergence.name for s in settings] == ["exact", "hutchinson", "exact"]
    with pytest.raises(ValueError, match="settings is 'tested' or 'trained', not 'best'"):
        symadj_core.load(out, settings="best")  # type: ignore[arg-type]


def test_in_transformed_units_rows_are_as_the_flow_sees_them(tmp_path: Path) -> None:
    out = folder(tmp_path / "out", config())
    flow, transformed = symadj_core.load(out), symadj_core.load(out, units="transformed")
    assert (flow.units, transformed.units) == ("original", "transformed")
    y = (rows() - torch.tensor([1e6, -3.0])) / torch.tensor([100.0, 0.5])
    torch.testing.assert_close(flow.log_prob(rows()), transformed.log_prob(y) - np.log(50.0), rtol=0, atol=1e-6)


def test_the_weights_are_constants_until_asked(flow: TrainedFlow) -> None:
    assert not flow.log_prob(rows()).requires_grad
    flow.flow.requires_grad_()
    flow.log_prob(rows()).sum().backward()
    assert all(p.grad is not None for p in flow.flow.parameters() if p.requires_grad)


def zipped(out: Path, prefix: str) -> io.BytesIO:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        for file in out.iterdir():
            archive.write(file, prefix + file.name)
    content.seek(0)
    return content


@pytest.mark.parametrize("prefix", ["", "job-1/"])
def test_a_zip_of_the_folder_will_do_by_its_path_or_open(tmp_path: Path, prefix: str) -> None:
    out = folder(tmp_path / "out", config())
    expected = symadj_core.load(out).log_prob(rows())
    path = tmp_path / "out.zip"
    path.write_bytes(zipped(out, prefix).getvalue())
    assert torch.equal(symadj_core.load(path).log_prob(rows()), expected)
    assert torch.equal(symadj_core.load(zipped(out, prefix)).log_prob(rows()), expected)


def test_files_that_are_no_trained_flow_say_what_is_wrong(tmp_path: Path) -> None:
    def refused(name: str, content: bytes | None, said: str) -> None:
        out = folder(tmp_path / f"{name}-{len(list(tmp_path.iterdir()))}", config())
        (out / name).unlink()
        if content is not None:
            (out / name).write_bytes(content)
        with pytest.raises(LoadError, match=said):
            symadj_core.load(out)

    refused("weights.safetensors", None, "no weights.safetensors.*symadj download")
    refused("weights.safetensors", b"\x80\x02", "weights.safetensors of .* is damaged")
    refused("weights.safetensors", safetensors.torch.save({"a": torch.zeros(1)}), "does not fit its config.json")
    refused("config.json", b"{", "is not JSON")
    refused("config.json", b"[]", "has no spec")
    refused("config.json", json.dumps(config(format=2)).encode(), "of format 2, and this version reads 1")
    refused("config.json", json.dumps(config(spec={"flow": FLOW})).encode(), "lacks 'solver'")
    unknown = FLOW | {"field": MLP | {"kind": "unheard"}}
    refused("config.json", json.dumps(config(spec=config()["spec"] | {"flow": unknown})).encode(), "unheard")
    with pytest.raises(LoadError, match="does not exist"):
        symadj_core.load(tmp_path / "nowhere")
    (tmp_path / "text").write_bytes(b"text")
    with pytest.raises(LoadError, match=r"neither a folder nor a .zip"):
        symadj_core.load(tmp_path / "text")


def test_transforms_give_tensors_what_they_give_arrays() -> None:
    chain = [ARCSINH, {"kind": "logit", "alpha": 0.1, "columns": [1]}, STANDARDISE, {"kind": "dequantise", "levels": 7}]
    raw = np.random.default_rng(0).uniform(0, 1, (50, 2))
    for parameters in chain:
        (transform,) = restore_transforms([parameters])
        (array, change), (tensor, of_tensor) = transform(raw), transform(torch.from_numpy(raw))
        np.testing.assert_allclose(tensor.numpy(), array, rtol=1e-13)
        np.testing.assert_allclose(of_tensor.numpy(), change, rtol=1e-13)
        for way in (transform.inverse, transform.unrounded):
            np.testing.assert_allclose(way(torch.from_numpy(array)).numpy(), way(array), rtol=1e-12, atol=1e-12)


def test_arcsinh_has_its_derivatives_at_zero_and_its_density_far_out() -> None:
    (transform,) = restore_transforms([{"kind": "arcsinh", "scale": 2.0}])
    zero = torch.zeros(1, 1, dtype=torch.float64)
    curvature = torch.autograd.functional.hessian(lambda x: transform(x)[1].sum(), zero)
    assert float(curvature) == pytest.approx(-1 / 4)  # of -log hypot(x, 2)
    for value in (-1e300, -2.0, -1.0, 0.0, 1e-300, 2.0, 3.0, 1e200):
        _, change = transform(np.array([[value]]))
        assert float(change[0]) == pytest.approx(-np.log(np.hypot(value, 2.0)), rel=1e-14)


def test_a_space_without_transforms_is_the_flows_own() -> None:
    space = DataSpace(("a", "b"))
    flow = build_flow(FLOW, SOLVER, 2, seed=1).eval()
    own = TrainedFlow(as_tested(flow, SOLVER, USUAL_EVALUATION), space)
    y = torch.randn(4, 2, dtype=torch.float64)
    torch.testing.assert_close(own.log_prob(y), own.flow.log_prob(y))
