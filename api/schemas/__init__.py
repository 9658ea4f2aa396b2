"""What the API answers."""

from api.schemas.answer import value_or_nan
from api.schemas.jobs import (
    AttemptList,
    AttemptRead,
    CheckpointList,
    CheckpointRead,
    EventList,
    EventRead,
    JobList,
    JobRead,
    JobSummary,
)
from api.schemas.keys import KeyCreated, KeyList, KeyRead, NewKey
from api.schemas.service import (
    DatasetList,
    DatasetRead,
    Health,
    Readiness,
    UsageRead,
)
from api.schemas.telemetry import (
    ArtifactList,
    ArtifactRead,
    BucketRead,
    MemoryPhase,
    MemoryPointRead,
    MemoryPoints,
    MemorySummary,
    MetricList,
    MetricPointRead,
    MetricRead,
    MetricSeriesRead,
)

__all__ = [
    "ArtifactList",
    "ArtifactRead",
    "AttemptList",
    "AttemptRead",
    "BucketRead",
    "CheckpointList",
    "CheckpointRead",
    "DatasetList",
    "DatasetRead",
    "EventList",
    "EventRead",
    "Health",
    "JobList",
    "JobRead",
    "JobSummary",
    "KeyCreated",
    "KeyList",
    "KeyRead",
    "MemoryPhase",
    "MemoryPointRead",
    "MemoryPoints",
    "MemorySummary",
    "MetricList",
    "MetricPointRead",
    "MetricRead",
    "MetricSeriesRead",
    "NewKey",
    "Readiness",
    "UsageRead",
    "value_or_nan",
]
