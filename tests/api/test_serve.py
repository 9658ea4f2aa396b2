"""What ``symadj serve`` refuses, what becomes of its children, and what the report makes of odd results."""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from rich.console import Console

from symadj.api.children import Child, ServeError, end_processes_of
from symadj.api.cli.results import likelihoods, print_parts
from symadj.api.serve import serve
from symadj.service.contract.result import JobResult
from tests.api.test_result import CALIBRATION, CURVE
from tests.conftest import free_port


def test_an_interpreter_in_a_path_with_spaces_is_refused_in_a_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "executable", "/home/ada/my project/bin/python")
    with pytest.raises(ServeError, match="my project"):
        serve("127.0.0.1", 0, tmp_path, cpus=None, announce=lambda *_: None)


def test_an_address_where_no_ray_answers_is_refused_in_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(ServeError, match="no Ray answers as it should at http"):
        serve("127.0.0.1", 0, tmp_path, cpus=None, ray_address="http://127.0.0.1:9", announce=lambda *_: None)


# It starts another process in a session of its own, as Ray starts its workers, prints its id, and sleeps as well.
SLEEPER = """
import os, subprocess
print(subprocess.Popen(["sleep", "600"], start_new_session=True).pid, flush=True)
os.execvp("sleep", ["sleep", "600"])
"""
SUPERVISOR = """
import os, sys
from pathlib import Path
from symadj.api.children import Child
child = Child("sleeper", [sys.executable, "-c", sys.argv[2]], dict(os.environ), Path(sys.argv[1]))
child.start()
print(child.process.pid, flush=True)
child.process.wait()
"""


# The first one ends with status 3; another answers at the port.
SECOND_TIME_LUCKY = """
import http.server, os, sys
from pathlib import Path
tried = Path(sys.argv[1])
if not tried.exists():
    sys.exit(tried.touch() or 3)
http.server.ThreadingHTTPServer(("127.0.0.1", int(sys.argv[2])), http.server.SimpleHTTPRequestHandler).serve_forever()
"""


@pytest.mark.parametrize("retries", [0, 1])
def test_a_child_that_ends_while_it_starts_is_started_again_as_often_as_it_may(tmp_path: Path, retries: int) -> None:
    (tmp_path / "logs").mkdir()
    port = free_port()
    command = [sys.executable, "-c", SECOND_TIME_LUCKY, str(tmp_path / "tried"), str(port)]
    urls = (f"http://127.0.0.1:{port}",)
    child = Child("lucky", command, dict(os.environ), tmp_path, urls, start_seconds=60, start_retries=retries)
    child.start()
    try:
        with contextlib.nullcontext() if retries else pytest.raises(ServeError, match="lucky ended with status 3"):
            child.wait_until_ready(lambda: False)
    finally:
        child.stop()


def grandchild(data: Path) -> psutil.Process:
    """Return what the sleeper started, when it has."""
    log = data / "logs" / "sleeper.log"
    deadline = time.monotonic() + 30
    while not log.exists() or not log.read_text().endswith("\n"):
        assert time.monotonic() < deadline
    return psutil.Process(int(log.read_text()))


def assert_ends(process: psutil.Process) -> None:
    """Wait until a process is gone, or a zombie that nobody has taken note of yet."""
    deadline = time.monotonic() + 30
    with contextlib.suppress(psutil.NoSuchProcess):
        while process.status() != psutil.STATUS_ZOMBIE:
            assert time.monotonic() < deadline, process


def test_before_a_dead_child_starts_again_what_it_left_is_killed(tmp_path: Path) -> None:
    (tmp_path / "logs").mkdir()
    child = Child("sleeper", [sys.executable, "-c", SLEEPER], dict(os.environ), tmp_path)
    child.start()
    left = grandchild(tmp_path)
    left.suspend()
    assert child.process is not None
    dead = child.process
    dead.kill()
    dead.wait()
    while child.process is dead:
        child.revive()
    assert_ends(left)
    assert child.process.poll() is None
    child.stop()
    assert child.process.poll() is not None


def test_a_killed_supervisor_takes_its_children_along_and_the_next_one_finds_what_they_left(tmp_path: Path) -> None:
    (tmp_path / "logs").mkdir()
    command = [sys.executable, "-c", SUPERVISOR, str(tmp_path), SLEEPER]
    supervisor = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert supervisor.stdout is not None
    child = psutil.Process(int(supervisor.stdout.readline()))
    left = grandchild(tmp_path)
    supervisor.kill()
    supervisor.wait()
    assert_ends(child)
    assert left.is_running()
    end_processes_of(f"sleeper:{tmp_path}")
    assert_ends(left)


def test_a_result_with_missing_and_non_finite_figures_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    result = {"test_nll": "NaN", "test_nll_stderr": None, "test_nll_original_units": "Infinity", "test_rows": 10}
    result |= {"parameters": 5, "steps": 3, "train_seconds": 1.0, "evaluate_seconds": 1.0}
    result |= {"baselines": {"gaussian": 2.5, "gaussian_mixture": {"components": 90, "test_nll": None}}}
    print_parts(Console(width=100), likelihoods(JobResult.model_validate(result)))
    shown = capsys.readouterr().out
    for words in ("nan", "inf", "2.500", "Gaussian mixture, 90 components"):
        assert words in shown


def test_the_report_says_which_baselines_of_a_conditional_flow_know_its_context(
    capsys: pytest.CaptureFixture[str],
) -> None:
    baselines = {"conditional": True, "linear_gaussian": 1.75, "gaussian": 2.5, "gaussian_mixture": {"components": 9}}
    print_parts(Console(width=100), likelihoods(JobResult.model_validate({"test_nll": 1.5, "baselines": baselines})))
    shown = re.sub(" +", " ", capsys.readouterr().out)
    for words in ("linear in the context 1.750", "Gaussian, without the context 2.500", "9 components, without the"):
        assert words in shown


@pytest.mark.parametrize(
    ("area", "p", "said"),
    [
        (-0.1, 1e-8, "the flow is too sure, area -0.100"),
        (0.1, 1e-8, "the flow is not sure enough, area +0.100"),
        (-0.1, 0.3, "regions of density hold what they should"),
    ],
)
def test_the_report_says_whether_a_conditional_flow_is_calibrated(
    capsys: pytest.CaptureFixture[str], area: float, p: float, said: str
) -> None:
    curve = CURVE.model_copy(update={"area": area, "ks_p": p})
    column = CALIBRATION.columns[0].model_copy(update={"ks_p": 0.021})
    changes = {"columns": [column], "columns_tested": 3, "highest_density": curve}
    result = JobResult(test_nll=1.5, calibration=CALIBRATION.model_copy(update=changes))
    print_parts(Console(width=300), likelihoods(result))
    shown = capsys.readouterr().out
    for words in ("40 rows among 100 draws each", "p 0.063 by the least uniform of 3 columns", "0.4 by TARP", said):
        assert words in shown


def test_the_report_tells_the_gap_of_the_tolerance_and_the_other_checks(capsys: pytest.CaptureFixture[str]) -> None:
    result = {"test_nll": 1.5, "test_nll_stderr": 0.01, "test_nll_original_units": 2.5, "test_rows": 10}
    result |= {"test_solver": {"divergence": "hutchinson"}, "test_bits_per_dim": 3.14159}
    result |= {"test_nll_training_tolerance": 1.502, "test_nll_gap": 0.002, "test_nll_gap_stderr": 0.0001}
    result |= {"inverse_error": {"rows": 1000, "max": 3e-4, "rms": 2e-5}, "density_integral": 0.99998}
    result |= {"two_sample": {"rows": 500, "accuracy": 0.51, "accuracy_stderr": 0.016, "auc": 0.5, "auc_stderr": 0.02}}
    result |= {"parameters": 5, "steps": 3, "train_seconds": 1.0, "evaluate_seconds": 1.0, "baselines": None}
    print_parts(Console(width=200), likelihoods(JobResult.model_validate(result)))
    shown = capsys.readouterr().out
    for words in ("hutchinson trace", "3.142 bits/dim", "gap of 0.00200", "worst one by 3.0e-04", "0.510", "0.99998"):
        assert words in shown
