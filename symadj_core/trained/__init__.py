"""Trained flows, taken home: from the files of a run to a distribution in the units of its data."""

from symadj_core.errors import LoadError
from symadj_core.trained.build import as_tested, build_flow
from symadj_core.trained.flow import TrainedFlow
from symadj_core.trained.folder import load
from symadj_core.trained.kl import KLEstimate, estimate_kl
from symadj_core.trained.space import DataSpace

__all__ = [
    "DataSpace",
    "KLEstimate",
    "LoadError",
    "TrainedFlow",
    "as_tested",
    "build_flow",
    "estimate_kl",
    "load",
]
