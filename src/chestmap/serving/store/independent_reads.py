"""Keeps independent reads: none of several readers sees another's before all are done; then one review is made.

The functions decide what a reader may see; routes only pass it on. Finished reads become input of the agreement figures.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

from sqlalchemy import ColumnElement, bindparam, delete, exists, func, literal, select, union, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import InstrumentedAttribute, Session

from chestmap.errors import BadInput
from chestmap.serving.store.clock import now
from chestmap.serving.store.database_tables import READERS, SHOWN, Assignment, BlindStart, Read, Review, Study
from chestmap.serving.store.review_schema import NewReview, ReaderLine, ReadOut, ReviewOut
from chestmap.serving.store.reviews import NOTHING, StaleReview, begin, check_stage, known_results, new_version, review_of
from chestmap.serving.store.store import Store

MOST_READERS = 16


@dataclass(frozen=True)
class Reads:
    """Of one study, as one reader may see them: `others` stays empty until all are done."""

    assigned: list[ReaderLine]
    mine: ReviewOut | None = None
    reads: tuple[ReadOut, ...] = ()

    @property
    def complete(self) -> bool:
        """True once readers are assigned and all of them are done; only then their reads are shown."""
        return bool(self.assigned) and all(one.done for one in self.assigned)


def assign(store: Store, study_id: str, readers: Sequence[str], by: str, *, blind: bool = False) -> list[ReaderLine] | None:
    """These readers and no others; None where there is no such study. Who has begun stays.

    `blind` holds for all who have not begun: no results are given to them before they commit.
    """
    wanted = list(dict.fromkeys(name.strip() for name in readers))
    if len(wanted) > MOST_READERS or not all(0 < len(name) <= 64 and name.isprintable() for name in wanted):
        raise BadInput(f"readers: expected at most {MOST_READERS} names of 1 to 64 letters")
    with store.writing() as session:
        study = session.get(Study, study_id)
        if study is None or study.state not in SHOWN:
            return None
        begun = set(session.scalars(select(Read.reader).where(Read.study_id == study_id)))
        there = set(session.scalars(select(Assignment.reader).where(Assignment.study_id == study_id)))
        gone = there - set(wanted)
        if kept := sorted(gone & begun):
            raise BadInput(f"readers: {', '.join(kept)} began to read; they stay among the readers of this study")
        session.execute(delete(Assignment).where(Assignment.study_id == study_id, Assignment.reader.in_(gone)))
        session.add_all(
            Assignment(study_id=study_id, reader=one, by=by, at=now(), done="") for one in wanted if one not in there
        )
        session.flush()
        waiting = (Assignment.study_id == study_id, Assignment.reader.not_in(begun))
        session.execute(update(Assignment).where(*waiting).values(blind=blind))
        session.flush()
        return _assigned(session, study_id)


def _assigned(session: Session, study_id: str) -> list[ReaderLine]:
    rows = session.scalars(select(Assignment).where(Assignment.study_id == study_id).order_by(Assignment.reader))
    return [ReaderLine(reader=one.reader, done=one.done or None, blind=one.blind) for one in rows]


READ = select(
    exists().where(Assignment.study_id == bindparam("study")), exists().where(Review.study_id == bindparam("study"))
)  # built once: it is asked with every answer


def is_unread(store: Store, study_id: str) -> bool:
    """Tells whether nobody was given the study, and nobody reviewed it."""
    with store.reading() as session:
        return not any(session.execute(READ, {"study": study_id}).one())


def reads_for(store: Store, study_id: str, reader: str) -> Reads:
    """What `reader` may see."""
    with store.reading() as session:
        assigned = _assigned(session, study_id)
        if not assigned:
            return Reads([])
        newest = {one.reader: one for one in _newest(session, study_id)}
        mine = None
        if any(one.reader == reader for one in assigned):
            mine = review_of(newest[reader], reader) if reader in newest else NOTHING
        found = Reads(assigned, mine)
        if not found.complete:
            return found
        kept = [_read_of(newest[one.reader]) for one in assigned if one.reader in newest]
        return Reads(assigned, mine, tuple(kept))


def _newest(session: Session, study_id: str) -> Sequence[Read]:
    last = select(Read.reader, func.max(Read.version)).where(Read.study_id == study_id).group_by(Read.reader)
    wanted = {(reader, version) for reader, version in session.execute(last)}
    rows = session.scalars(select(Read).where(Read.study_id == study_id).order_by(Read.reader))
    return [one for one in rows if (one.reader, one.version) in wanted]


def _read_of(row: Read) -> ReadOut:
    return ReadOut(**review_of(row, row.reader).model_dump(), reader=row.reader)


def withheld(store: Store, study_ids: Collection[str], reader: str, *, blind: bool) -> set[str]:
    """Studies of these with results that `reader` may not see yet.

    A version with results in sight, of the shared review or of an own read, ends that. `blind`: the reader reads blind
    everywhere; else only where an assignment asks for it, or the reader began to read blind and has not committed.
    """
    with store.reading() as session:
        return _withheld(session, study_ids, reader, blind=blind)


def _withheld(session: Session, study_ids: Collection[str], reader: str, *, blind: bool) -> set[str]:
    given = (Assignment.reader == reader, Assignment.blind, Assignment.study_id.in_(study_ids))
    written = (
        select(table.study_id, table.stage).where(name == reader, table.study_id.in_(study_ids))
        for table, name in ((Review, Review.by), (Read, Read.reader))
    )
    begun = select(BlindStart.study_id, literal("")).where(BlindStart.reader == reader, BlindStart.study_id.in_(study_ids))
    stages: dict[str, set[str]] = {}
    for study_id, stage in session.execute(union(select(Assignment.study_id, literal("")).where(*given), begun, *written)):
        stages.setdefault(study_id, set()).add(stage)
    committed = {study_id for study_id, said in stages.items() if "open" in said}
    return (set(study_ids) if blind else set(stages)) - committed


def begin_blind(store: Store, study_id: str, reader: str) -> None:
    """Remembers that `reader` opened a study to read it blind; of a study that is not there, nothing."""
    with store.writing() as session:
        if session.get(Study, study_id) is not None:
            begin(session, study_id, reader)


def reads_blind(store: Store, reader: str) -> bool:
    """Tells whether `reader` has still to commit a read that was given or begun blind; the order of a list could tell of it."""
    left = (
        select(given.study_id)
        .join(Study, Study.id == given.study_id)
        .where(given.reader == reader, *more, Study.state.in_(SHOWN), *(~one for one in _committed(given.study_id, reader)))
        for given, more in ((Assignment, (Assignment.blind,)), (BlindStart, ()))
    )
    with store.reading() as session:
        return any(session.scalar(one.limit(1)) is not None for one in left)


def _committed(study_id: InstrumentedAttribute[str], reader: str) -> list[ColumnElement[bool]]:
    """Whether there is a version with results in sight, of the shared review or of an own read."""
    return [
        exists().where(table.study_id == study_id, name == reader, table.stage == "open")
        for table, name in ((Review, Review.by), (Read, Read.reader))
    ]


def own_history(store: Store, study_id: str, reader: str) -> list[ReviewOut]:
    """The versions of one reader's own read of a study, oldest first; nobody else's."""
    wanted = select(Read).where(Read.study_id == study_id, Read.reader == reader).order_by(Read.version)
    with store.reading() as session:
        return [review_of(one, reader) for one in session.scalars(wanted)]


def put_read(store: Store, study_id: str, reader: str, review: NewReview, served: Collection[str] = ()) -> ReviewOut | None:
    """The new version of the reader's own read; None where there is no such study."""
    try:
        with store.writing() as session:
            study = session.get(Study, study_id)
            if study is None:
                return None
            assigned = session.get(Assignment, (study_id, reader))
            if assigned is None:
                raise BadInput(f"reader: this study was not given to {reader[:64]!r}; ask an administrator to assign it")
            if all(one.done for one in _assigned(session, study_id)):
                raise BadInput("all independent reads are finished and shown; write the shared review")
            results = known_results(session, study, review, served)
            own = session.scalars(
                select(Read).where(Read.study_id == study_id, Read.reader == reader).order_by(Read.version)
            ).all()
            newest = own[-1].version if own else 0
            if newest != review.base:
                raise StaleReview(f"version {review.base} is not your newest one ({newest}); look at that")
            check_stage(review, [one.stage for one in own])
            if review.stage == "open" and not own and _withheld(session, [study_id], reader, blind=False):
                raise BadInput("stage: this study is yours to be read blind first; send stage blind, then commit")
            row = new_version(Read(study_id=study_id, reader=reader), own[-1] if own else None, review, results, reader)
            session.add(row)
            if row.stage == "blind":
                begin(session, study_id, reader)
            assigned.done = row.at if review.state == "done" else ""
            session.flush()
            if all(one.done for one in _assigned(session, study_id)):
                apart = _differ(_newest(session, study_id))
                study.disagreement = study.disagreement & ~READERS | (READERS if apart else 0)
    except IntegrityError:  # the same reader in two windows
        raise StaleReview("you wrote another version meanwhile; look at that") from None
    return review_of(row, reader)


def _differ(reads: Sequence[Read]) -> bool:
    said = [presence(one.findings) for one in reads]
    names = {name for one in said for name in one}
    return any(len({one[name] for one in said if name in one}) > 1 for name in names)


def presence(findings: dict[str, dict[str, object]]) -> dict[str, bool]:
    """Findings with a verdict, and whether it says that they are there."""
    return {name: one["verdict"] != "reject" for name, one in findings.items() if one["verdict"] != "unset"}


def finished_reads(store: Store) -> Iterator[list[ReadOut]]:
    """The reads of each study that all its readers have finished."""
    with store.reading() as session:
        open_ = select(Assignment.study_id).where(Assignment.done == "")
        done = select(Assignment.study_id).where(Assignment.study_id.not_in(open_)).distinct().order_by(Assignment.study_id)
        for study_id in session.scalars(done).all():
            if len(reads := _newest(session, study_id)) > 1:
                yield [_read_of(one) for one in reads]
