"""What the server's retention has left of a job's telemetry.

Revision: 0015; follows: 0014.
"""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op

revision: str = "0015"
down_revision: str | None = "0014"
branch_labels: Sequence[str] | None = None
depends_on: Sequence[str] | None = None


def upgrade() -> None:
    op.add_column("jobs", sa.Column("telemetry", sa.String(length=16), nullable=True))
    op.create_index("ix_jobs_retention", "jobs", ["telemetry", "finished_at"])


def downgrade() -> None:
    op.drop_index("ix_jobs_retention", "jobs")
    op.drop_column("jobs", "telemetry")
