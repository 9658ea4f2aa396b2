"""Runs the migrations, with Alembic."""

from __future__ import annotations

from alembic import command
from alembic.config import Config
from sqlalchemy.engine import Connection

__all__ = ["alembic_config", "upgrade_to_newest"]


def upgrade_to_newest(connection: Connection) -> None:
    """Bring the tables to this version's shape, in the connection's transaction."""
    command.upgrade(alembic_config(connection), "head")


def alembic_config(connection: Connection) -> Config:
    """Return the configuration that runs our migrations on a connection."""
    config = Config()
    config.set_main_option("script_location", "symadj.service.store:migrations")
    config.attributes["connection"] = connection
    return config
