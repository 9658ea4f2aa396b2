"""A trained flow made of downloaded files. It needs torch, which nothing else of the client does."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from symadj_core import TrainedFlow

__all__ = ["TrainedFlow", "load_flow"]


def load_flow(folder: str, **options: Any) -> TrainedFlow:
    """Return the flow in a folder, by `symadj_core.load` with these options."""
    import symadj_core

    return symadj_core.load(folder, **options)
