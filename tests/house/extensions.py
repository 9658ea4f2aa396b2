"""One extension of each kind, as a newcomer would write it, in the files that CONTRIBUTING.md's table names."""

from __future__ import annotations

from dataclasses import dataclass, field

__all__ = ["EXTENSIONS", "Edit", "Extension"]


@dataclass(frozen=True)
class Edit:
    """Text that takes the place of an anchor, which stands in the file once."""

    file: str
    anchor: str
    text: str


@dataclass(frozen=True)
class Extension:
    """What is added, and how it shows.

    Attributes:
        name: what NAME in the table's paths stands for.
        new: text of files that there were not.
        edits: of files that there are.
        proof: code that fails unless the extension works; the URL of a server is its first argument.
    """

    name: str
    proof: str
    new: dict[str, str] = field(default_factory=dict)
    edits: tuple[Edit, ...] = ()

    @property
    def files(self) -> set[str]:
        return {*self.new, *(edit.file for edit in self.edits)}


_FLOW = """
import torch
from symadj.service.contract.spec import JobSpec
from symadj.workers.model.build import build_flow

def flow_of(**sections):
    flow = {"kind": "cnf", "dtype": "float64", "divergence": {"kind": "exact"}, **sections.pop("flow", {})}
    spec = {"data": {"kind": "toy", "name": "moons"}, "flow": flow, **sections}
    return build_flow(JobSpec.model_validate(spec), 2)

x = torch.linspace(-1, 1, 10, dtype=torch.float64).reshape(5, 2)
"""

SOLVER = Extension(
    "ralston",
    edits=(
        Edit(
            "symadj_core/solvers/tableaus.py",
            "TABLEAUS: Registry",
            'RALSTON = ButcherTableau(\n    "ralston",\n    2,\n    a=((), (2 / 3,)),\n    b=(1 / 4, 3 / 4),\n'
            "    c=(0.0, 2 / 3),\n    error=(-3 / 4, 3 / 4),\n    error_order=1,\n)\n\nTABLEAUS: Registry",
        ),
        Edit("symadj_core/solvers/tableaus.py", "            DOPRI8,\n", "            DOPRI8,\n            RALSTON,\n"),
        Edit("service/contract/spec/solver.py", '"bosh3", ', '"bosh3", "ralston", '),
    ),
    proof=_FLOW
    + """
ralston, usual = (flow_of(solver={"kind": "adaptive", "method": name}).log_prob(x) for name in ("ralston", "dopri5"))
assert torch.allclose(ralston, usual, atol=1e-2)
""",
)

GRADIENT = Extension(
    "again",
    new={
        "symadj_core/gradients/again.py": '''"""Solve again."""

from dataclasses import dataclass
from typing import ClassVar

from symadj_core.gradients.onecheckpoint import OneCheckpoint


@dataclass(frozen=True)
class Again(OneCheckpoint):
    """As `onecheckpoint`."""

    name: ClassVar[str] = "again"
'''
    },
    edits=(
        Edit(
            "symadj_core/gradients/__init__.py",
            "from symadj_core.gradients.backprop import",
            "from symadj_core.gradients.again import Again\nfrom symadj_core.gradients.backprop import",
        ),
        Edit("symadj_core/gradients/__init__.py", "Symplectic, Adjoint)}", "Symplectic, Adjoint, Again)}"),
        Edit(
            "service/contract/spec/solver.py",
            "NamedGradient = ",
            'class AgainGradient(_Gradient):\n    kind: Literal["again"]\n\n\nNamedGradient = AgainGradient | ',
        ),
    ),
    proof=_FLOW
    + """
gradients = []
for kind in ("again", "backprop"):
    flow = flow_of(gradient={"kind": kind})
    flow(x).sum().backward()
    gradients.append(torch.cat([parameter.grad.flatten() for parameter in flow.parameters()]))
assert torch.allclose(*gradients, rtol=1e-9)
""",
)

FIELD = Extension(
    "diagonal",
    new={
        "symadj_core/flows/fields/diagonal.py": '''"""A field whose components do not see each other."""

import torch
from torch import Tensor, nn

from symadj_core.flows.fields.base import VectorField


class DiagonalField(VectorField):
    """f = a tanh(y), a vector."""

    name = "diagonal"

    def __init__(self, dim: int, *, scale: float = 1.0, context_dim: int = 0) -> None:
        super().__init__(dim, context_dim)
        self.rates = nn.Parameter(torch.full((dim,), scale))

    def forward(self, t: Tensor, y: Tensor, context: Tensor | None = None) -> Tensor:
        return self.rates * torch.tanh(y)
'''
    },
    edits=(
        Edit(
            "symadj_core/flows/fields/__init__.py",
            "from symadj_core.flows.fields.mlp",
            "from symadj_core.flows.fields.diagonal import DiagonalField\nfrom symadj_core.flows.fields.mlp",
        ),
        Edit(
            "symadj_core/flows/fields/__init__.py",
            "PotentialField, ConvField)}",
            "PotentialField, ConvField, DiagonalField)}",
        ),
        Edit(
            "service/contract/spec/flow.py",
            "BuiltInField = ",
            'class DiagonalField(_Field):\n    kind: Literal["diagonal"]\n    scale: float = 1.0\n\n\n'
            "BuiltInField = DiagonalField | ",
        ),
    ),
    proof=_FLOW
    + """
flow = flow_of(flow={"field": {"kind": "diagonal", "scale": 0.5}})
flow(x).sum().backward()
assert all(parameter.grad.abs().min() > 0 for parameter in flow.parameters())
""",
)

REGULARISER = Extension(
    "quartic",
    edits=(
        Edit(
            "symadj_core/flows/integrands/regularisers.py",
            "REGULARISERS: Registry",
            'class Quartic(Regulariser):\n    """|f|^4."""\n\n    name = "quartic"\n\n'
            "    def rate(self, place: Place) -> Tensor:\n        return 4 * place.half_energy.square()\n\n\n"
            "REGULARISERS: Registry",
        ),
        Edit(
            "symadj_core/flows/integrands/regularisers.py",
            "HamiltonJacobiBellman)}",
            "HamiltonJacobiBellman, Quartic)}",
        ),
        Edit(
            "service/contract/spec/objective.py",
            "Regulariser = Annotated[\n    ",
            'class QuarticRegulariser(_Regulariser):\n    kind: Literal["quartic"]\n\n\n'
            "Regulariser = Annotated[\n    QuarticRegulariser | ",
        ),
    ),
    proof=_FLOW
    + """
JobSpec.model_validate({"data": {"kind": "toy", "name": "moons"}, "regularisers": [{"kind": "quartic", "weight": 1}]})
steps = {"kind": "fixed", "method": "euler", "steps": 1}
flow = flow_of(solver=steps, flow={"blocks": 1})
_, found = flow.regularised_log_prob(x, seed=0, regularisers=["quartic"])
field = flow.blocks[0].field
assert torch.allclose(found["quartic"], field(torch.zeros((), dtype=x.dtype), x).square().sum(-1).square())
""",
)

FORMAT = Extension(
    "tsv",
    new={
        "workers/data/formats/tsv.py": '''"""Tables with tabs between their values."""

import numpy as np

from symadj.service.contract.spec.data import FileData
from symadj.workers.data.formats.raw import InputFile, Raw, reading, reads


@reads("tsv")
def read_tsv(file: InputFile, data: FileData) -> Raw:
    """Read all columns; the first line names them."""
    with reading(file, "tsv"), file.path.open() as stream:
        names = tuple(stream.readline().rstrip("\\n").split("\\t"))
        return Raw(np.loadtxt(stream, delimiter="\\t", ndmin=2), names)
'''
    },
    edits=(
        Edit("service/contract/spec/data.py", '"fcs", "idx"]', '"fcs", "idx", "tsv"]'),
        Edit(
            "service/contract/spec/data.py",
            '    "parquet": FileFormat(',
            '    "tsv": FileFormat((".tsv",)),\n    "parquet": FileFormat(',
        ),
    ),
    proof="""
from pathlib import Path
from symadj.service.contract.spec.data import FileData
from symadj.workers.data.formats.raw import READERS, InputFile

Path("rows.tsv").write_text("a\\tb\\n1\\t2\\n3\\t4\\n")
data = FileData.model_validate({"kind": "file", "path": "rows.tsv"})
raw = READERS[data.format](InputFile(Path("rows.tsv"), "rows.tsv"), data)
assert raw.columns == ("a", "b") and raw.values.tolist() == [[1, 2], [3, 4]]
""",
)

ENDPOINT = Extension(
    "owners",
    new={
        "api/routers/owners.py": '''"""Who has jobs."""

from fastapi import APIRouter
from pydantic import Field

from symadj.api.dependencies import Store
from symadj.api.schemas.answer import Answer
from symadj.service.store import jobs

router = APIRouter(prefix="/owners", tags=["owners"])


class OwnerList(Answer):
    """Owners of jobs."""

    items: list[str] = Field(description="By name.")


@router.get("")
def list_owners(store: Store) -> OwnerList:
    """List the owners of jobs by name."""
    with store.read_session() as session:
        return OwnerList(items=jobs.owners(session))
'''
    },
    edits=(
        Edit(
            "service/store/jobs.py",
            "def add(",
            "def owners(session: Session) -> list[str]:\n"
            "    return list(session.scalars(sa.select(Job.owner).distinct().order_by(Job.owner)))\n\n\ndef add(",
        ),
        Edit(
            "api/client/requests.py",
            "    @asks\n    def usage(self)",
            "    @asks\n    def owners(self) -> Request[OwnerList]:\n"
            "        from symadj.api.routers.owners import OwnerList\n\n"
            '        return Request("GET", "/api/v1/owners", answer(OwnerList))\n\n    @asks\n    def usage(self)',
        ),
    ),
    proof="""
import sys

import httpx
from symadj.api.client import Client

with Client(sys.argv[1]) as client:
    assert client.owners().items == []
    client.submit({"data": {"kind": "toy", "name": "moons"}})
    assert client.owners().items == ["local"]
operation = httpx.get(f"{sys.argv[1]}/openapi.json", timeout=60).json()["paths"]["/api/v1/owners"]["get"]
assert "401" in operation["responses"]
""",
)

COMMAND = Extension(
    "ingestion",
    edits=(
        Edit(
            "api/client/requests.py",
            "    @asks\n    def usage(self)",
            "    @asks\n    def ingestion(self) -> Request[Health]:\n"
            '        return Request("GET", "/ingestz", answer(Health))\n\n    @asks\n    def usage(self)',
        ),
        Edit(
            "api/cli/showing.py",
            "@client_command(app)\ndef usage(",
            "@client_command(app)\ndef ingestion(client: Client) -> None:\n"
            '    """Say whether the records of runs are taken."""\n'
            "    print(client.ingestion().status)\n\n\n"
            "@client_command(app)\ndef usage(",
        ),
    ),
    proof="""
import sys
from symadj.command import main

sys.argv = ["symadj", "ingestion", "--url", sys.argv[1]]
main()
""",
)

# By the first column of the table.
EXTENSIONS = {
    "solver": SOLVER,
    "gradient": GRADIENT,
    "field": FIELD,
    "regulariser": REGULARISER,
    "data format": FORMAT,
    "endpoint": ENDPOINT,
    "command": COMMAND,
}
