"""What is minimised: the negative log-likelihood, penalties beside it, and what comes before it."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from symadj.service.contract.spec.flow import CnfFlow, Flow
from symadj.service.contract.spec.section import Section, misfit
from symadj.service.contract.spec.training import ConstantSchedule, CosineSchedule


class ConstantWeight(Section):
    """The weight as it is, at every step."""

    kind: Literal["constant"] = "constant"


class LinearWeight(Section):
    """The weight times a factor: ``start`` up to ``from_step``, ``end`` from ``to_step`` on, a straight line between.

    Steps are those of the whole training, pre-training included.
    """

    kind: Literal["linear"]
    from_step: int = Field(0, ge=0, le=100_000_000, description="Until this step the weight is `start`.")
    to_step: int = Field(ge=1, le=100_000_000, description="From this step on it is `end`; in between it is linear.")
    start: float = Field(0.0, ge=0, le=1e6, description="Factor on the regulariser's weight at first.")
    end: float = Field(1.0, ge=0, le=1e6, description="Factor on it at last.")


WeightSchedule = Annotated[ConstantWeight | LinearWeight, Field(discriminator="kind")]


class _Regulariser(Section):
    kind: str
    weight: float = Field(gt=0, le=1e6, description="Of its mean over the rows, beside the NLL in nats.")
    schedule: WeightSchedule = Field(ConstantWeight(), description="Of the weight, over the steps.")

    def refused(self, flow: Flow) -> str | None:
        """Return why the regulariser makes no sense for ``flow``, None if it makes sense."""
        return None


class KineticRegulariser(_Regulariser):
    """Integral of ``|f|^2`` along the path (Finlay et al. 2020): straight paths at constant speed, fewer steps."""

    kind: Literal["kinetic"]


class JacobianFrobeniusRegulariser(_Regulariser):
    """Integral of ``|df/dy|_F^2``, estimated by the divergence's probes (RNODE, Finlay et al. 2020)."""

    kind: Literal["jacobian_frobenius"]

    def refused(self, flow: Flow) -> str | None:
        if flow.divergence.gives_norm:
            return None
        return (
            "the regulariser jacobian_frobenius is estimated along with the trace, which "
            f"flow.divergence.kind {flow.divergence.kind} does not do: take hutchinson or exact"
        )


class TransportRegulariser(_Regulariser):
    """Integral of ``|f|^2 / 2``, the transport cost (OT-Flow, Onken et al. 2021)."""

    kind: Literal["transport"]


class HjbRegulariser(_Regulariser):
    """Violation of the Hamilton-Jacobi-Bellman equation along the path (OT-Flow); of potential fields only."""

    kind: Literal["hjb"]

    def refused(self, flow: Flow) -> str | None:
        if flow.has_potential:
            return None
        field = f"flow.field.kind {flow.field.kind}" if isinstance(flow, CnfFlow) else f"flow.kind {flow.kind}"
        return (
            f"the regulariser hjb is about the potential whose gradient the field is; {field} has none: take "
            "potential, a field of flow.kind cnf"
        )


Regulariser = Annotated[
    KineticRegulariser | JacobianFrobeniusRegulariser | TransportRegulariser | HjbRegulariser,
    Field(discriminator="kind"),
]


class FlowMatching(Section):
    """The first steps of the training by flow matching (Lipman et al. 2023; Tong et al. 2024): no ODE is solved.

    Its loss is the metric ``flow_matching_loss``; regularisers take no part. The optimiser starts afresh after it: give
    its schedule some ``warmup_steps``, or its first steps undo a part of what was learnt.
    """

    kind: Literal["flow_matching"] = "flow_matching"
    steps: int = Field(ge=1, le=100_000_000, description="Of the training's steps, the first so many.")
    max_epochs: int | None = Field(
        None,
        ge=1,
        le=1_000_000,
        description="Passes over the training rows, at most: where there are too few rows for `steps`, a run takes "
        "fewer, and as many fewer of `stop.max_steps`. null: no limit.",
    )
    optimal_transport: bool = Field(
        True,
        description="Pair data with base samples by optimal transport within the batch, instead of at random; of rows "
        "with a context only those of the same one, and at random where each has its own (see `context_ratio`).",
    )
    context_ratio: float | None = Field(
        None,
        gt=0,
        le=1,
        description="For contexts of continuous values: rows of different contexts may be exchanged too, at the price "
        "of the contexts' squared distance. Its weight is such that a row prefers this share of the other rows' "
        "samples to its own; the smaller the share, the nearer the contexts. null: only rows of the same context.",
    )
    learning_rate: float | None = Field(None, gt=0, le=100, description="null: the optimizer's.")
    schedule: Annotated[ConstantSchedule | CosineSchedule, Field(discriminator="kind")] = Field(
        ConstantSchedule(), description="Of the learning rate, over these steps."
    )

    @model_validator(mode="after")
    def _ratio_is_of_a_transport(self) -> Self:
        if self.context_ratio is not None and not self.optimal_transport:
            raise misfit(
                "/pretraining/context_ratio",
                f"pretraining.context_ratio {self.context_ratio} says which rows pretraining.optimal_transport may "
                "exchange, which is false: leave it out, or take optimal_transport true",
            )
        return self


Pretraining = FlowMatching
