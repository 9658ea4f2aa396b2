"""What the pages say of the code, compared with the code."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from symadj.api.app import create_app
from symadj.service.contract.spec.data import FORMATS
from symadj.service.settings import Settings
from tests.house.written import ROOT, pages

README, DATA = ROOT / "README.md", ROOT / "docs" / "data.md"


def table(page: str, first_heading: str) -> list[list[str]]:
    """The rows of the table of a page whose first column has this heading."""
    lines = iter(page.splitlines())
    for line in lines:
        if line.startswith(f"| {first_heading} |"):
            next(lines)
            break
    rows = []
    for line in lines:
        if not line.startswith("|"):
            break
        rows.append([cell.strip() for cell in line.strip("|").split(" | ")])
    assert rows, f"the page has no table whose first heading is {first_heading!r}"
    return rows


@pytest.fixture
def operations(tmp_path_factory: pytest.TempPathFactory) -> set[tuple[str, str]]:
    """Every (METHOD, path) of the API."""
    app = create_app(Settings(data=tmp_path_factory.mktemp("data")))
    paths = app.openapi()["paths"]
    return {(method.upper(), path) for path, methods in paths.items() for method in methods}


def shown_requests() -> Iterator[tuple[str, str]]:
    """Yield (METHOD, path) as README's table has them; a request without a method has that of the one before it."""
    for request, _ in table(README.read_text(), "request"):
        method = ""
        for shown in re.findall(r"`([^`]+)`", request):
            *given, address = shown.split(" ")
            method = given[0] if given else method
            yield method, address.partition("?")[0].replace("...", "/api/v1/jobs/{id}")


def test_readme_shows_every_endpoint_and_no_other(operations: set[tuple[str, str]]) -> None:
    def shape(path: str) -> re.Pattern[str]:
        return re.compile(re.sub(r"\{\w+\}", "[^/]+", path))

    # A fixed path is looked for first: /memory/steps is not /{name} of another.
    known = sorted(operations, key=lambda operation: operation[1].count("{"))
    shown = set()
    for method, path in shown_requests():
        found = [known_ for known_ in known if known_[0] == method and shape(known_[1]).fullmatch(path)]
        assert found, f"README shows {method} {path}, which the API does not have"
        shown.add(found[0])
    assert operations == shown, "README's table has a row for each endpoint"


def test_the_page_on_data_shows_every_format_with_its_options() -> None:
    rows = table(DATA.read_text(), "format")
    text_of = {
        name: know for formats, _, know in rows for name in re.findall(r"[a-z]\w+", formats.lower()) if name in FORMATS
    }
    assert text_of.keys() == FORMATS.keys()
    for name, format in FORMATS.items():
        for option in format.options:
            assert f"`{option}" in text_of[name], f"docs/data.md does not say what {option} is for {name}"


@pytest.mark.parametrize("page", pages(), ids=lambda page: page.name)
def test_pages_wrap_at_120_characters(page: Path) -> None:
    in_code = False
    for number, line in enumerate(page.read_text().splitlines(), 1):
        in_code ^= line.lstrip().startswith("```")
        may_be_long = in_code or line.startswith("|") or " " not in line.strip()
        assert may_be_long or len(line) <= 120, f"{page.name}:{number} has {len(line)} characters"


def test_what_the_page_on_operations_lets_set_reaches_the_containers() -> None:
    rows = table((ROOT / "docs" / "operations.md").read_text(), "variable")
    named = {name for names, *_ in rows for name in re.findall(r"`(\w+)`", names)}
    passed = set(re.findall(r"\$\{(\w+)", (ROOT / "compose.yaml").read_text()))
    assert named <= passed, f"compose.yaml does not pass on {sorted(named - passed)}"


# A page on one room names its files from there.
FOLDERS = ("", "docs", "service", "symadj_core", "workers")


@pytest.mark.parametrize("page", [page for page in pages() if page.name != "CHANGELOG.md"], ids=lambda page: page.name)
def test_files_that_a_page_names_are_there(page: Path) -> None:
    text = page.read_text()
    named = set(re.findall(r"`([\w./-]+/[\w.-]*\.(?:md|py|toml|yaml|yml))`", text))
    linked = set(re.findall(r"\]\(([\w./-]+)\)", text))
    missing = {name for name in named if "NAME" not in name and not any((ROOT / f / name).exists() for f in FOLDERS)}
    assert not missing
    assert not {link for link in linked if not (page.parent / link).exists()}
