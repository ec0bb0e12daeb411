"""Queues results for the archive: what is due, what failed, and what nobody took for days.

A result waits here until the archive has it. Days without success make it a dead letter; `retry_dead` sends these again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sqlalchemy import ColumnElement, delete, distinct, exists, func, select, update
from sqlalchemy.orm import Session

from chestmap.serving.store.arrivals import DICOM
from chestmap.serving.store.clock import now
from chestmap.serving.store.database_tables import OVER, REPORTS, REVIEW, SHOWN, WITHDRAWAL, Delivery, Sent, Study
from chestmap.serving.store.results import deliver, wrong_of

if TYPE_CHECKING:
    from chestmap.serving.store.store import Store

STATES = ("new", "queued", "ready", "retry", "done", "failed", "dead")
"""Of images of archives, as `chestmap node --status` counts them."""


@dataclass(frozen=True)
class DueResult:
    """A result that is to be sent now, and how often that was tried."""

    study_id: str
    subject: str
    tries: int


def due(store: Store, most: int) -> list[DueResult]:
    """The oldest first."""
    wanted = select(Delivery.study_id, Delivery.subject, Delivery.tries)
    wanted = wanted.where(Delivery.state.in_(("ready", "retry")), Delivery.due <= store.clock())
    with store.reading() as session:
        return [DueResult(*row) for row in session.execute(wanted.order_by(Delivery.due, Delivery.since).limit(most))]


def _set(store: Store, mine: ColumnElement[bool], **values: Any) -> int:
    with store.writing() as session:
        return len(session.execute(update(Delivery).where(mine).values(**values).returning(Delivery.study_id)).all())


def _same_result(one: DueResult) -> ColumnElement[bool]:
    return (Delivery.study_id == one.study_id) & (Delivery.subject == one.subject)


@dataclass(frozen=True)
class SentObject:
    """What names an object in an archive."""

    instance: str
    series: str
    sop_class: str


def delivered(
    store: Store, one: DueResult, objects: Sequence[SentObject] = (), gone: Sequence[str] = (), then: Sequence[str] = ()
) -> None:
    """`objects` are what the archive has now; `gone` are identifiers of those that they replace or reject.

    `then` are subjects of the same study that are due from now on.
    """
    with store.writing() as session:
        session.execute(update(Delivery).where(_same_result(one)).values(state="done", error="", since=store.clock()))
        study = session.get(Study, one.study_id)
        if study is None:  # it was deleted
            return
        for subject in then:
            deliver(session, one.study_id, subject, store.clock())
        about = {"study_id": holder_of(session, study), "subject": one.subject, "at": now(), "revision": study.revision}
        for new in objects:
            session.merge(Sent(**about, withdrawn="", **asdict(new)))
        taken_back = (Sent.study_id == one.study_id) & Sent.instance.in_(gone)
        if one.subject == WITHDRAWAL:  # nothing refers to them any more
            session.execute(delete(Sent).where(taken_back))
        else:
            session.execute(update(Sent).where(taken_back).values(withdrawn=now()))


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


def sent_of(store: Store, study_id: str) -> list[Sent]:
    """Objects that went to the archive and were made of the study's image as it is, oldest first."""
    mine = (Sent.study_id == study_id) & (Study.id == study_id) & (Sent.revision == Study.revision)
    with store.reading() as session:
        return list(session.scalars(select(Sent).where(mine).order_by(Sent.at, Sent.instance)))


def waits_for_models(store: Store, study_id: str) -> bool:
    """Whether a model's result of the study is still on its way: what a reader verified refers to it, and comes later."""
    open_ = Delivery.state.in_(("ready", "retry")) & Delivery.subject.not_in((REVIEW, *REPORTS, WITHDRAWAL))
    with store.reading() as session:
        return session.scalar(select(Delivery.subject).where(Delivery.study_id == study_id, open_).limit(1)) is not None


def postpone(store: Store, one: DueResult, seconds: float, reason: str) -> None:
    """Plans the next try of a result `seconds` from now and keeps the reason of the failure, cut at 400 characters."""
    _set(store, _same_result(one), state="retry", due=store.clock() + seconds, tries=one.tries + 1, error=reason[:400])


def fail(store: Store, one: DueResult, reason: str) -> None:
    """Its objects cannot be made."""
    _set(store, _same_result(one), state="failed", error=reason[:400])


def hurry(store: Store) -> None:
    """The archive answers again: whatever waits is due."""
    _set(store, Delivery.state == "retry", due=0.0)


def give_up(store: Store, seconds: float) -> list[str]:
    """Results with a delivery that failed for so long become dead letters; the ids of their studies."""
    old = (Delivery.state == "retry") & (Delivery.since <= store.clock() - seconds)
    with store.writing() as session:
        return list(session.scalars(update(Delivery).where(old).values(state="dead").returning(Delivery.study_id)))


def retry_dead(store: Store) -> int:
    """All dead letters are sent once more, with all their time before them."""
    return _set(store, Delivery.state == "dead", state="retry", since=store.clock(), due=0.0, tries=0)


def counts(store: Store) -> dict[str, int]:
    """Images of archives by state; one with several results has the state of the one that is least far."""
    with store.reading() as session:
        mine = Study.origin.in_(DICOM)
        rows = select(Study.state, func.count()).where(mine).group_by(Study.state)
        found = dict(session.execute(rows).all())
        sent = dict(
            session.execute(select(Delivery.state, func.count(distinct(Delivery.study_id))).group_by(Delivery.state)).all()
        )
        with_open = exists().where(Delivery.study_id == Study.id, Delivery.state != "done")
        finished = mine & Study.state.in_(("done", "removed")) & ~with_open
        done = session.scalar(select(func.count()).select_from(Study).where(finished)) or 0
    failed = sum(found.get(state, 0) for state in ("refused", "failed")) + sent.get("failed", 0)
    counted = (found.get("received", 0), found.get("queued", 0), sent.get("ready", 0), sent.get("retry", 0), done, failed)
    return dict(zip(STATES, (*counted, sent.get("dead", 0)), strict=True))


def oldest(store: Store) -> float:
    """Seconds since the oldest of those that are not finished came, or got its results."""
    with store.reading() as session:
        waiting = Study.origin.in_(DICOM) & Study.state.in_(("received", "queued"))
        came = session.scalar(select(func.min(Study.received)).where(waiting))
        ready = session.scalar(select(func.min(Delivery.since)).where(Delivery.state.in_(("ready", "retry"))))
    ages = [store.clock() - ready] if ready is not None else []
    ages += [datetime.now().astimezone().timestamp() - datetime.fromisoformat(came).timestamp()] if came else []
    return max(0.0, *ages) if ages else 0.0


def reasons(store: Store) -> list[tuple[str, str, int]]:
    """State, reason and number, the most frequent first."""
    refused = Study.origin.in_(DICOM) & Study.state.in_(("refused", "failed"))
    number = func.count()
    with store.reading() as session:
        of_images = session.execute(select(Study.error, number).where(refused).group_by(Study.error)).all()
        open_ = select(Delivery.state, Delivery.error, number).where(Delivery.error != "")
        of_results = session.execute(open_.group_by(Delivery.state, Delivery.error)).all()
    found = [("failed", error or "", count) for error, count in of_images]
    found += [(state, error, count) for state, error, count in of_results]
    return sorted(found, key=lambda row: (-row[2], row[0], row[1]))


def status(store: Store, command: str) -> str:
    """The counts as lines, whether the service runs or not."""
    found = counts(store)
    lines = [f"{state:7}{count:>8}" for state, count in found.items()]
    if age := oldest(store):
        lines.append(f"the oldest waits for {_time(age)}")
    lines += (f"{state}: {reason} ({count})" for state, reason, count in reasons(store))
    if found["dead"]:
        lines.append(f"{command} sends the dead letters again")
    return "\n".join(lines)


def _time(seconds: float) -> str:
    for unit, name in ((86400, "days"), (3600, "hours"), (60, "minutes")):
        if seconds >= 2 * unit:
            return f"{seconds / unit:.0f} {name}"
    return f"{seconds:.0f} seconds"
