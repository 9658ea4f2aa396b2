"""The house: what each room may load. (The import rules themselves are in pyproject.toml, for `make check`.)"""

from __future__ import annotations

import subprocess
import sys

from symadj.service.catalogue import BUILTIN
from symadj.service.contract.spec.data import BuiltinData, ToyData

# An interpreter in which only the standard library, torch, numpy and what they need themselves can be found.
ALONE = """
import sys
forbidden = {"ray", "fastapi", "starlette", "pydantic", "sqlalchemy", "httpx", "sklearn", "matplotlib",
             "symadj"}
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in forbidden:
            raise ModuleNotFoundError(f"not installed here: {name}")
sys.meta_path.insert(0, Refuse())
"""


def run(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)


def test_symadj_core_works_with_torch_and_numpy_alone() -> None:
    code = ALONE + (
        "import torch, symadj_core\n"
        "from symadj_core import flows\n"
        "flow = flows.Flow([flows.Block(flows.MLPField(2))], 2)\n"
        "flow(torch.zeros(3, 2)).sum().backward()\n"
        "print('ok')"
    )
    result = run(code)
    assert result.stdout.strip() == "ok", result.stderr


def test_the_service_side_imports_without_torch_and_ray() -> None:
    # In one process, those that load the least first: each takes a second of a core to start.
    modules = {
        "symadj.api.client": [],
        "symadj.api.cli.main": [],
        "symadj.api.app": ["numpy"],
        "symadj.service.dispatcher": ["numpy"],
    }
    heavy = "print(sorted({'torch', 'ray', 'numpy', 'pandas', 'optuna'} & sys.modules.keys()))"
    result = run("import sys\n" + "".join(f"import {module}\n{heavy}\n" for module in modules))
    assert result.stdout.splitlines() == [str(loaded) for loaded in modules.values()], result.stderr


def test_the_catalogue_describes_every_data_set_that_a_spec_may_name() -> None:
    described = {(dataset.kind, dataset.name) for dataset in BUILTIN}
    allowed = set()
    for model in (BuiltinData, ToyData):
        kind = model.model_fields["kind"].annotation.__args__[0]  # type: ignore[union-attr]
        allowed |= {(kind, name) for name in model.model_fields["name"].annotation.__args__}  # type: ignore[union-attr]
    assert described == allowed
