"""JSON merge patches (RFC 7396)."""

from __future__ import annotations

from typing import Any

__all__ = ["MERGE_PATCH", "merged"]

MERGE_PATCH = "application/merge-patch+json"


def merged(target: Any, patch: Any) -> Any:
    """Return ``target`` changed by ``patch``: objects are merged, null removes a member, all else replaces."""
    if not isinstance(patch, dict):
        return patch
    result = dict(target) if isinstance(target, dict) else {}
    for name, value in patch.items():
        if value is None:
            result.pop(name, None)
        else:
            result[name] = merged(result.get(name), value)
    return result
