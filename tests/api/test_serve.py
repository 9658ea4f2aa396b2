"""What ``symadj serve`` refuses before it starts anything, and what the report makes of odd results."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from rich.console import Console

from api.children import ServeError
from api.cli.results import likelihoods, print_parts
from api.serve import serve


def test_an_interpreter_in_a_path_with_spaces_is_refused_in_a_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "executable", "/home/ada/my project/bin/python")
    with pytest.raises(ServeError, match="my project"):
        serve("127.0.0.1", 0, tmp_path, cpus=None, announce=lambda url, data: None)


def test_a_result_with_missing_and_non_finite_figures_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    result = {"test_nll": "NaN", "test_nll_stderr": None, "test_nll_original_units": "Infinity", "test_rows": 10}
    result |= {"parameters": 5, "steps": 3, "train_seconds": 1.0, "evaluate_seconds": 1.0}
    result |= {"baselines": {"gaussian": 2.5, "gaussian_mixture": {"components": 90, "test_nll": None}}}
    print_parts(Console(width=100), likelihoods(result))
    shown = capsys.readouterr().out
    for words in ("nan", "inf", "2.500", "Gaussian mixture, 90 components"):
        assert words in shown


def test_the_report_tells_the_gap_of_the_tolerance_and_the_other_checks(capsys: pytest.CaptureFixture[str]) -> None:
    result = {"test_nll": 1.5, "test_nll_stderr": 0.01, "test_nll_original_units": 2.5, "test_rows": 10}
    result |= {"test_solver": {"divergence": "hutchinson"}, "test_bits_per_dim": 3.14159}
    result |= {"test_nll_training_tolerance": 1.502, "test_nll_gap": 0.002, "test_nll_gap_stderr": 0.0001}
    result |= {"inverse_error": {"rows": 1000, "max": 3e-4, "rms": 2e-5}, "density_integral": 0.99998}
    result |= {"two_sample": {"rows": 500, "accuracy": 0.51, "accuracy_stderr": 0.016, "auc": 0.5, "auc_stderr": 0.02}}
    result |= {"parameters": 5, "steps": 3, "train_seconds": 1.0, "evaluate_seconds": 1.0, "baselines": None}
    print_parts(Console(width=200), likelihoods(result))
    shown = capsys.readouterr().out
    for words in ("hutchinson trace", "3.142 bits/dim", "gap of 0.00200", "3.0e-04 at most", "0.510", "0.99998"):
        assert words in shown
