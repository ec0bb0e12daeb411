"""The revision of the image of which an object in the archive was made, so that a corrected image withdraws it.

And measures and the mark of a key image, which reviews and reads keep.
"""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("sent", sa.Column("revision", sa.Integer(), nullable=False, server_default="0"))
    op.execute("UPDATE sent SET revision = (SELECT study.revision FROM study WHERE study.id = sent.study_id)")
    for name in ("review", "read"):
        op.add_column(name, sa.Column("measures", sa.JSON(), nullable=False, server_default="[]"))
        op.add_column(name, sa.Column("key", sa.Boolean(), nullable=False, server_default=sa.false()))


def downgrade() -> None:
    for name in ("review", "read"):
        for column in ("key", "measures"):
            op.drop_column(name, column)
    op.drop_column("sent", "revision")
