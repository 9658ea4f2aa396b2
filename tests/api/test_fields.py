"""Fields of installed packages, as the API lists, checks and refuses them."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from typer.testing import CliRunner

from symadj.api.cli import main
from symadj.api.client import ApiProblemError, Client
from symadj.service.contract.spec.flow import BuiltInField
from symadj.service.contract.spec.section import kinds_of
from tests.conftest import ROOT, TOY, running_api

SOURCE = ROOT / "examples" / "symadj-equivariant" / "src" / "symadj_equivariant"
SCHEMA = json.loads((SOURCE / "equivariant.schema.json").read_text())
PACKAGE = "symadj-equivariant==0.1.0"
# To import it ends the process. `plain` has no schema, that of `broken` is no JSON, that of `elsewhere` is on the web.
UNFIT = {
    "unfit/__init__.py": "import os\nos._exit(1)\n",
    "unfit/broken.schema.json": "{",
    "unfit/elsewhere.schema.json": '{"$ref": "http://127.0.0.1:9/schema.json"}',
    "unfit-2.0.dist-info/METADATA": "Metadata-Version: 2.1\nName: unfit\nVersion: 2.0\n",
    "unfit-2.0.dist-info/entry_points.txt": "[symadj.fields]\n"
    "plain = unfit:Field\nbroken = unfit:Field\nelsewhere = unfit:Field\n",
}


@pytest.fixture(scope="module")
def client(equivariant: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    """A client of an API that has two packages with fields."""
    unfit = tmp_path_factory.mktemp("unfit")
    for name, text in UNFIT.items():
        (unfit / name).parent.mkdir(exist_ok=True)
        (unfit / name).write_text(text)
    path = os.pathsep.join(map(str, (equivariant, unfit)))
    with running_api(tmp_path_factory.mktemp("data"), PYTHONPATH=path) as server, Client(server.url) as client:
        yield client


def spec(name: str = "equivariant", **field: Any) -> dict[str, Any]:
    return TOY | {"flow": {"field": {"kind": "plugin", "name": name, **field}}}


def test_the_api_lists_its_own_fields_and_those_of_packages_without_importing_them(client: Client) -> None:
    own = [field for field in client.fields().items if field.package is None]
    assert {field.kind for field in own} == kinds_of(BuiltInField).keys()
    assert all("zero_init" in field.options["properties"] for field in own)
    plugins = {field.name: field for field in client.fields().items if field.kind == "plugin"}
    assert plugins.keys() == {"equivariant", "plain", "broken", "elsewhere"}
    assert plugins["equivariant"].package == PACKAGE
    assert plugins["equivariant"].options == SCHEMA
    assert "equivariant to rotations" in plugins["equivariant"].description
    assert plugins["equivariant"].problem is None
    assert "schema" in (plugins["broken"].problem or "")


def test_the_command_line_shows_the_fields_with_their_packages_and_why_one_can_not_be_used(client: Client) -> None:
    shown = CliRunner().invoke(main.app, ["fields"], env={"SYMADJ_URL": client.url}).output
    (line,) = [line for line in shown.splitlines() if PACKAGE in line]
    assert line.split()[:2] == ["plugin", "equivariant"]
    assert "can't be used" in shown


def test_a_job_is_stored_with_the_release_and_the_defaults_of_its_field(client: Client) -> None:
    flow = client.submit(spec(options={"particle_dim": 1})).spec["flow"]
    usual = {name: about["default"] for name, about in SCHEMA["properties"].items()}
    assert flow["field"] == {
        "kind": "plugin",
        "name": "equivariant",
        "package": PACKAGE,
        "options": usual | {"particle_dim": 1},
    }
    # As `symadj continue` does: the stored spec once more.
    again = client.submit(spec(**{name: flow["field"][name] for name in ("package", "options")}))
    assert again.spec["flow"]["field"] == flow["field"]


REFUSED: dict[str, tuple[dict[str, Any], str, str]] = {
    "a field that no package offers": (spec("elliptic"), "/name", f"'elliptic'; installed are: .*{PACKAGE}"),
    "a module of Python": (spec("os.path"), "/name", "'os.path'"),
    "another release": (
        spec(package="symadj-equivariant==9.0"),
        "/package",
        f"9.0, and what is installed is {PACKAGE}",
    ),
    "a value that the schema refuses": (spec(options={"kernels": 0}), "/options/kernels", f"{PACKAGE} .*minimum of 1"),
    "an option that there is not": (spec(options={"width": 8}), "/options", "'width' was unexpected"),
    "options of a package without a schema": (spec("plain", options={"width": 8}), "/options", "'width'"),
    "a schema that is no JSON": (spec("broken"), "/name", "unfit==2.0 can't be used"),
    "a schema that refers to the web": (spec("elsewhere"), "/name", "refers to http"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_not_installed_or_not_as_its_schema_says_is_refused_by_name(client: Client, name: str) -> None:
    sent, pointer, reason = REFUSED[name]
    with pytest.raises(ApiProblemError, match=reason) as refused:
        client.submit(sent)
    assert refused.value.status == 422
    assert [place for place, _ in refused.value.errors] == [f"/flow/field{pointer}"]


def test_where_nothing_is_installed_a_field_is_refused_and_says_so(api: httpx.Client) -> None:
    answer = api.post("/api/v1/jobs", json=spec())
    assert answer.status_code == 422
    assert "no installed package offers a field 'equivariant'; installed are: none" in answer.json()["detail"]
