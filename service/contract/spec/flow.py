"""The model."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import BeforeValidator, Field, JsonValue, model_validator

from symadj.service.contract.spec.section import Section, misfit


class BaseDivergence(Section):
    """Base of the ways to take the trace of the field's Jacobian."""

    def refused(self, columns: int) -> tuple[str, str] | None:
        """Return the field that makes no sense for a state of so many columns, and why; None if all make sense."""
        return None


class ExactDivergence(BaseDivergence):
    """The trace of the Jacobian: in closed form where the field has one, else by one VJP a dimension."""

    kind: Literal["exact"]
    gives_norm: ClassVar[bool] = True


class HutchinsonDivergence(BaseDivergence):
    """Hutchinson's unbiased estimate of the trace, its probes held fixed for a whole solve (FFJORD)."""

    kind: Literal["hutchinson"] = "hutchinson"
    gives_norm: ClassVar[bool] = True
    distribution: Literal["rademacher", "gaussian"] = Field("rademacher", description="Of the probe vectors' entries.")
    probes: int = Field(1, ge=1, le=1024, description="Probe vectors of a row; its noise falls with their root.")


class HutchPlusPlusDivergence(BaseDivergence):
    """Hutch++ (Meyer et al. 2021): exact on the directions that matter most, Hutchinson's estimate on the rest."""

    kind: Literal["hutchpp"]
    gives_norm: ClassVar[bool] = False
    distribution: Literal["rademacher", "gaussian"] = Field("rademacher", description="Of the probe vectors' entries.")
    probes: int = Field(
        3,
        ge=3,
        le=1023,
        multiple_of=3,
        description="Vector-Jacobian products of a use of the field: a third each to find the directions, to take the "
        "trace on them, and for the rest. Fewer than the data have columns: that many give the exact trace.",
    )

    def refused(self, columns: int) -> tuple[str, str] | None:
        if self.probes < columns:
            return None
        fewer = (columns - 1) // 3 * 3
        name, less = ("probes", f"at most {fewer} probes, or ") if fewer else ("kind", "")
        return name, (
            f"the {self.probes} probes of hutchpp must be fewer than the {columns} columns that a block moves: "
            f"{columns} products give the exact trace, so take {less}kind exact"
        )


Divergence = Annotated[ExactDivergence | HutchinsonDivergence | HutchPlusPlusDivergence, Field(discriminator="kind")]

Width = Annotated[int, Field(ge=1, le=65_536)]
TimeMode = Annotated[
    Literal["concat", "concatsquash", "fourier"],
    Field(
        description="How a layer sees the time t: as one more input (concat), as gate and shift (concatsquash), or as "
        "gate and shift that are Fourier series of t (fourier)."
    ),
]
ActivationName = Literal["tanh", "softplus", "silu"]
ZeroInit = Annotated[bool, Field(description="Start with a field that is zero, so that the flow is the identity.")]


class _Field(Section):
    has_potential: ClassVar[bool] = False


class MlpField(_Field):
    """A multilayer perceptron."""

    kind: Literal["mlp"] = "mlp"
    hidden: Annotated[tuple[Width, ...], Field(min_length=1, max_length=16)] | None = Field(
        (64, 64),
        description="Widths of the hidden layers. null: by the columns, those of the context included: three layers of "
        "128 for up to 12, and two of 8 for each column, from 128 to 1024, for more.",
    )
    time: TimeMode = "concatsquash"
    activation: ActivationName = Field(
        "tanh", description="Between the layers; smooth, as the solver's order requires."
    )
    input_scale: float = Field(
        1.0,
        gt=0,
        le=100,
        description="Times the first layer's initial weights and bias: above 1, a density of fine structure is learnt "
        "in fewer steps.",
    )
    zero_init: ZeroInit = False


class ResidualField(_Field):
    """A perceptron whose hidden layers, two at a time, are added to what they were given."""

    kind: Literal["residual"]
    width: Width = Field(64, description="Units of a hidden layer.")
    depth: int = Field(2, ge=1, le=64, description="Residual blocks, of two layers each.")
    time: TimeMode = "concatsquash"
    activation: ActivationName = Field(
        "tanh", description="Between the layers; smooth, as the solver's order requires."
    )
    zero_init: ZeroInit = False


class PotentialField(_Field):
    """The gradient of a potential, whose exact trace has a closed form (OT-Flow, Onken et al. 2021)."""

    kind: Literal["potential"]
    has_potential: ClassVar[bool] = True
    width: Width = Field(64, description="Units of a hidden layer.")
    depth: int = Field(2, ge=2, le=64, description="Layers of the potential's residual network.")
    rank: int = Field(
        10, ge=1, le=65_536, description="Rank of the potential's quadratic term, at most the number of its inputs."
    )
    zero_init: ZeroInit = False


BuiltInField = MlpField | ResidualField | PotentialField


class PluginField(_Field):
    """A field of a package that is installed with the service; ``GET /api/v1/fields`` lists those that there are."""

    kind: Literal["plugin"]
    name: str = Field(
        max_length=100, pattern=r"^\w[\w.-]*$", description="Under which the package offers it (`symadj.fields`)."
    )
    package: str | None = Field(
        None,
        max_length=200,
        pattern=r"^\w[\w.-]*==[\w.+!-]+$",
        description="NAME==VERSION of the release that must offer it; null: the one that is installed, which the job's "
        "spec then names.",
    )
    options: dict[str, JsonValue] = Field(default_factory=dict, description="As the package's schema has them.")


VectorField = Annotated[BuiltInField | PluginField, Field(discriminator="kind")]


def _not_half(value: Any) -> Any:
    if value in ("float16", "fp16", "half"):
        raise misfit(
            "",
            f"{value} is refused: its smallest normal number is 6e-5 and its largest 65504, and the cotangents of a "
            "solve, each a step size times a loss's gradient, fall below the one where a Jacobian's exceed the other; "
            "take bfloat16 (field_dtype), which has float32's range",
        )
    return value


Dtype = Annotated[Literal["float32", "float64"], BeforeValidator(_not_half)]
FieldDtype = Annotated[Literal["bfloat16"] | None, BeforeValidator(_not_half)]


class _Continuous(Section):
    """What all flows have that are stacks of continuous blocks over a standard normal base."""

    end_time: float = Field(
        1.0, ge=1e-6, le=100, description="At which a block ends, which begins at 0; in the field's unit of time."
    )
    learn_end_time: bool = Field(
        False,
        description="Learn each block's end time too; its gradient is exact, and it stays positive: what would take it "
        "below a hundredth of `end_time` brings it towards 0 more and more slowly.",
    )
    divergence: Divergence = Field(
        HutchinsonDivergence(),
        description="How the trace of the field's Jacobian is computed, of which the log-determinant is the integral.",
    )
    dtype: Dtype = Field("float32", description="Of weights and state.")
    field_dtype: FieldDtype = Field(
        None,
        description="Precision of the products of matrices within the field; state, log-determinant, weights and "
        "solver keep `dtype`, and the test likelihood is computed in it throughout. null: `dtype`.",
    )

    @model_validator(mode="after")
    def _reduced_from_float32(self) -> Self:
        if self.field_dtype is not None and self.dtype != "float32":
            raise misfit("/flow/field_dtype", f"field_dtype {self.field_dtype} needs dtype float32, not {self.dtype}")
        return self


class CnfFlow(_Continuous):
    """Stacked continuous normalizing flow blocks over a standard normal base."""

    kind: Literal["cnf"] = "cnf"
    blocks: int = Field(2, ge=1, le=64, description="Blocks M, each with a vector field of its own.")
    field: VectorField = Field(MlpField(), description="The network f(t, y) that moves the state: dy/dt.")
    needs_images: ClassVar[bool] = False

    @property
    def has_potential(self) -> bool:
        """Whether the field is the gradient of a potential."""
        return self.field.has_potential

    def fewest_moved(self, columns: int) -> int:
        """Return how many columns the block moves that moves fewest."""
        return columns


class MultiscaleFlow(_Continuous):
    """Convolutional blocks on several scales of an image, half of the channels left out from scale to scale (FFJORD).

    The data must be images: ``digits``, or a file of arrays [rows, height, width] or [rows, channels, height, width].
    """

    kind: Literal["multiscale"]
    has_potential: ClassVar[bool] = False
    needs_images: ClassVar[bool] = True
    levels: int = Field(
        3,
        ge=1,
        le=12,
        description="Scales. Height and width of the images are halved from one to the next, so they must be multiples "
        "of 2 to the power of levels - 1.",
    )
    blocks: int = Field(
        2,
        ge=1,
        le=64,
        description="For each way that a level sees the image: as it is, and (on all levels but the last) with 2 x 2 "
        "pixels made four channels. So there are blocks (2 levels - 1) in all, each with a vector field of its own.",
    )
    hidden_channels: tuple[Width, ...] = Field(
        (64, 64, 64), min_length=1, max_length=16, description="Of the hidden layers; all convolutions are 3 x 3."
    )
    time: TimeMode = "concat"
    activation: ActivationName = Field(
        "softplus", description="Between the layers; smooth, as the solver's order requires."
    )
    zero_init: ZeroInit = False

    def fewest_moved(self, columns: int) -> int:
        """Return how many columns the block moves that moves fewest: half of them are left out from level to level."""
        return columns >> (self.levels - 1)

    def field_options(self) -> dict[str, Any]:
        """Return the keyword arguments of the convolutional field."""
        return {
            "hidden": self.hidden_channels,
            "time": self.time,
            "activation": self.activation,
            "zero_init": self.zero_init,
        }


Flow = Annotated[CnfFlow | MultiscaleFlow, Field(discriminator="kind")]
