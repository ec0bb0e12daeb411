"""Filters of the worklist with their indexes; blind stages of reviews; independent reads and who is to make them."""

from typing import Any

import sqlalchemy as sa
from alembic import context, op

from chestmap.serving.store.film_dates import shown_date

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None
INDEXED = ("taken", "shown_taken", "sex", "view", "review_by", "disagreement")


def _texts(**lengths: int) -> list[sa.Column[Any]]:
    return [sa.Column(name, sa.String(length), nullable=False) for name, length in lengths.items()]


def _of_study(*others: str) -> list[Any]:
    key = sa.PrimaryKeyConstraint("study_id", *others)
    return [*_texts(study_id=32), sa.ForeignKeyConstraint(["study_id"], ["study.id"], ondelete="CASCADE"), key]


def upgrade() -> None:
    """Adds columns and indexes of the filters, and the tables of assignments and reads; then shifts the shown dates of old
    rows.
    """
    op.add_column("study", sa.Column("shown_taken", sa.String(20), nullable=False, server_default=""))
    op.add_column("study", sa.Column("disagreement", sa.Integer(), nullable=False, server_default="0"))
    op.add_column("review", sa.Column("stage", sa.String(8), nullable=False, server_default="open"))
    for name in INDEXED:
        op.create_index(f"ix_study_{name}", "study", [name])
    op.create_index("ix_score_finding_score", "score", ["finding", "score"])
    op.create_table("assignment", *_of_study("reader"), *_texts(reader=64, by=64, at=32, done=32))
    op.create_index("ix_assignment_reader", "assignment", ["reader"])
    op.create_table(
        "read", *_of_study("reader", "version"), *_texts(reader=64, state=8, stage=8, at=32),
        sa.Column("version", sa.Integer(), nullable=False), sa.Column("findings", sa.JSON(), nullable=False),
        sa.Column("note", sa.Text(), nullable=False),
    )  # fmt: skip
    _shift_dates()


def _shift_dates() -> None:
    base, key = op.get_bind(), context.config.attributes["key"]()
    study = sa.table("study", *(sa.column(name) for name in ("id", "taken", "patient", "shown_taken")))
    for study_id, taken, patient in base.execute(sa.select(study.c.id, study.c.taken, study.c.patient)).all():
        if shown := shown_date(taken, patient, key, true=False):
            base.execute(sa.update(study).where(study.c.id == study_id).values(shown_taken=shown))


def downgrade() -> None:
    """Removes the tables, columns and indexes that `upgrade` added."""
    op.drop_table("read")
    op.drop_table("assignment")
    op.drop_index("ix_score_finding_score", "score")
    for name in INDEXED:
        op.drop_index(f"ix_study_{name}", "study")
    op.drop_column("review", "stage")
    for name in ("shown_taken", "disagreement"):
        op.drop_column("study", name)
