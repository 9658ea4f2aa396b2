"""What requests under one Idempotency-Key have in common."""

from __future__ import annotations

import hashlib
import json

from pydantic import BaseModel

__all__ = ["hash_of_written", "id_under_key"]


def hash_of_written(spec: BaseModel) -> bytes:
    """Return a hash (32 bytes) of what the user wrote, without defaults: those may change with a release, and the
    user's retry would not match."""
    written = spec.model_dump(mode="json", exclude_unset=True)
    return hashlib.sha256(json.dumps(written, sort_keys=True).encode()).digest()


def id_under_key(owner: str, idempotency_key: str) -> str:
    """Return the part of an id (16 hexadecimal digits) that is the same for an owner's same key."""
    return hashlib.sha256(f"{owner}\0{idempotency_key}".encode()).hexdigest()[:16]
