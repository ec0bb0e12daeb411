"""Digests of studies, reviews and reads, by which a damaged row is seen."""

import hashlib
import json

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None
TEXTS = {
    "read": ("study_id", "reader", "version", "state", "stage", "at", "findings", "note"),
    "review": ("study_id", "version", "state", "stage", "by", "at", "findings", "note"),
    "study": (
        "id", "sha256", "name", "patient", "shown_patient", "taken", "shown_taken", "instance", "revision", "content", "exam", "age", "sex",
        "view", "image", "suspicion", "teaches", "top",
    ),
}  # fmt: skip
"""As `row_digests.COLUMNS` has them; these may change, and those here may not."""
TREES = ("findings", "image", "top")


def upgrade() -> None:
    """Adds a digest to each study, review and read, and computes it for the rows that are there."""
    base = op.get_bind()
    for name, columns in TEXTS.items():
        op.add_column(name, sa.Column("digest", sa.String(64), nullable=False, server_default=""))
        table = sa.table(
            name, *(sa.column(one, sa.JSON() if one in TREES else None) for one in columns), sa.column("digest")
        )
        key = {"read": columns[:3], "review": columns[:2]}.get(name, columns[:1])
        for row in base.execute(sa.select(*(table.c[one] for one in columns))).all():
            text = json.dumps(list(row), sort_keys=True)
            mine = sa.and_(*(table.c[one] == getattr(row, one) for one in key))
            base.execute(sa.update(table).where(mine).values(digest=hashlib.sha256(text.encode()).hexdigest()))


def downgrade() -> None:
    """Removes the digests; rows are then no longer checked."""
    for name in TEXTS:
        op.drop_column(name, "digest")
