"""Who asks, and what their key allows them."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

__all__ = ["LOCAL", "NAME", "Principal", "Role"]

# Of a key: it owns jobs and stands in events. An address of mail is one.
NAME = r"^[A-Za-z0-9][A-Za-z0-9._@+-]{0,99}$"


class Role(StrEnum):
    """What a key allows."""

    ADMIN = "admin"
    SUBMITTER = "submitter"
    VIEWER = "viewer"


@dataclass(frozen=True)
class Principal:
    """Who asks, as what, and by which key."""

    name: str
    role: Role
    key_id: str | None = None

    @property
    def confined_to(self) -> str | None:
        """The only owner whose jobs they see; None: they see all."""
        return self.name if self.role is Role.SUBMITTER else None


# Without keys: anyone who reaches the API.
LOCAL = Principal("local", Role.ADMIN)
