"""Alembic's entry: runs migrations on the connection that ``symadj.service.store.migrations.upgrade`` hands over."""

from __future__ import annotations

from typing import Any, Literal

from alembic import context
from alembic.autogenerate.api import AutogenContext

from symadj.service.store.tables import Base, NanFloat, UtcDateTime


def render_item(kind: str, item: Any, _context: AutogenContext) -> str | Literal[False]:
    """Write our types as what they are in the database: a migration must not change when our code does."""
    if kind == "type" and isinstance(item, UtcDateTime):
        return "sa.DateTime(timezone=True)"
    if kind == "type" and isinstance(item, NanFloat):
        return "sa.Float()"
    return False


context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=Base.metadata,
    render_as_batch=True,  # SQLite has no ALTER for most things
    render_item=render_item,
)
with context.begin_transaction():
    context.run_migrations()
