"""Fetches what the GPU part needs beside torch, as wheels for a machine that reaches no package index.

``python -m tests.gpu.wheels FOLDER [--python 3.12] [--part-mib 40]``: the files of ``tests/gpu/requirements.lock`` for
x86-64 Linux, in the folders FOLDER/part-1, part-2, ... of at most so many MiB each, for ways that carry little at once.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

_LOCK = Path(__file__).with_name("requirements.lock")
# pip takes each of them by its name alone, so all that an x86-64 Linux of these years can load.
_PLATFORMS = ("manylinux_2_28", "manylinux_2_27", "manylinux_2_17", "manylinux2014", "manylinux_2_12", "manylinux_2_5")


def fetch(target: Path, python: str) -> list[Path]:
    """Download the locked wheels into a folder and return them, the largest first.

    Raises:
        subprocess.CalledProcessError: pip has no such file for that Python; it says which.
    """
    platforms = [word for name in _PLATFORMS for word in ("--platform", f"{name}_x86_64")]
    what = ("--require-hashes", "--no-deps", "--only-binary=:all:", "--implementation=cp", "--python-version", python)
    pip = (sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check")
    subprocess.run((*pip, *what, *platforms, "--dest", target, "--requirement", _LOCK), check=True)
    return sorted(target.iterdir(), key=lambda wheel: wheel.stat().st_size, reverse=True)


def in_parts(wheels: list[Path], most: int) -> list[list[Path]]:
    """Return the wheels, the largest first, in as few lists of at most ``most`` bytes as are found by filling each.

    Raises:
        ValueError: one alone is larger.
    """
    parts: list[list[Path]] = []
    for wheel in wheels:
        size = wheel.stat().st_size
        if size > most:
            raise ValueError(f"{wheel.name} has {size} bytes, more than a part may have ({most}): raise --part-mib")
        fitting = (part for part in parts if sum(other.stat().st_size for other in part) + size <= most)
        part = next(fitting, None)
        if part is None:
            parts.append(part := [])
        part.append(wheel)
    return parts


def main() -> None:
    """Parse the command line, fetch, and say what lies where."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--python", default="3.12", help="version of the Python there")
    parser.add_argument("--part-mib", type=int, default=40, help="most MiB of a part")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as fetched:
        parts = in_parts(fetch(Path(fetched), arguments.python), arguments.part_mib * 2**20)
        shutil.rmtree(arguments.folder, ignore_errors=True)
        for number, part in enumerate(parts, 1):
            folder = arguments.folder / f"part-{number}"
            folder.mkdir(parents=True)
            for wheel in part:
                shutil.move(wheel, folder)
            size = sum(wheel.stat().st_size for wheel in folder.iterdir())
            print(f"{folder}: {len(part)} wheels, {size / 2**20:.1f} MiB")


if __name__ == "__main__":
    main()
