"""What the spec offers is what the rooms below have, under the same names and with the same defaults.

The API must not load torch, so a spec's section and the class that it stands for are two declarations of one thing:
these tests tie them.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any, get_args

import pytest

from symadj.service import plugins
from symadj.service.contract import layout
from symadj.service.contract.spec import data as spec_data
from symadj.service.contract.spec import flow, objective, solver
from symadj.service.contract.spec.section import Section, kinds_of
from symadj.workers.data.formats.raw import READERS
from symadj_core.flows import DIVERGENCES, FIELDS, REGULARISERS, ConvField
from symadj_core.flows.fields import plugins as plugins_of_the_core
from symadj_core.flows.fields.activations import ACTIVATIONS
from symadj_core.flows.fields.layers import LAYERS
from symadj_core.flows.integrands.probes import Distribution
from symadj_core.gradients import GRADIENTS
from symadj_core.gradients.keep import KEEPS
from symadj_core.solvers.controller import IController
from symadj_core.solvers.tableaus import TABLEAUS
from symadj_core.trained import folder

# What the rows give: no option of a spec.
SIZES = {"dim", "shape", "context_dim"}
# Parameters of the core's classes that a spec does not offer.
NOT_IN_A_SPEC = {"adjoint": {"seminorm", "solver", "controller", "norm", "callbacks"}}


def options(section: type[Section], *but: str) -> dict[str, Any]:
    """The options of a section with their defaults; `inspect.Parameter.empty` for those that must be given."""
    return {
        name: inspect.Parameter.empty if field.is_required() else field.default
        for name, field in section.model_fields.items()
        if name not in ("kind", *but)
    }


def parameters(kind: type) -> dict[str, Any]:
    """The parameters of a class with their defaults."""
    return {name: p.default for name, p in inspect.signature(kind).parameters.items() if name not in SIZES}


def names(annotation: Any) -> tuple[Any, ...]:
    """The values of a Literal, which may be annotated."""
    inner = get_args(annotation)
    return names(inner[0]) if inner and not isinstance(inner[0], str) else inner


UNIONS: list[tuple[str, Any, Mapping[str, type]]] = [
    ("gradients", solver.NamedGradient, GRADIENTS),
    ("policies of what is kept", solver.Keep, KEEPS),
    ("divergences", flow.Divergence, DIVERGENCES),
    ("fields of rows", flow.BuiltInField, {name: kind for name, kind in FIELDS.items() if kind is not ConvField}),
]


@pytest.mark.parametrize(("what", "union", "registry"), UNIONS, ids=[what for what, _, _ in UNIONS])
def test_the_kinds_of_a_section_are_those_of_the_registry(what: str, union: Any, registry: Mapping[str, type]) -> None:
    assert kinds_of(union).keys() == registry.keys()


@pytest.mark.parametrize(
    ("section", "kind"),
    [(section, registry[name]) for _, union, registry in UNIONS for name, section in kinds_of(union).items()],
)
def test_the_options_of_a_section_are_the_parameters_of_its_class_with_the_same_defaults(
    section: type[Section], kind: Any
) -> None:
    offered, taken = options(section), parameters(kind)
    for name in NOT_IN_A_SPEC.get(kind.name, ()):
        assert name not in offered
        del taken[name]
    assert offered.keys() == taken.keys()
    for name, default in offered.items():
        if isinstance(default, Section):
            # The policy of what is kept: named in the core, a section here.
            assert taken[name] == default.kind  # type: ignore[attr-defined]
        elif default is not inspect.Parameter.empty and taken[name] is not inspect.Parameter.empty:
            assert taken[name] == default


def test_the_options_of_images_are_those_of_the_convolutional_field() -> None:
    section = flow.MultiscaleFlow(kind="multiscale")
    assert section.field_options() == parameters(ConvField)


def test_packages_offer_their_fields_in_one_group_of_entry_points() -> None:
    assert plugins.GROUP == plugins_of_the_core.GROUP


def test_every_regulariser_of_the_core_is_one_of_the_spec() -> None:
    assert kinds_of(objective.Regulariser).keys() == REGULARISERS.keys()


def test_every_solver_of_the_core_is_one_of_the_spec_fixed_or_adaptive() -> None:
    adaptive = names(solver.AdaptiveSolver.model_fields["method"].annotation)
    fixed = names(solver.FixedSolver.model_fields["method"].annotation)
    assert set(adaptive) == {name for name, tableau in TABLEAUS.items() if tableau.error is not None}
    assert set(fixed) == {name for name, tableau in TABLEAUS.items() if tableau.error is None}


def test_tolerances_have_the_defaults_of_the_core() -> None:
    # Whether workers share their steps is a matter of the norm there.
    offered, taken = options(solver.AdaptiveSolver, "method", "shared_steps"), parameters(IController)
    assert offered.keys() <= taken.keys()
    # A job that takes more than a thousand steps is lost; a library's caller may want them.
    del offered["max_steps"]
    assert offered == {name: taken[name] for name in offered}


@pytest.mark.parametrize(
    ("offered", "registry"),
    [
        (flow.TimeMode, LAYERS),
        (flow.ActivationName, ACTIVATIONS),
        (flow.HutchinsonDivergence.model_fields["distribution"].annotation, get_args(Distribution)),
        (flow.HutchPlusPlusDivergence.model_fields["distribution"].annotation, get_args(Distribution)),
    ],
)
def test_names_in_a_section_are_those_of_the_core(offered: Any, registry: Any) -> None:
    assert set(names(offered)) == set(registry)


def test_every_format_of_the_spec_has_a_reader_and_every_reader_a_format() -> None:
    assert set(names(spec_data.FormatName)) == spec_data.FORMATS.keys() == READERS.keys()


def test_every_option_of_a_format_is_a_field_of_the_data_and_is_refused_elsewhere() -> None:
    of_formats = {option for rules in spec_data.FORMATS.values() for option in rules.options}
    assert of_formats <= spec_data.FileData.model_fields.keys()
    assert of_formats == spec_data.OPTIONS_OF_FORMATS.keys()


def test_the_api_asks_for_the_files_that_a_flow_is_loaded_from() -> None:
    assert (layout.CONFIG, layout.WEIGHTS) == (folder.CONFIG, folder.WEIGHTS)
