"""The data sets that a spec may name."""

from __future__ import annotations

from fastapi import APIRouter

from symadj.api.schemas.service import DatasetList, DatasetRead
from symadj.service.catalogue import BUILTIN

router = APIRouter(prefix="/datasets", tags=["datasets"])


@router.get("")
def list_datasets() -> DatasetList:
    """List the built-in data sets."""
    return DatasetList(items=[DatasetRead.model_validate(dataset) for dataset in BUILTIN])
