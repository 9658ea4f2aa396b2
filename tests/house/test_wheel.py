"""What `pip install` of symadj puts on a machine, and that it gets in the way of nothing that is there."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import httpx
import pytest
from packaging.requirements import Requirement

from symadj import __file__ as package_file
from tests.conftest import ApiServer, running_api

ROOT = Path(package_file).parents[1]
ROOMS = ("api", "service", "workers")
SOURCES = ("symadj", "symadj_core", *ROOMS, "pyproject.toml", "README.md", "LICENSE")
SITE_PACKAGES = f"lib/python{sys.version_info.major}.{sys.version_info.minor}/site-packages"
# setuptools itself would go to work in the folder that it builds, and pip would look for it in the index.
BUILD = ("--quiet", "--no-deps", "--no-build-isolation", "--disable-pip-version-check")

# A user's project may have folders of the names that our own rooms have.
PROJECT = """
import sys

import api, service, workers
from symadj.api.client import Client

assert {module.OWNER for module in (api, service, workers)} == {"the user"}
with Client(sys.argv[1]) as client:
    print([job.name for job in client.jobs().items])
"""


def run(*command: str | Path, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    return subprocess.run(command, cwd=cwd, env=inherited | environment, capture_output=True, text=True, check=False)


def succeed(*command: str | Path, cwd: Path, **environment: str) -> str:
    done = run(*command, cwd=cwd, **environment)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def environment_with(wheel: Path, folder: Path, libraries: Path) -> Path:
    """Make a virtual environment with the wheel in it that finds what else it needs in ``libraries``."""
    succeed(sys.executable, "-m", "venv", "--without-pip", folder, cwd=folder.parent)
    pip = (sys.executable, "-m", "pip", "--python", folder / "bin/python")
    succeed(*pip, "install", "--quiet", "--no-deps", "--disable-pip-version-check", wheel, cwd=folder.parent)
    # Paths that such a file names are searched, but a .pth in them (an editable install is one) does nothing.
    (folder / SITE_PACKAGES / "libraries.pth").write_text(f"{libraries}\n")
    return folder


def link_with_requirements(names: list[str], folder: Path) -> None:
    """Link the installed distributions ``names``, and all that they require, into ``folder``."""
    folder.mkdir()
    seen: set[str] = set()
    while names:
        name = names.pop()
        if name in seen:
            continue
        seen.add(name)
        distribution = metadata.distribution(name)
        for top in {file.parts[0] for file in distribution.files or ()} - {"..", "__pycache__", "bin"}:
            if not (folder / top).exists():
                (folder / top).symlink_to(Path(str(distribution.locate_file(top))))
        for requirement in map(Requirement, distribution.requires or ()):
            if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
                names.append(requirement.name)


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of what is built, so that the build leaves nothing in the repository and takes nothing old from it."""
    folder = tmp_path_factory.mktemp("sources")
    for name in SOURCES:
        if (ROOT / name).is_dir():
            ignore = shutil.ignore_patterns("__pycache__")
            shutil.copytree(ROOT / name, folder / name, symlinks=True, ignore=ignore)
        else:
            shutil.copy(ROOT / name, folder / name)
    return folder


@pytest.fixture(scope="module")
def wheel(sources: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("wheel")
    succeed(sys.executable, "-m", "pip", "wheel", *BUILD, "--wheel-dir", target, sources, cwd=target)
    (built,) = target.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment with the wheel and every library of the tests' own, but not this repository."""
    return environment_with(wheel, tmp_path_factory.mktemp("full") / "venv", Path(httpx.__file__).parents[1])


@pytest.fixture(scope="module")
def bare(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment with what `pip install .` brings: no extras."""
    folder = tmp_path_factory.mktemp("bare")
    link_with_requirements(["torch", "numpy"], folder / "libraries")
    return environment_with(wheel, folder / "venv", folder / "libraries")


@pytest.fixture(scope="module")
def server(installed: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApiServer]:
    """The API as the wheel has it."""
    data = tmp_path_factory.mktemp("data")
    with running_api(data, python=installed / "bin/python", PYTHONSAFEPATH="1") as running:
        answer = httpx.post(
            f"{running.url}/api/v1/jobs", json={"name": "from a wheel", "data": {"kind": "toy", "name": "moons"}}
        )
        assert answer.status_code == 201, answer.text
        yield running


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A user's project with packages `api`, `service` and `workers` of its own."""
    for room in ROOMS:
        (tmp_path / room).mkdir()
        (tmp_path / room / "__init__.py").write_text('OWNER = "the user"\n')
    (tmp_path / "script.py").write_text(PROJECT)
    return tmp_path


def contents(wheel: Path) -> set[str]:
    return {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}


def test_the_wheel_has_every_file_of_the_rooms_and_takes_two_names_alone(wheel: Path, sources: Path) -> None:
    expected = {
        f"{prefix}{path.relative_to(sources)}"
        for room, prefix in (*((room, "symadj/") for room in ROOMS), ("symadj", ""), ("symadj_core", ""))
        for path in (sources / room).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert contents(wheel) == expected
    assert {name.split("/")[0] for name in contents(wheel)} == {"symadj", "symadj_core"}


def test_a_wheel_made_from_the_source_distribution_is_the_same(wheel: Path, sources: Path, tmp_path: Path) -> None:
    make = "import sys, setuptools.build_meta as build; build.build_sdist(sys.argv[1])"
    succeed(sys.executable, "-c", make, tmp_path, cwd=sources)
    (archive,) = tmp_path.glob("*.tar.gz")
    succeed(sys.executable, "-m", "pip", "wheel", *BUILD, "--wheel-dir", tmp_path, archive, cwd=tmp_path)
    (again,) = tmp_path.glob("*.whl")
    assert contents(again) == contents(wheel)


def test_the_command_and_the_client_run_in_a_project_with_packages_of_the_rooms_names(
    installed: Path, server: ApiServer, project: Path
) -> None:
    listed = succeed(
        installed / "bin/symadj", "list", "--json", "--url", server.url, cwd=project, PYTHONPATH=str(project)
    )
    assert "from a wheel" in listed
    assert succeed(installed / "bin/python", "script.py", server.url, cwd=project).strip() == "['from a wheel']"


def test_an_installed_run_finds_the_data_that_symadj_brings(installed: Path, project: Path) -> None:
    code = (
        "from symadj.service.contract.spec.data import BuiltinData\n"
        "from symadj.workers.data.builtin import load_builtin\n"
        "print(len(load_builtin(BuiltinData(kind='builtin', name='flow_cytometry')).rows))"
    )
    assert succeed(installed / "bin/python", "-c", code, cwd=project).strip() == "110000"


def test_without_extras_the_command_names_the_extra_that_it_needs(bare: Path, tmp_path: Path) -> None:
    done = run(bare / "bin/symadj", "list", cwd=tmp_path)
    assert done.returncode == 1
    assert "pip install '.[service]'" in done.stderr
    assert "Traceback" not in done.stderr


def test_without_extras_symadj_core_trains_a_flow(bare: Path, tmp_path: Path) -> None:
    code = (
        "import torch\n"
        "from symadj_core import flows\n"
        "flow = flows.Flow([flows.Block(flows.MLPField(2))], 2)\n"
        "flow(torch.zeros(3, 2)).sum().backward()\n"
        "print(flow.blocks[0].field.__class__.__name__)"
    )
    assert succeed(bare / "bin/python", "-c", code, cwd=tmp_path).strip() == "MLPField"
