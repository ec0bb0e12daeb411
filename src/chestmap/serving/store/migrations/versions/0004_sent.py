"""Objects that the archive has: a verified report replaces them, a rejection note withdraws them."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None
TEXTS = {"instance": 64, "series": 64, "sop_class": 64, "subject": 64, "at": 32, "withdrawn": 32}


def upgrade() -> None:
    """Creates the table of objects that the archive holds."""
    op.create_table(
        "sent",
        sa.Column("study_id", sa.String(32), nullable=False),
        *(sa.Column(name, sa.String(length), nullable=False) for name, length in TEXTS.items()),
        sa.PrimaryKeyConstraint("study_id", "instance"),
        sa.ForeignKeyConstraint(["study_id"], ["study.id"], ondelete="CASCADE"),
    )


def downgrade() -> None:
    """Drops the table of objects that the archive holds."""
    op.drop_table("sent")
