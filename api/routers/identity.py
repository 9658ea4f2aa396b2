"""Who asks."""

from __future__ import annotations

from fastapi import APIRouter

from symadj.api.dependencies import Asker
from symadj.api.schemas.keys import Identity

router = APIRouter(prefix="/identity", tags=["keys"])


@router.get("")
async def read_identity(asker: Asker) -> Identity:
    """Say whose key this is and what it allows; without keys everyone is `local`, an admin."""
    return Identity(name=asker.name, role=asker.role)
