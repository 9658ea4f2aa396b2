"""Labels of jobs in a table of their own.

Revision: 0005; follows: 0004.
"""

import json
from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op

revision: str = "0005"
down_revision: str | None = "0004"
branch_labels: Sequence[str] | None = None
depends_on: Sequence[str] | None = None


def upgrade() -> None:
    labels = op.create_table(
        "job_labels",
        sa.Column("job_id", sa.String(length=64), nullable=False),
        sa.Column("name", sa.String(length=64), nullable=False),
        sa.Column("value", sa.String(length=256), nullable=False),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("job_id", "name"),
    )
    op.create_index("ix_job_labels_name_value", "job_labels", ["name", "value", "job_id"])
    connection = op.get_bind()
    # As text: PostgreSQL can't read JSON with a NUL in it, which earlier versions accepted, and keeps no text with one.
    for job_id, spec in connection.execute(sa.text("SELECT id, CAST(spec AS TEXT) FROM jobs")).all():
        found = json.loads(spec).get("labels", {})
        rows = [{"job_id": job_id, "name": n, "value": v} for n, v in found.items() if "\0" not in v]
        if rows:
            connection.execute(sa.insert(labels), rows)


def downgrade() -> None:
    op.drop_table("job_labels")
