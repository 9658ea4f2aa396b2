"""What `make test` runs is all that there is."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_the_tests_with_a_ray_are_in_the_folders_in_which_make_test_looks_for_them() -> None:
    marked = [
        path for path in (ROOT / "tests").rglob("test_*.py") if re.search(r"pytest\.mark\.ray\b", path.read_text())
    ]
    (command,) = (line for line in (ROOT / "Makefile").read_text().splitlines() if "-m 'ray and" in line)
    assert {str(path.parent.relative_to(ROOT)) for path in marked} == set(re.findall(r"tests/\w+", command))
