"""The job spec: what a user POSTs, with every default written out.

Pydantic only, so that the API, the workers and a user's own script can import it alike.
Every section that may grow variants is a union told apart by its ``kind``. Quantities carry their unit in their
name (``max_minutes``) or in their value (``memory_budget: "12GiB"``).
"""

from __future__ import annotations

from service.spec.data import ArcsinhTransform, BuiltinData, Data, StandardiseTransform, ToyData, Transform
from service.spec.evaluation import Evaluation
from service.spec.flow import CnfFlow, Divergence, ExactDivergence, Flow, HutchinsonDivergence
from service.spec.job import LABEL_NAME, JobSpec, LabelName
from service.spec.resources import CpuResources, GpuResources, Resources
from service.spec.section import MemorySize, Section
from service.spec.solver import (
    AcaGradient,
    AdaptiveSolver,
    AdjointGradient,
    BackpropGradient,
    FixedSolver,
    Gradient,
    Keep,
    KeepBinomial,
    KeepBudget,
    KeepStages,
    KeepSteps,
    OneCheckpointGradient,
    Solver,
    SymplecticGradient,
)
from service.spec.training import (
    AdamOptimizer,
    AdamWOptimizer,
    ConstantSchedule,
    CosineSchedule,
    Optimizer,
    Schedule,
    SgdOptimizer,
    Stop,
    StopAfterMinutes,
    StopAfterSteps,
)

__all__ = [
    "LABEL_NAME",
    "AcaGradient",
    "AdamOptimizer",
    "AdamWOptimizer",
    "AdaptiveSolver",
    "AdjointGradient",
    "ArcsinhTransform",
    "BackpropGradient",
    "BuiltinData",
    "CnfFlow",
    "ConstantSchedule",
    "CosineSchedule",
    "CpuResources",
    "Data",
    "Divergence",
    "Evaluation",
    "ExactDivergence",
    "FixedSolver",
    "Flow",
    "GpuResources",
    "Gradient",
    "HutchinsonDivergence",
    "JobSpec",
    "Keep",
    "KeepBinomial",
    "KeepBudget",
    "KeepStages",
    "KeepSteps",
    "LabelName",
    "MemorySize",
    "OneCheckpointGradient",
    "Optimizer",
    "Resources",
    "Schedule",
    "Section",
    "SgdOptimizer",
    "Solver",
    "StandardiseTransform",
    "Stop",
    "StopAfterMinutes",
    "StopAfterSteps",
    "SymplecticGradient",
    "ToyData",
    "Transform",
]
