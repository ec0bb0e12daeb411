"""Indexes for the worklist: who reviewed a study, and which studies were reviewed last."""

from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_index("ix_review_by", "review", ["by"])
    op.create_index("ix_study_review_at", "study", ["review_at"])


def downgrade() -> None:
    op.drop_index("ix_study_review_at", "study")
    op.drop_index("ix_review_by", "review")
