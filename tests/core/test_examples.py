"""What lies in examples/ and needs symadj_core alone runs as it stands."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np

from symadj_core.gradients import GRADIENTS

DYNAMICS = Path(__file__).parents[2] / "examples" / "dynamics.py"


def run(*options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, DYNAMICS, *options], capture_output=True, text=True, check=False)


def test_a_physical_system_is_learnt_from_the_snapshots_of_a_file_and_every_exact_gradient_is_backprops(
    tmp_path: Path,
) -> None:
    # A turn of an oscillator: x(t) of q = cos t, p = -sin t, for two phases.
    angles = 0.2 * np.arange(10)[:, None] + np.array([0.0, 1.0])
    np.save(tmp_path / "turns.npy", np.stack([np.cos(angles), -np.sin(angles)], axis=-1))
    ended = run("--snapshots", str(tmp_path / "turns.npy"), "--interval", "0.2", "--steps", "5")
    assert ended.returncode == 0, ended.stderr
    table = {line.split()[0]: line.split() for line in ended.stdout.splitlines() if line.split()[0] in GRADIENTS}
    assert table.keys() == set(GRADIENTS)
    for name, gradient in GRADIENTS.items():
        if gradient.exact:
            assert float(table[name][-1]) < 1e-9
    assert float(table["symplectic"][1]) < float(table["backprop"][1])


def test_snapshots_of_another_shape_are_refused_with_the_one_that_is_meant(tmp_path: Path) -> None:
    np.save(tmp_path / "odd.npy", np.zeros((10, 2, 3)))
    ended = run("--snapshots", str(tmp_path / "odd.npy"))
    assert ended.returncode == 2
    assert "holds [10, 2, 3] values, not [moments, trajectories, 2 n]" in " ".join(ended.stderr.split())
