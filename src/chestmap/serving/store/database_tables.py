"""Defines the tables of the database. Times are UTC, ISO 8601 with microseconds, so that text sorts as time does.

Column names never change without a migration in `migrations/`. Rows that matter carry a digest (`row_digests.py`).
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import JSON, BigInteger, Boolean, Float, ForeignKey, Index, Integer, String, Text, false
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

OVER = ("replaced", "removed")
"""States of studies that get no results any more."""
SHOWN = ("queued", "done", "failed")
"""States of studies that stand in the worklist unless another is asked for."""
MODELS, READER, READERS = 1, 2, 4
"""Who disagrees: models on a finding, a reader with a model, independent readers with each other."""
REVIEW = "review"
"""The subject of a delivery that holds what a reader verified."""
FHIR, HL7 = REPORTS = ("fhir", "hl7")
"""Subjects of deliveries that send a finished review to a FHIR server, and to an HL7 receiver."""
WITHDRAWAL = "withdrawal"
"""The subject of a delivery that rejects objects of an image that a corrected one replaced."""

Long = BigInteger().with_variant(Integer, "sqlite")


class Base(DeclarativeBase):
    """`migrations/` holds the same tables, step by step; a test compares them."""


class Study(Base):
    """One image. `id` follows from the content, so that the same file is the same study.

    received   safe, and not read yet: it came by DICOM    refused   cannot be read; `error` is the reason
    queued     results are to come                         done, failed   all results are there, or none
    replaced   its archive sent a corrected image          removed   its files are gone; the row knows that it was here
    """

    __tablename__ = "study"
    id: Mapped[str] = mapped_column(String(32), primary_key=True)
    sha256: Mapped[str] = mapped_column(String(64), unique=True)
    received: Mapped[str] = mapped_column(String(32), index=True)
    name: Mapped[str] = mapped_column(String(128), default="")
    patient: Mapped[str] = mapped_column(String(32), default="", index=True)  # a pseudonym, or "" where none is known
    shown_patient: Mapped[str | None] = mapped_column(String(128))  # only kept where --show-patient asked for it
    taken: Mapped[str] = mapped_column(
        String(32), default="", index=True
    )  # when the image was made, for the order of priors; given out by the rules of film_dates.py
    instance: Mapped[str] = mapped_column(String(64), index=True)  # keyed hash of the SOP Instance UID
    origin: Mapped[str] = mapped_column(
        String(8), default="http", server_default="http", index=True
    )  # http, c-store or pull
    deliver: Mapped[bool] = mapped_column(
        Boolean, default=False, server_default=false()
    )  # whether its results go to the archive
    revision: Mapped[int] = mapped_column(
        Integer, default=0, server_default="0"
    )  # corrections of this SOP Instance UID before this one
    content: Mapped[str] = mapped_column(
        String(64), default="", server_default=""
    )  # keyed hash of its pixels and its patient
    shown_taken: Mapped[str] = mapped_column(
        String(20), default="", server_default="", index=True
    )  # shifted, ISO 8601: film_dates.py
    exam: Mapped[str] = mapped_column(
        String(32), default="", server_default="", index=True
    )  # keyed hash of the Study Instance UID
    age: Mapped[str] = mapped_column(String(4), default="", server_default="")  # as DICOM has it, such as 062Y
    sex: Mapped[str] = mapped_column(String(1), default="", server_default="", index=True)
    view: Mapped[str] = mapped_column(String(16), default="", index=True)
    accession: Mapped[str] = mapped_column(String(16), default="", server_default="")  # kept as `shown_patient` is
    indication: Mapped[str] = mapped_column(String(200), default="", server_default="")  # why it was made; kept likewise
    position: Mapped[str] = mapped_column(String(32), default="", server_default="")  # of the body, such as erect
    image: Mapped[dict[str, Any]] = mapped_column(JSON, default=dict)  # empty until it is read
    state: Mapped[str] = mapped_column(String(8), index=True)
    error: Mapped[str | None] = mapped_column(Text)
    suspicion: Mapped[float] = mapped_column(Float, default=0.0, index=True)
    teaches: Mapped[float] = mapped_column(Float, default=0.0, index=True)
    top: Mapped[list[dict[str, Any]]] = mapped_column(JSON, default=list)
    review_version: Mapped[int] = mapped_column(Integer, default=0)
    review_state: Mapped[str] = mapped_column(String(8), default="no", index=True)
    review_by: Mapped[str] = mapped_column(String(64), default="", index=True)
    review_at: Mapped[str | None] = mapped_column(String(32), index=True)
    disagreement: Mapped[int] = mapped_column(
        Integer, default=0, server_default="0", index=True
    )  # a sum of MODELS, READER and READERS
    digest: Mapped[str] = mapped_column(String(64), default="", server_default="")  # as `row_digests` makes it


class Result(Base):
    """One model's answer for a study; the row is `queued` before anything is promised to a client."""

    __tablename__ = "result"
    study_id: Mapped[str] = mapped_column(ForeignKey("study.id", ondelete="CASCADE"), primary_key=True)
    model_sha: Mapped[str] = mapped_column(String(64), primary_key=True)
    model_id: Mapped[str] = mapped_column(String(64))
    state: Mapped[str] = mapped_column(String(8))  # queued, done, failed, or absent: its model is not served any more
    number: Mapped[int] = mapped_column(Long)  # order of asking
    deaths: Mapped[int] = mapped_column(Integer)  # how often the service was gone after it had begun with this one
    error: Mapped[str | None] = mapped_column(Text)
    at: Mapped[str | None] = mapped_column(String(32))
    findings: Mapped[list[dict[str, Any]]] = mapped_column(JSON)
    maps: Mapped[dict[str, Any]] = mapped_column(JSON)  # size, frame and order of the maps file
    digest: Mapped[str] = mapped_column(
        String(64), server_default=""
    )  # sha256 of findings and maps, checked when they are read
    __table_args__ = (Index("ix_result_state_number", "state", "number"),)


class Score(Base):
    """One finding of a result, for the worklist's filter."""

    __tablename__ = "score"
    study_id: Mapped[str] = mapped_column(ForeignKey("study.id", ondelete="CASCADE"), primary_key=True)
    model_sha: Mapped[str] = mapped_column(String(64), primary_key=True)
    finding: Mapped[str] = mapped_column(String(64), primary_key=True)
    score: Mapped[float] = mapped_column(Float)
    over: Mapped[bool] = mapped_column(Boolean)
    __table_args__ = (Index("ix_score_finding_over", "finding", "over"), Index("ix_score_finding_score", "finding", "score"))


class Delivery(Base):
    """A result, or a finished review, on its way to the archive. `since` and `due` are seconds of `Clock`.

    ready   to be sent       retry   failed, and is tried again     done   the archive has it
    failed  cannot be made   dead    failed for so long that nobody tries any more
    """

    __tablename__ = "delivery"
    study_id: Mapped[str] = mapped_column(ForeignKey("study.id", ondelete="CASCADE"), primary_key=True)
    subject: Mapped[str] = mapped_column(
        String(64), primary_key=True
    )  # sha256 of a model, REVIEW, one of REPORTS, or WITHDRAWAL
    state: Mapped[str] = mapped_column(String(8))
    since: Mapped[float] = mapped_column(Float)
    due: Mapped[float] = mapped_column(Float)
    tries: Mapped[int] = mapped_column(Integer, default=0)
    error: Mapped[str] = mapped_column(Text, default="")
    __table_args__ = (Index("ix_delivery_state_due", "state", "due"),)


class Sent(Base):
    """An object of ours that the archive has. `withdrawn` is when a later object replaced or rejected it, empty until then."""

    __tablename__ = "sent"
    study_id: Mapped[str] = mapped_column(ForeignKey("study.id", ondelete="CASCADE"), primary_key=True)
    instance: Mapped[str] = mapped_column(String(64), primary_key=True)
    series: Mapped[str] = mapped_column(String(64))
    sop_class: Mapped[str] = mapped_column(String(64))
    subject: Mapped[str] = mapped_column(String(64))  # as in `Delivery`
    at: Mapped[str] = mapped_column(String(32))
    withdrawn: Mapped[str] = mapped_column(String(32), default="")
    revision: Mapped[int] = mapped_column(Integer, default=0, server_default="0")  # that of the study of which it was made


class Review(Base):
    """Append-only: a version is written once. The primary key is what makes two reviewers of one version collide."""

    __tablename__ = "review"
    study_id: Mapped[str] = mapped_column(ForeignKey("study.id", ondelete="CASCADE"), primary_key=True)
    version: Mapped[int] = mapped_column(Integer, primary_key=True)
    state: Mapped[str] = mapped_column(String(8))
    by: Mapped[str] = mapped_column(String(64), index=True)
    at: Mapped[str] = mapped_column(String(32))
    stage: Mapped[str] = mapped_column(
        String(8), default="open", server_default="open"
    )  # blind: no model's result was shown
    findings: Mapped[dict[str, Any]] = mapped_column(JSON)
    note: Mapped[str] = mapped_column(Text)
    measures: Mapped[list[dict[str, Any]]] = mapped_column(JSON, default=list, server_default="[]")
    key: Mapped[bool] = mapped_column(Boolean, default=False, server_default=false())
    digest: Mapped[str] = mapped_column(String(64), default="", server_default="")


class Assignment(Base):
    """A reader who is to read a study without seeing what others say of it. `done` is when that was finished, empty until then.

    `blind`: and without results of models first.
    """

    __tablename__ = "assignment"
    study_id: Mapped[str] = mapped_column(ForeignKey("study.id", ondelete="CASCADE"), primary_key=True)
    reader: Mapped[str] = mapped_column(String(64), primary_key=True, index=True)
    by: Mapped[str] = mapped_column(String(64))
    at: Mapped[str] = mapped_column(String(32))
    done: Mapped[str] = mapped_column(String(32), default="")
    blind: Mapped[bool] = mapped_column(Boolean, default=False, server_default=false())


class BlindStart(Base):
    """A reader opened a study to read it blind; no results are given to that reader before a version with them in sight."""

    __tablename__ = "blind_start"
    study_id: Mapped[str] = mapped_column(ForeignKey("study.id", ondelete="CASCADE"), primary_key=True)
    reader: Mapped[str] = mapped_column(String(64), primary_key=True)
    at: Mapped[str] = mapped_column(String(32))


class Read(Base):
    """A version of one reader's own read; append-only, as `Review` is."""

    __tablename__ = "read"
    study_id: Mapped[str] = mapped_column(ForeignKey("study.id", ondelete="CASCADE"), primary_key=True)
    reader: Mapped[str] = mapped_column(String(64), primary_key=True)
    version: Mapped[int] = mapped_column(Integer, primary_key=True)
    state: Mapped[str] = mapped_column(String(8))
    stage: Mapped[str] = mapped_column(String(8))
    at: Mapped[str] = mapped_column(String(32))
    findings: Mapped[dict[str, Any]] = mapped_column(JSON)
    note: Mapped[str] = mapped_column(Text)
    measures: Mapped[list[dict[str, Any]]] = mapped_column(JSON, default=list, server_default="[]")
    key: Mapped[bool] = mapped_column(Boolean, default=False, server_default=false())
    digest: Mapped[str] = mapped_column(String(64), default="", server_default="")


class File(Base):
    """A file next to the database; `path` is relative to the store's folder."""

    __tablename__ = "file"
    study_id: Mapped[str] = mapped_column(ForeignKey("study.id", ondelete="CASCADE"), primary_key=True)
    kind: Mapped[str] = mapped_column(String(96), primary_key=True)  # original, pixels, thumbnail, or maps-MODEL
    path: Mapped[str] = mapped_column(String(256))
    sha256: Mapped[str] = mapped_column(String(64))
    bytes: Mapped[int] = mapped_column(Long)
