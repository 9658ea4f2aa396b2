"""Which migration the tables are of, read without Alembic: most processes only look, and its libraries take 10 MiB."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import resources

import sqlalchemy as sa
from sqlalchemy.engine import Connection

__all__ = ["Shape", "known_migrations", "shape_of"]

_VERSION = sa.table("alembic_version", sa.column("version_num"))


@dataclass(frozen=True)
class Shape:
    """The migration that the tables are of (None: there are none), the newest, and whether this version knows it."""

    found: str | None
    newest: str
    is_known: bool

    @property
    def is_current(self) -> bool:
        """Whether the tables are those of this version."""
        return self.found == self.newest


def known_migrations() -> list[str]:
    """Return the migrations of this version, the oldest first, by the names of their files (``0016_uploads.py``)."""
    files = resources.files("symadj.service.store").joinpath("migrations", "versions").iterdir()
    return sorted(file.name.partition("_")[0] for file in files if file.name[0].isdigit())


def shape_of(connection: Connection) -> Shape:
    """Return which migration the tables are of, and which is the newest; nothing is changed."""
    known = known_migrations()
    found: str | None = None
    if sa.inspect(connection).has_table(_VERSION.name):
        found = connection.scalar(sa.select(_VERSION.c.version_num))
    return Shape(found, known[-1], found is None or found in known)
