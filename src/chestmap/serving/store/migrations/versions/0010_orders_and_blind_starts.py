"""Accession number, indication and body position of exams; who began to read a study blind."""

import sqlalchemy as sa
from alembic import op

from chestmap.serving.store.worklist.text_index import drop

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None
COLUMNS = {"accession": 16, "indication": 200, "position": 32}


def upgrade() -> None:
    drop(op.get_bind())  # it is made again, with accession numbers, when the store opens
    for name, length in COLUMNS.items():
        op.add_column("study", sa.Column(name, sa.String(length), nullable=False, server_default=""))
    op.create_table(
        "blind_start",
        sa.Column("study_id", sa.String(32), sa.ForeignKey("study.id", ondelete="CASCADE"), primary_key=True),
        sa.Column("reader", sa.String(64), primary_key=True),
        sa.Column("at", sa.String(32), nullable=False),
    )


def downgrade() -> None:
    drop(op.get_bind())
    op.drop_table("blind_start")
    for name in COLUMNS:
        op.drop_column("study", name)
