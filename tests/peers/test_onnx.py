"""Trained flows by ONNX, run by onnxruntime, for another number of rows than they were exported with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch

import symadj_core
from symadj_core import TrainedFlow
from symadj_core.trained.export import sampler, scorer
from tests.core.test_export import POTENTIAL, RESIDUAL, of_field
from tests.core.test_trained import ARCSINH, CONDITIONAL, IMAGES, MLP, config, folder, rows

SCALED = {"kind": "standardise", "mean": [9.0, -3.0], "std": [1.0, 0.5]}
FLOWS: dict[str, tuple[dict[str, Any], torch.dtype]] = {
    "a perceptron": (config(), torch.float64),
    "a context": (CONDITIONAL, torch.float64),
    "two transforms": (of_field(MLP, transforms=[ARCSINH, SCALED]), torch.float32),
    "three hidden layers": (of_field(MLP | {"hidden": [8, 8, 8], "activation": "silu"}), torch.float64),
    "a potential": (of_field(POTENTIAL, transforms=[SCALED]), torch.float32),
    "images": (IMAGES, torch.float64),
}


def by_onnx(
    path: Path, module: torch.nn.Module, given: tuple[torch.Tensor, ...], more: tuple[torch.Tensor, ...]
) -> Any:
    dim = torch.export.Dim("rows")
    program = torch.onnx.export(module, given, dynamo=True, dynamic_shapes=tuple({0: dim} for _ in given))
    assert program is not None
    program.save(path / "flow.onnx")
    session = onnxruntime.InferenceSession(path / "flow.onnx")
    names = [entry.name for entry in session.get_inputs()]
    return session.run(None, {name: rows.numpy() for name, rows in zip(names, more, strict=True)})[0]


def noise(flow: TrainedFlow, count: int) -> torch.Tensor:
    return torch.randn(count, flow.flow.dim, dtype=torch.float64, generator=torch.Generator().manual_seed(count))


def inputs(flow: TrainedFlow, make: Any, count: int, dtype: torch.dtype) -> tuple[torch.Tensor, ...]:
    """What the module takes of so many rows: noise or rows, and contexts."""
    contexts = [torch.linspace(20, 70, count, dtype=torch.float64)[:, None]] if flow.context_columns else []
    drawn = noise(flow, count) if make is sampler else flow.rsample(() if contexts else (count,), *contexts)
    return tuple(part.to(dtype) for part in (drawn, *contexts))


@pytest.mark.parametrize("make", [sampler, scorer])
@pytest.mark.parametrize("name", FLOWS)
def test_onnxruntime_gives_what_the_module_gives(tmp_path: Path, name: str, make: Any) -> None:
    described, dtype = FLOWS[name]
    flow = symadj_core.load(folder(tmp_path / "out", described))
    module = make(flow, steps=1, method="heun2", dtype=dtype)
    given, more = (inputs(flow, make, count, dtype) for count in (4, 7))
    found = by_onnx(tmp_path, module, given, more)
    np.testing.assert_allclose(found, module(*more).numpy(), rtol=1e-5, atol=1e-5)


def test_a_sampler_of_a_field_without_a_closed_trace_is_exported(tmp_path: Path) -> None:
    flow = symadj_core.load(folder(tmp_path / "out", of_field(RESIDUAL)))
    module = sampler(flow, steps=1, method="euler")
    found = by_onnx(tmp_path, module, (rows(4),), (noise(flow, 7),))
    np.testing.assert_allclose(found, module(noise(flow, 7)).numpy(), rtol=1e-5, atol=1e-5)
