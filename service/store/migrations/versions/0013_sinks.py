"""How far sinks were fed.

Revision: 0013; follows: 0012.
"""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op

revision: str = "0013"
down_revision: str | None = "0012"
branch_labels: Sequence[str] | None = None
depends_on: Sequence[str] | None = None


def upgrade() -> None:
    op.create_table(
        "sink_positions",
        sa.Column("sink", sa.String(length=500), nullable=False),
        sa.Column("job_id", sa.String(length=64), nullable=False),
        sa.Column("metric_seq", sa.BigInteger(), nullable=False),
        sa.Column("ended", sa.Boolean(), nullable=False),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("sink", "job_id"),
    )


def downgrade() -> None:
    op.drop_table("sink_positions")
