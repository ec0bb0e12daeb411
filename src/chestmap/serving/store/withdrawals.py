"""Withdraws from the archive what was made of an image that a corrected one replaced."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from sqlalchemy import ColumnElement, delete, exists, or_, select
from sqlalchemy.orm import Session

from chestmap.serving.store.database_tables import OVER, SHOWN, WITHDRAWAL, Delivery, Sent, Study
from chestmap.serving.store.results import deliver

if TYPE_CHECKING:
    from chestmap.serving.store.store import Store

NOTES = "1.2.840.10008.5.1.4.1.1.88.59"
"""Key Object Selection: a note that rejects other objects is not withdrawn itself."""
THERE = Sent.sop_class != NOTES
"""Objects that a later one replaced are in the archive still, and as wrong as the others."""


def is_in_archive(session: Session, study_id: str) -> bool:
    """Whether objects of a study are in the archive, or may be on their way at this moment."""
    sent = exists().where(Sent.study_id == study_id, THERE)
    leaving = exists().where(Delivery.study_id == study_id, Delivery.state.in_(("ready", "retry")))
    return bool(session.scalar(select(or_(sent, leaving))))


def settle(session: Session, current: Study, at: float) -> None:
    """Once a corrected image was read: objects of the same revision are its own, all others are to be rejected."""
    mine = (Study.instance == current.instance) & (Study.state == "replaced") & (Study.id != current.id)
    for old in session.scalars(select(Study).where(mine)).all():
        _move(session, old.id, current)
        if old.deliver and (not old.review_version or session.scalar(select(exists().where(wrong_of(old))))):
            deliver(session, old.id, WITHDRAWAL, at)
    if session.scalar(select(exists().where(wrong_of(current)))):
        deliver(session, current.id, WITHDRAWAL, at)


def _move(session: Session, study_id: str, current: Study) -> None:
    rows = session.scalars(select(Sent).where(Sent.study_id == study_id, Sent.revision == current.revision)).all()
    for row in rows:
        session.merge(copied(row, current.id))
        session.delete(row)


def copied(row: Sent, study_id: str) -> Sent:
    names = ("instance", "series", "sop_class", "subject", "at", "withdrawn", "revision")
    return Sent(study_id=study_id, **{name: getattr(row, name) for name in names})


def wrong_of(study: Study) -> ColumnElement[bool]:
    """Objects in the archive that are not, or are no longer, made of what the study shows."""
    mine = (Sent.study_id == study.id) & THERE
    return mine if study.state in OVER else mine & (Sent.revision != study.revision)


def holder_of(session: Session, study: Study) -> str:
    """The study to which an object belongs that was sent just now: that of the image, or of the same one in another form."""
    if study.state not in OVER:
        return study.id
    same = (Study.instance == study.instance) & (Study.revision == study.revision) & Study.state.in_(SHOWN)
    return session.scalar(select(Study.id).where(same).limit(1)) or study.id


def rejected_of(store: Store, study_id: str) -> Sequence[Sent]:
    """What a note is to reject, oldest first."""
    with store.reading() as session:
        study = session.get(Study, study_id)
        if study is None:
            return []
        return session.scalars(select(Sent).where(wrong_of(study)).order_by(Sent.at, Sent.instance)).all()


def source_of(store: Store, study_id: str) -> Path | None:
    """The image that the objects were made of; where it is gone, the corrected one of the same exam."""
    if (own := store.file(study_id, "original")) is not None:
        return own
    with store.reading() as session:
        study = session.get(Study, study_id)
        if study is None or not study.exam:
            return None
        same = (Study.instance == study.instance) & (Study.exam == study.exam) & Study.state.in_(SHOWN)
        corrected = session.scalar(select(Study.id).where(same).limit(1))
    return store.file(corrected, "original") if corrected else None


def remove_withdrawn(store: Store, study_id: str) -> None:
    """A replaced image with nothing left in the archive goes, unless a reader worked on it."""
    with store.moving:
        with store.writing() as session:
            mine = (Study.id == study_id) & (Study.state == "replaced") & (Study.review_version == 0)
            gone = session.scalars(delete(Study).where(mine).returning(Study.id)).all()
            if gone:
                store.folders.doom(study_id)
        if gone:
            store.folders.remove(study_id)
