"""Continuous normalizing flows: fields, divergences, probes, regularisers, blocks and flows."""

from symadj_core.flows.block import Block, BlockSettings
from symadj_core.flows.cnf import Flow
from symadj_core.flows.conditional import ConditionalFlow
from symadj_core.flows.fields import FIELDS, ConvField, MLPField, PotentialField, ResidualField, VectorField
from symadj_core.flows.images import PartialBlock, multiscale_flow, scales
from symadj_core.flows.integrands import divergence
from symadj_core.flows.integrands.divergence import DIVERGENCES, Divergence, Exact, Hutchinson, HutchPlusPlus
from symadj_core.flows.integrands.probes import ProbeKey
from symadj_core.flows.integrands.regularisers import REGULARISERS
from symadj_core.flows.matching import flow_matching_loss
from symadj_core.flows.pieces import piece_rows

__all__ = [
    "DIVERGENCES",
    "FIELDS",
    "REGULARISERS",
    "Block",
    "BlockSettings",
    "ConditionalFlow",
    "ConvField",
    "Divergence",
    "Exact",
    "Flow",
    "HutchPlusPlus",
    "Hutchinson",
    "MLPField",
    "PartialBlock",
    "PotentialField",
    "ProbeKey",
    "ResidualField",
    "VectorField",
    "divergence",
    "flow_matching_loss",
    "multiscale_flow",
    "piece_rows",
    "scales",
]
