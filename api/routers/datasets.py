"""The data sets that a spec may name."""

from __future__ import annotations

from fastapi import APIRouter

from api.schemas import DatasetList, DatasetRead
from service.catalogue import BUILTIN

router = APIRouter(prefix="/datasets", tags=["datasets"])


@router.get("")
def list_datasets() -> DatasetList:
    """List the built-in data sets."""
    return DatasetList(items=[DatasetRead.model_validate(dataset) for dataset in BUILTIN])
