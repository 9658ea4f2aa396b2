"""``python -m benchmarks.paper [--size full] [--target docs]``: measure everything, write paper.md and its pictures."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from benchmarks.paper import dynamics, exactness, memory, plots
from benchmarks.paper.page import Measured, claims, page
from benchmarks.paper.sizes import SIZES, Size


def measure(size: Size) -> Measured:
    """Return all measurements, with one thread."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return Measured(
            size=size,
            by_steps=memory.against_steps(size),
            by_blocks=memory.against_blocks(size),
            by_tolerance=exactness.over_tolerances(size),
            by_solver=exactness.over_solvers(size),
            by_stack=exactness.over_blocks(size),
            rounding=exactness.rounding(size),
            trained=exactness.trained(size),
            studies=dynamics.studies(size),
        )
    finally:
        torch.set_num_threads(threads)


def write(found: Measured, target: Path) -> Path:
    """Write the page and its pictures into a folder; return the page's path."""
    target.mkdir(parents=True, exist_ok=True)
    file = target / "paper.md"
    file.write_text(page(found, plots.draw(found, target)))
    return file


def main(arguments: Sequence[str] | None = None) -> int:
    """Run; return 1 if a claim does not hold."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", choices=list(SIZES), default="full")
    parser.add_argument("--target", type=Path, default=Path("docs"), help="the folder of the page and its pictures")
    options = parser.parse_args(arguments)
    found = measure(SIZES[options.size])
    print(f"Wrote {write(found, options.target)}")
    for claim in claims(found):
        print(f"{'holds' if claim.holds else 'DOES NOT HOLD'}: {claim.text}: {claim.seen}")
    return 0 if all(claim.holds for claim in claims(found)) else 1


if __name__ == "__main__":
    sys.exit(main())
