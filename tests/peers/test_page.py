"""The examples of docs/trained_flow.md with the libraries that it is about."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.core.test_trained_page import run_examples


def test_all_examples_run_one_after_the_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names = run_examples(tmp_path, others=True)
    assert {"model", "drawn", "sampler", "error", "session"} <= names.keys()
