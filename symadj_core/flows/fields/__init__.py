"""Vector fields by name, and the closed forms of their divergence."""

from symadj_core.flows.fields.base import VectorField
from symadj_core.flows.fields.convolutional import ConvField
from symadj_core.flows.fields.mlp import MLPField
from symadj_core.flows.fields.plugins import plugin_field
from symadj_core.flows.fields.potential import PotentialField
from symadj_core.flows.fields.residual import ResidualField
from symadj_core.registry import Classes

__all__ = ["FIELDS", "ConvField", "MLPField", "PotentialField", "ResidualField", "VectorField", "plugin_field"]

FIELDS: Classes[VectorField] = Classes(
    "field", {kind.name: kind for kind in (MLPField, ResidualField, PotentialField, ConvField)}
)
