"""`make paper`: its two physical systems, the field that learns them, and the page that it writes."""

from __future__ import annotations

import math
import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from benchmarks.paper import __main__ as paper
from benchmarks.paper.dynamics import EnergyField, Lesson, compared_methods, loss_of
from benchmarks.paper.methods import methods
from benchmarks.paper.page import Measured, claims
from benchmarks.paper.pde import PDE, SYSTEMS, CahnHilliard, KortewegDeVries, SimulationError, simulate
from benchmarks.paper.sizes import SIZES
from symadj_core.gradients import GRADIENTS
from symadj_core.gradients.keep import KEEPS
from symadj_core.solvers.tableaus import TABLEAUS
from tests.house.written import ROOT

EACH = pytest.mark.parametrize("pde", [system(16) for system in SYSTEMS], ids=lambda pde: pde.name)


def learnt_field(pde: PDE) -> EnergyField:
    torch.manual_seed(0)
    return EnergyField(pde.operator, pde.spacing, hidden=8)


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("paper")


@pytest.fixture(scope="module")
def quick(target: Path) -> Measured:
    found = paper.measure(SIZES["quick"])
    paper.write(found, target)
    return found


def test_the_matrix_of_korteweg_de_vries_is_skew() -> None:
    operator = KortewegDeVries(points=16).operator
    assert torch.equal(operator, -operator.T)


def test_the_matrix_of_cahn_hilliard_is_negative_semidefinite() -> None:
    operator = CahnHilliard(points=16).operator
    assert torch.equal(operator, operator.T)
    values = torch.linalg.eigvalsh(operator)
    assert values.max() < 1e-12 * values.abs().max()


@EACH
def test_the_slope_is_the_gradient_of_the_energy_and_the_curvature_the_slopes(pde: PDE) -> None:
    u = pde.initial(1, seed=0).requires_grad_()
    (gradient,) = torch.autograd.grad(pde.energy(u).sum(), u)
    torch.testing.assert_close(pde.slope(u), gradient / pde.spacing)
    direction, step = pde.initial(1, seed=1), 1e-5
    change = (pde.slope(u + step * direction) - pde.slope(u - step * direction)) / (2 * step)
    torch.testing.assert_close((pde.curvature(u) @ direction[..., None])[..., 0], change, rtol=1e-6, atol=1e-7)


@EACH
def test_the_reference_scheme_is_of_order_two(pde: PDE) -> None:
    start = pde.initial(2, seed=0)
    coarse, middle, fine = (simulate(pde, start, 1, substeps)[-1] for substeps in (8, 16, 32))
    order = math.log2(float((coarse - middle).norm() / (middle - fine).norm()))
    assert order == pytest.approx(2, abs=0.1)


@EACH
def test_the_reference_scheme_conserves_mass_and_conserves_or_dissipates_energy(pde: PDE) -> None:
    snapshots = simulate(pde, pde.initial(3, seed=0), 5, 4)
    masses, energies = pde.mass(snapshots), pde.energy(snapshots)
    torch.testing.assert_close(masses, masses[:1].expand_as(masses), rtol=0, atol=1e-12)
    changes = energies[1:] - energies[:-1]
    if isinstance(pde, KortewegDeVries):
        assert changes.abs().max() < 1e-11 * energies.abs().max()
    else:
        assert changes.max() < 0


def test_a_soliton_moves_at_its_speed_and_the_error_is_of_order_two_in_space_and_time() -> None:
    errors = []
    for points, substeps in ((48, 5), (96, 10)):
        pde = KortewegDeVries(points=points, length=20.0)
        speed, start = 1.5, 6.0
        end = simulate(pde, pde.soliton(speed, 0.0, start)[None], 4, substeps)[-1, 0]
        exact = pde.soliton(speed, 4 * pde.interval, start)
        errors.append(float((end - exact).norm() / exact.norm()))
    assert errors[1] < 0.02
    assert math.log2(errors[0] / errors[1]) == pytest.approx(2, abs=0.3)


def test_steps_that_newton_can_not_take_are_refused_with_what_to_do() -> None:
    pde = replace(KortewegDeVries(points=16), interval=10.0)
    with pytest.raises(SimulationError, match=r"Korteweg-de Vries.*time step of 10: take more substeps"):
        simulate(pde, pde.initial(4, seed=0), 1, 1)


@EACH
def test_the_learnt_energy_is_conserved_or_dissipated_and_mass_conserved_whatever_the_weights(pde: PDE) -> None:
    field, u = learnt_field(pde), pde.initial(4, seed=0).requires_grad_()
    rate = field(torch.zeros(()), u)
    (gradient,) = torch.autograd.grad(field.energy(u).sum(), u)
    power = (gradient * rate).sum(-1)
    scale = gradient.norm(dim=-1) * rate.norm(dim=-1)
    if isinstance(pde, KortewegDeVries):
        assert (power.abs() < 1e-14 * scale).all()
    else:
        assert (power < 0).all()
    assert (rate.sum(-1).abs() < 1e-12 * rate.abs().sum(-1)).all()


@EACH
def test_exact_gradients_of_the_learnt_field_agree_to_rounding_and_the_continuous_adjoints_does_not(pde: PDE) -> None:
    before, after = simulate(pde, pde.initial(2, seed=0), 1, 4)
    # A solve of several steps: over a single small one even the continuous adjoint is right to rounding.
    lesson = Lesson(before, after, 2 * pde.interval)
    found: dict[str, Tensor] = {}
    for method in compared_methods():
        field = learnt_field(pde)
        with torch.no_grad():
            for parameter in field.parameters():
                parameter.mul_(3)
        loss, _ = loss_of(field, lesson, method.gradient)
        loss.backward()
        found[method.label] = torch.cat([p.grad.flatten() for p in field.parameters() if p.grad is not None])
    reference = found.pop("backprop")
    inexact = found.pop("adjoint")
    assert found
    for gradient in found.values():
        assert (gradient - reference).norm() < 1e-12 * reference.norm()
    assert (inexact - reference).norm() > 1e-8 * reference.norm()


def test_every_gradient_and_every_policy_of_what_to_keep_is_compared() -> None:
    compared = [method.gradient for method in methods(state=8)]
    assert {gradient.name for gradient in compared} == GRADIENTS.keys()
    kept = {str(keep).partition("(")[0] for keep in (getattr(g, "keep", None) for g in compared) if keep is not None}
    assert kept == KEEPS.keys()


def test_every_claim_holds_at_the_quick_size_too(quick: Measured) -> None:
    assert [claim for claim in claims(quick) if not claim.holds] == []


def test_a_slope_that_is_not_the_arithmetics_is_a_claim_that_does_not_hold(quick: Measured) -> None:
    growths = list(quick.by_blocks)
    leaking = replace(growths[0], peaks=tuple(peak + 10**6 * n for n, peak in enumerate(growths[0].peaks)))
    assert not all(claim.holds for claim in claims(replace(quick, by_blocks=[leaking, *growths[1:]])))


NUMBER = re.compile(rf"-?\b\d[\d.,]*(?:e[+-]?\d+)?%?|\b(?:nan|inf|failed|{'|'.join(TABLEAUS)})\b")


def form(page: str) -> list[str]:
    """A page's paragraphs and lines of tables, with # for numbers and solvers; those that are then alike stand once."""
    lines: list[str] = []
    for block in page.split("\n\n"):
        flat = NUMBER.sub("#", block)
        lines += flat.splitlines() if flat.startswith("|") else [" ".join(flat.split())]
    return list(dict.fromkeys(lines))


def test_the_page_in_docs_is_one_that_make_paper_writes(quick: Measured, target: Path) -> None:
    assert form((ROOT / "docs" / "paper.md").read_text()) == form((target / "paper.md").read_text())
    pictures = re.findall(r"\]\((\w+\.png)\)", (ROOT / "docs" / "paper.md").read_text())
    assert pictures
    for picture in pictures:
        assert (target / picture).read_bytes().startswith(b"\x89PNG")
