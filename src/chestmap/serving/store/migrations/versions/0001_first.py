"""The tables of the first version."""

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def _column(name: str, kind: Any, *, nullable: bool = False) -> sa.Column[Any]:
    return sa.Column(name, kind, nullable=nullable)


def _long() -> sa.types.TypeEngine[Any]:
    return sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def _of_study(*others: str) -> list[Any]:
    key = sa.PrimaryKeyConstraint("study_id", *others)
    return [_column("study_id", sa.String(32)), sa.ForeignKeyConstraint(["study_id"], ["study.id"], ondelete="CASCADE"), key]


def upgrade() -> None:
    """Creates the tables of studies, files, results, scores and reviews."""
    _study()
    op.create_table(
        "file",
        *_of_study("kind"),
        *(_column(name, sa.String(length)) for name, length in (("kind", 96), ("path", 256), ("sha256", 64))),
        _column("bytes", _long()),
    )
    op.create_table(
        "result",
        *_of_study("model_sha"),
        *(_column(name, sa.String(length)) for name, length in (("model_sha", 64), ("model_id", 64), ("state", 8))),
        _column("number", _long()),
        _column("deaths", sa.Integer()),
        _column("error", sa.Text(), nullable=True),
        _column("at", sa.String(32), nullable=True),
        _column("findings", sa.JSON()),
        _column("maps", sa.JSON()),
    )
    op.create_index("ix_result_state_number", "result", ["state", "number"])
    op.create_table(
        "review",
        *_of_study("version"),
        _column("version", sa.Integer()),
        *(_column(name, sa.String(length)) for name, length in (("state", 8), ("by", 64), ("at", 32))),
        _column("findings", sa.JSON()),
        _column("note", sa.Text()),
    )
    op.create_table(
        "score",
        *_of_study("model_sha", "finding"),
        *(_column(name, sa.String(64)) for name in ("model_sha", "finding")),
        _column("score", sa.Float()),
        _column("over", sa.Boolean()),
    )
    op.create_index("ix_score_finding_over", "score", ["finding", "over"])


def _study() -> None:
    texts = {"received": 32, "name": 128, "patient": 32, "taken": 32, "sop_uid": 64, "view": 16, "state": 8}
    op.create_table(
        "study",
        _column("id", sa.String(32)),
        _column("sha256", sa.String(64)),
        *(_column(name, sa.String(length)) for name, length in texts.items()),
        _column("shown_patient", sa.String(128), nullable=True),
        _column("error", sa.Text(), nullable=True),
        *(_column(name, sa.JSON()) for name in ("image", "top")),
        *(_column(name, sa.Float()) for name in ("suspicion", "teaches")),
        _column("review_version", sa.Integer()),
        _column("review_state", sa.String(8)),
        _column("review_by", sa.String(64)),
        _column("review_at", sa.String(32), nullable=True),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("sha256"),
    )
    for name in ("received", "patient", "sop_uid", "state", "suspicion", "teaches", "review_state"):
        op.create_index(f"ix_study_{name}", "study", [name])


def downgrade() -> None:
    """Drops all tables, the referring ones first."""
    for name in ("score", "review", "result", "file", "study"):
        op.drop_table(name)
