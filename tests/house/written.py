"""The files of the repository that people write and read."""

from __future__ import annotations

from pathlib import Path

__all__ = ["ROOT", "pages", "written_files"]

ROOT = Path(__file__).parents[2]
_FOLDERS = (
    ".ci", "api", "benchmarks", "docker", "docs", "examples", "recipes", "service", "symadj_core", "tests", "workers",
)  # fmt: skip
_NOT_TEXT = {".lock", ".npz", ".png", ".pyc", ".whl"}


def written_files() -> list[Path]:
    """Return all texts: code, tests, pages, manifests, scripts. symadj/ has links to folders that are here already."""
    within = [path for folder in _FOLDERS for path in (ROOT / folder).rglob("*")]
    top = [*ROOT.glob("*.md"), *ROOT.glob("*.toml"), *ROOT.glob("*.yaml"), ROOT / "Makefile"]
    files = [*within, *top, *(ROOT / "symadj").glob("*.py")]
    return sorted(path for path in files if path.is_file() and path.suffix not in _NOT_TEXT)


def pages() -> list[Path]:
    """Return the pages of documentation."""
    return sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])
