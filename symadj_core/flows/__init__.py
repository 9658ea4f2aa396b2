"""Continuous normalizing flows: fields, divergences, probes, blocks and flows."""

from symadj_core.flows.cnf import Block, BlockSettings, Flow
from symadj_core.flows.divergence import Divergence, Exact, Hutchinson
from symadj_core.flows.fields import MLPField
from symadj_core.flows.probes import ProbeKey

__all__ = ["Block", "BlockSettings", "Divergence", "Exact", "Flow", "Hutchinson", "MLPField", "ProbeKey"]
