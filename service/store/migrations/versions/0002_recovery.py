"""Attempts that follow each other: checkpoints, wishes to stop, signs of life.

Revision: 0002; follows: 0001.
"""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op

revision: str = "0002"
down_revision: str | None = "0001"
branch_labels: Sequence[str] | None = None
depends_on: Sequence[str] | None = None


def upgrade() -> None:
    op.execute("ALTER TABLE jobs RENAME COLUMN cancel_requested_at TO stop_requested_at")
    op.add_column("jobs", sa.Column("stop_requested", sa.String(length=16), nullable=True))
    op.execute("UPDATE jobs SET stop_requested = 'cancel' WHERE stop_requested_at IS NOT NULL")
    op.add_column("jobs", sa.Column("checkpoints_asked", sa.BigInteger(), nullable=False, server_default="0"))
    op.add_column("jobs", sa.Column("not_before", sa.DateTime(timezone=True), nullable=True))
    op.add_column("jobs", sa.Column("attempts_lost", sa.BigInteger(), nullable=False, server_default="0"))
    op.add_column("jobs", sa.Column("parent_id", sa.String(length=64), nullable=True))
    op.add_column("jobs", sa.Column("parent_checkpoint", sa.String(length=64), nullable=True))
    op.create_index("ix_jobs_parent_id", "jobs", ["parent_id"])

    op.add_column("attempts", sa.Column("workers", sa.BigInteger(), nullable=False, server_default="0"))
    op.add_column("attempts", sa.Column("outcome", sa.String(length=16), nullable=True))
    op.add_column("attempts", sa.Column("reason", sa.String(length=32), nullable=True))
    op.add_column("attempts", sa.Column("message", sa.Text(), nullable=True))
    op.add_column("attempts", sa.Column("resumed_from_step", sa.BigInteger(), nullable=True))

    op.add_column("ingest_sources", sa.Column("seen_at", sa.DateTime(timezone=True), nullable=True))
    op.add_column("ingest_sources", sa.Column("farewell", sa.Boolean(), nullable=False, server_default=sa.false()))

    op.create_table(
        "checkpoints",
        sa.Column("job_id", sa.String(length=64), nullable=False),
        sa.Column("name", sa.String(length=64), nullable=False),
        sa.Column("step", sa.BigInteger(), nullable=False),
        sa.Column("attempt", sa.BigInteger(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("bytes", sa.BigInteger(), nullable=False),
        sa.Column("sha256", sa.String(length=64), nullable=False),
        sa.Column("cause", sa.String(length=16), nullable=False),
        sa.Column("validation_nll", sa.Float(), nullable=True),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("job_id", "name"),
    )


def downgrade() -> None:
    op.drop_table("checkpoints")
    op.drop_column("ingest_sources", "farewell")
    op.drop_column("ingest_sources", "seen_at")
    for name in ("resumed_from_step", "message", "reason", "outcome", "workers"):
        op.drop_column("attempts", name)
    op.drop_index("ix_jobs_parent_id", "jobs")
    for name in ("parent_checkpoint", "parent_id", "attempts_lost", "not_before", "checkpoints_asked"):
        op.drop_column("jobs", name)
    op.drop_column("jobs", "stop_requested")
    op.execute("ALTER TABLE jobs RENAME COLUMN stop_requested_at TO cancel_requested_at")
