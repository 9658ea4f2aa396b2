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
from service.spec.objective import (
    ConstantWeight,
    FlowMatching,
    HjbRegulariser,
    JacobianFrobeniusRegulariser,
    KineticRegulariser,
    LinearWeight,
    Pretraining,
    Regulariser,
    TransportRegulariser,
    WeightSchedule,
)
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
    EarlyStop,
    MovingAverage,
    Optimizer,
    PlateauSchedule,
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
    "ConstantWeight",
    "CosineSchedule",
    "CpuResources",
    "Data",
    "Divergence",
    "EarlyStop",
    "Evaluation",
    "ExactDivergence",
    "FixedSolver",
    "Flow",
    "FlowMatching",
    "GpuResources",
    "Gradient",
    "HjbRegulariser",
    "HutchinsonDivergence",
    "JacobianFrobeniusRegulariser",
    "JobSpec",
    "Keep",
    "KeepBinomial",
    "KeepBudget",
    "KeepStages",
    "KeepSteps",
    "KineticRegulariser",
    "LabelName",
    "LinearWeight",
    "MemorySize",
    "MovingAverage",
    "OneCheckpointGradient",
    "Optimizer",
    "PlateauSchedule",
    "Pretraining",
    "Regulariser",
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
    "TransportRegulariser",
    "WeightSchedule",
]
