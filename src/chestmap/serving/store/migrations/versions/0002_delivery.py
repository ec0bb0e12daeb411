"""Images of archives: where they came from, which one a corrected image replaces, and the delivery of their results."""

import hashlib
import json
from typing import Any

import sqlalchemy as sa
from alembic import context, op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def _column(name: str, kind: Any, default: str | None = None, *, nullable: bool = False) -> sa.Column[Any]:
    return sa.Column(name, kind, nullable=nullable, server_default=default)


def upgrade() -> None:
    """Columns are added and not tables made anew: a new table of studies would take everything that refers to it along."""
    op.drop_index("ix_study_sop_uid", "study")
    op.execute("ALTER TABLE study RENAME COLUMN sop_uid TO instance")
    op.create_index("ix_study_instance", "study", ["instance"])
    op.add_column("study", _column("origin", sa.String(8), "http"))
    op.create_index("ix_study_origin", "study", ["origin"])
    op.add_column("study", _column("deliver", sa.Boolean(), sa.false()))  # pyright: ignore[reportArgumentType]
    op.add_column("study", _column("revision", sa.Integer(), "0"))
    op.add_column("study", _column("content", sa.String(64), ""))
    op.add_column("result", _column("digest", sa.String(64), ""))
    op.create_table(
        "delivery",
        *(_column(name, sa.String(length)) for name, length in (("study_id", 32), ("subject", 64), ("state", 8))),
        _column("since", sa.Float()),
        _column("due", sa.Float()),
        _column("tries", sa.Integer()),
        _column("error", sa.Text()),
        sa.PrimaryKeyConstraint("study_id", "subject"),
        sa.ForeignKeyConstraint(["study_id"], ["study.id"], ondelete="CASCADE"),
    )
    op.create_index("ix_delivery_state_due", "delivery", ["state", "due"])
    _hide_identifiers()
    _add_digests()


def _hide_identifiers() -> None:
    instance_of, base = context.config.attributes["instance_of"], op.get_bind()
    study = sa.table("study", sa.column("id"), sa.column("instance"))
    for study_id, uid in base.execute(sa.select(study.c.id, study.c.instance).where(study.c.instance != "")).all():
        base.execute(sa.update(study).where(study.c.id == study_id).values(instance=instance_of(uid)))


def _add_digests() -> None:
    """As `results.digest_of` makes them; it may change, and this may not."""
    base = op.get_bind()
    result = sa.table(
        "result", *(sa.column(name) for name in ("study_id", "model_sha", "state", "digest")),
        sa.column("findings", sa.JSON()), sa.column("maps", sa.JSON()),
    )  # fmt: skip
    done = sa.select(result.c.study_id, result.c.model_sha).where(result.c.state == "done")
    for study_id, model_sha in base.execute(done).all():
        mine = (result.c.study_id == study_id) & (result.c.model_sha == model_sha)
        findings, maps = base.execute(sa.select(result.c.findings, result.c.maps).where(mine)).one()
        text = json.dumps([study_id, model_sha, findings, maps], sort_keys=True)
        base.execute(sa.update(result).where(mine).values(digest=hashlib.sha256(text.encode()).hexdigest()))


def downgrade() -> None:
    """Removes the queue of deliveries and the columns of an image's origin."""
    op.drop_table("delivery")
    op.drop_index("ix_study_origin", "study")
    op.drop_column("result", "digest")
    for name in ("origin", "deliver", "revision", "content"):
        op.drop_column("study", name)
    op.drop_index("ix_study_instance", "study")
    op.execute("ALTER TABLE study RENAME COLUMN instance TO sop_uid")
    op.create_index("ix_study_sop_uid", "study", ["sop_uid"])
