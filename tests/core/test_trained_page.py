"""The examples of docs/trained_flow.md run as they stand; those with other libraries do in tests/peers."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from tests.core.test_trained import CONDITIONAL, config, folder, rows

PAGE = Path(__file__).parents[2] / "docs" / "trained_flow.md"
OTHERS = ("pyro", "sbi", "emcee", "onnx", "torch.export")


def run_examples(place: Path, *, others: bool) -> dict[str, object]:
    """Run them one after the other in a folder with downloaded flows, and return the names that they have made."""
    folder(place / "out", config())
    folder(place / "conditional", CONDITIONAL)
    np.save(place / "cells.npy", rows(50).numpy())
    np.save(place / "out" / "test_rows.npy", np.array([3, 1, 20]))
    examples = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), flags=re.DOTALL)
    names: dict[str, object] = {"__name__": "trained_flow"}
    for number, example in enumerate(examples):
        if others or not any(name in example for name in OTHERS):
            exec(compile(example, f"trained_flow.md, example {number}", "exec", dont_inherit=True), names)
    return names


def test_the_examples_with_torch_alone_run_one_after_the_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names = run_examples(tmp_path, others=False)
    assert {"test_nll", "given", "second", "stderr"} <= names.keys()
    assert "posterior" not in names
