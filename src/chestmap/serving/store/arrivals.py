"""Keeps images that came by DICOM: safe before anybody has read them, replaced by corrected ones.

`arrive` answers once the bytes are safe; reading and prediction come later. A corrected file of an instance replaces the
one before.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from sqlalchemy import ColumnElement, delete, func, insert, or_, select, update
from sqlalchemy.orm import Session

from chestmap.serving.store.clock import now
from chestmap.serving.store.database_tables import OVER, REVIEW, SHOWN, WITHDRAWAL, Delivery, File, Result, Sent, Study
from chestmap.serving.store.results import NewFile, copied, deliver, file_row, is_in_archive, queue_missing, settle
from chestmap.serving.store.row_digests import checked, digest_of

if TYPE_CHECKING:
    from chestmap.serving.store.store import NewStudy, Store

DICOM = ("c-store", "pull")
"""Origins of images of archives."""


@dataclass(frozen=True, kw_only=True)
class Arrival:
    """An image as it lies in a received folder; `instance` is the keyed hash of its SOP Instance UID."""

    id: str
    sha256: str
    instance: str
    bytes: int
    origin: str = "c-store"
    deliver: bool = False
    served: Collection[str] = ()  # sha256 of models that can make results; none for all


def arrive(store: Store, new: Arrival, received: Path) -> bool:
    """Keeps an image that came by DICOM; returns whether it was there and read before.

    It returns when the image is promised. The same file again is delivered again; another one of the instance replaces
    it, and the files of what it replaced are removed after the commit.
    """
    store.folders.make_durable(received)
    with store.moving:
        store.folders.move_in(received, new.id)
        with store.writing() as session:
            there = session.get(Study, new.id)
            if there is not None and there.state not in (*OVER, "refused", "failed"):
                _send_again(store, session, there, new)
                return there.state in SHOWN
            gone = _insert(store, session, new, there)
            for study_id in gone:
                store.folders.doom(study_id)
        for study_id in gone:
            store.folders.remove(study_id)
    return False


def _insert(store: Store, session: Session, new: Arrival, there: Study | None) -> list[str]:
    """Adds the row of an image in place of older ones of its instance; returns ids of studies to remove files of.

    An older study with a review, or one that is in the archive, stays as `replaced`; it gets no more deliveries but
    withdrawals.
    """
    before = [one for one in session.scalars(select(Study).where(Study.instance == new.instance)) if one.id != new.id]
    before += [there] if there is not None else []
    latest = max(before, key=lambda one: (one.revision, one.received), default=None)
    kept = [one for one in before if one is not there and (one.review_version or is_in_archive(session, one.id))]
    for one in kept:
        one.state = "replaced"
        session.execute(delete(Delivery).where(Delivery.study_id == one.id, Delivery.subject != WITHDRAWAL))
    gone = [one for one in before if one not in kept]
    sent = [copied(one, new.id) for one in session.scalars(select(Sent).where(Sent.study_id == new.id))]
    for one in gone:
        session.delete(one)
    session.flush()
    row = Study(
        id=new.id, sha256=new.sha256, received=now(), instance=new.instance, origin=new.origin, deliver=new.deliver,
        state="received", name=new.id, revision=latest.revision if latest else 0, content=latest.content if latest else "",
        patient="", shown_patient=None, taken="", shown_taken="", exam="", age="", sex="", view="", image={}, suspicion=0.0, teaches=0.0, top=[],
    )  # fmt: skip
    row.digest = digest_of(row)
    session.add(row)
    session.flush()
    session.execute(insert(File), [file_row(store.folders, new.id, NewFile("original", "original", new.sha256, new.bytes))])
    session.add_all(sent)
    return [one.id for one in gone if one.id != new.id]


def _send_again(store: Store, session: Session, there: Study, new: Arrival) -> None:
    """What is there already is not predicted again; its archive may have lost the results."""
    there.deliver = there.deliver or new.deliver
    there.origin = new.origin if there.origin == "http" else there.origin
    if there.deliver:
        waiting = select(Delivery.subject).where(Delivery.study_id == there.id, Delivery.state.in_(("ready", "retry")))
        done = select(Result.model_sha).where(Result.study_id == there.id, Result.state == "done")
        done = done.where(Result.model_sha.in_(new.served)) if new.served else done
        for subject in session.scalars(done.where(Result.model_sha.not_in(waiting))).all():
            deliver(session, there.id, subject, store.clock())
        if there.review_state == "done":
            deliver(session, there.id, REVIEW, store.clock())


def unread(store: Store, most: int, without: Collection[str] = ()) -> list[tuple[str, str]]:
    """Ids and sha256 of the oldest that nobody has read."""
    wanted = select(Study.id, Study.sha256).where(Study.state == "received", Study.id.not_in(list(without)))
    with store.reading() as session:
        return [(study_id, sha) for study_id, sha in session.execute(wanted.order_by(Study.received).limit(most))]


def read(store: Store, found: NewStudy, models: dict[str, str]) -> bool:
    """Its results are promised in the commit that records that it was read. False where it was replaced meanwhile."""
    with store.writing() as session:
        row = session.get(Study, found.id)
        if row is None or row.state != "received":
            return False
        fill(store, session, row, found, models)
    return True


def fill(store: Store, session: Session, row: Study, found: NewStudy, models: dict[str, str]) -> None:
    """Whether it is another image than the one that it replaces, or the same in another form, is known from here on."""
    checked(row)
    if row.content and row.content != found.content:
        row.revision += 1
    row.content, row.state, row.error = found.content, "queued", None
    row.name, row.patient, row.shown_patient, row.view = found.name, found.patient, found.shown_patient, found.view
    row.taken, row.shown_taken, row.image = found.taken, store.shifted(found), found.image
    row.instance = row.instance or found.instance  # by which it came, and is known to its archive
    row.exam, row.age, row.sex = found.exam, found.age, found.sex
    row.accession, row.indication, row.position = found.accession, found.indication, found.position
    row.digest = digest_of(row)
    session.execute(delete(File).where(File.study_id == row.id, File.kind != "original"))
    session.execute(delete(Result).where(Result.study_id == row.id))
    files = [file_row(store.folders, row.id, one) for one in found.files if one.kind != "original"]
    if files:
        session.execute(insert(File), files)
    queue_missing(store, session, {row.id: models})
    session.flush()
    settle(session, row, store.clock())


def refuse(store: Store, study_id: str, reason: str) -> bool:
    """It cannot be read; the file stays for a while. False where it was replaced or deleted meanwhile."""
    mine = (Study.id == study_id) & (Study.state == "received")
    with store.writing() as session:
        change = update(Study).where(mine).values(state="refused", error=reason[:400], received=now())
        return bool(session.scalars(change.returning(Study.id)).all())


def retry_failed(store: Store) -> int:
    """Images of archives that could not be read or predicted are as if they had just come."""
    mine = Study.origin.in_(DICOM) & Study.state.in_(("refused", "failed"))
    with store.writing() as session:
        ids = [
            one
            for one in session.scalars(select(Study.id).where(mine))
            if (store.folders.folder_of(one) / "original").is_file()
        ]
        session.execute(delete(Result).where(Result.study_id.in_(ids)))
        session.execute(update(Study).where(Study.id.in_(ids)).values(state="received", error=None))
    return len(ids)


def is_known(store: Store, instance: str) -> bool:
    """Tells whether an image with this instance id is in the store, in whatever state."""
    with store.reading() as session:
        return session.scalar(select(Study.id).where(Study.instance == instance).limit(1)) is not None


def remove_delivered(store: Store, study_id: str) -> None:
    """The files go; the row stays, so that pulling knows the image, and a corrected one what to withdraw.

    It holds nothing of the patient any more; its exam is a keyed hash.
    """
    waiting = select(Delivery.study_id).where(Delivery.state != "done")
    unfinished = select(Result.study_id).where(Result.state == "queued")
    mine = (Study.id == study_id) & Study.id.not_in(waiting) & Study.id.not_in(unfinished) & (Study.review_version == 0)
    with store.moving:
        with store.writing() as session:
            if not _empty(session, mine):
                return
            store.folders.doom(study_id)
        store.folders.remove(study_id)


def _empty(session: Session, mine: ColumnElement[bool]) -> Sequence[str]:
    empty = {
        "name": "",
        "patient": "",
        "shown_patient": None,
        "taken": "",
        "shown_taken": "",
        "view": "",
        "age": "",
        "sex": "",
        "accession": "",
        "indication": "",
        "position": "",
        "image": {},
        "top": [],
        "error": None,
        "digest": "",
    }
    ids = session.scalars(
        update(Study).where(mine).values(state="removed", received=now(), **empty).returning(Study.id)
    ).all()
    for table in (Result, File, Delivery):
        session.execute(delete(table).where(table.study_id.in_(ids)))
    return ids


def tidy(store: Store, refused_before: str, removed_before: str, *, keep: bool) -> None:
    """Removes images that could not be read, and rows of those that are gone, when they are old. Times are as `now` gives them.

    Without `keep`, images that were read and could not be predicted go, too.
    """
    states = ("refused",) if keep else ("refused", "failed")
    with store.moving:
        with store.writing() as session:
            old = Study.origin.in_(DICOM) & Study.state.in_(states) & (Study.received < refused_before)
            ids = _empty(session, old & (Study.review_version == 0))
            session.execute(delete(Study).where(Study.state == "removed", Study.received < removed_before))
            for study_id in ids:
                store.folders.doom(study_id)
        for study_id in ids:
            store.folders.remove(study_id)


def take_place(store: Store, old: Sequence[str]) -> None:
    """Rows for images that another store knew and holds no more: by their instances."""
    with store.writing() as session:
        there = set(session.scalars(select(Study.id)))
        rows = [
            Study(id=f"s-{one}", sha256=one, received=now(), instance=one, origin="c-store", state="removed") for one in old
        ]
        session.add_all(one for one in rows if one.id not in there)


def count_waiting(store: Store) -> int:
    """Images of archives without results."""
    with store.reading() as session:
        waiting = or_(Study.state == "received", (Study.state == "queued") & Study.origin.in_(DICOM))
        return session.scalar(select(func.count()).select_from(Study).where(waiting)) or 0
