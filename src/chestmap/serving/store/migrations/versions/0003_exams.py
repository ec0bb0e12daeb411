"""Exams: which images belong together, and what a worklist shows of a patient."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None
COLUMNS = {"exam": 32, "age": 4, "sex": 1}


def upgrade() -> None:
    """Adds the columns of exams; rows that are there keep them empty."""
    for name, length in COLUMNS.items():
        op.add_column("study", sa.Column(name, sa.String(length), nullable=False, server_default=""))
    op.create_index("ix_study_exam", "study", ["exam"])


def downgrade() -> None:
    """Removes the columns of exams."""
    op.drop_index("ix_study_exam", "study")
    for name in COLUMNS:
        op.drop_column("study", name)
