"""Appends reviews and never overwrites one. A reader who saw version n writes version n + 1; only the first does.

A version holds all findings, so that no history is needed to read it. What did not change keeps its author and time.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any, TypeVar

from sqlalchemy import select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from chestmap.errors import BadInput, ChestmapError
from chestmap.serving.store.clock import now
from chestmap.serving.store.database_tables import OVER, READER, REVIEW, BlindStart, Read, Result, Review, Study
from chestmap.serving.store.results import deliver
from chestmap.serving.store.review_provenance import kept_findings
from chestmap.serving.store.review_schema import NewReview, ReviewOut
from chestmap.serving.store.row_digests import checked, digest_of
from chestmap.serving.store.store import Store


class StaleReview(ChestmapError):
    """Somebody else wrote first."""


Row = TypeVar("Row", Review, Read)
NOTHING = ReviewOut(version=0, state="no", by="", at=None, findings={}, note="")


def current(store: Store, study_id: str) -> ReviewOut:
    """The newest version of a study's review; version 0, which holds nothing, where there is none."""
    versions = history(store, study_id, newest=True)
    return versions[0] if versions else NOTHING


def history(store: Store, study_id: str, *, newest: bool = False) -> list[ReviewOut]:
    """Every version, oldest first; or the newest only."""
    wanted = select(Review).where(Review.study_id == study_id)
    wanted = wanted.order_by(Review.version.desc()).limit(1) if newest else wanted.order_by(Review.version)
    with store.reading() as session:
        return [review_of(row, row.by) for row in session.scalars(wanted)]


def review_of(row: Review | Read, by: str) -> ReviewOut:
    """Turns a row into the shape that the API gives, under the name `by`; a row with a wrong digest is refused."""
    checked(row)
    kept = {key: getattr(row, key) for key in ("version", "state", "at", "findings", "note", "stage", "measures", "key")}
    return ReviewOut.model_validate({**kept, "by": by})


def put_review(store: Store, study_id: str, by: str, review: NewReview, served: Collection[str] = ()) -> ReviewOut | None:
    """The new version; None where there is no such study, `StaleReview` where `base` is not the newest.

    `served` are the findings that may be named as long as a study has no result.
    """
    try:
        with store.writing() as session:
            study = session.get(Study, study_id)
            if study is None:
                return None
            results = known_results(session, study, review, served)
            if study.review_version != review.base:
                raise StaleReview(
                    f"version {review.base} was reviewed by {study.review_by} meanwhile; look at the current one"
                )
            own = select(Review.stage).where(Review.study_id == study_id, Review.by == by)
            check_stage(review, session.scalars(own).all())
            row = new_version(
                Review(study_id=study_id, by=by), session.get(Review, (study_id, review.base)), review, results, by
            )
            session.add(row)
            if row.stage == "blind":
                begin(session, study_id, by)
            study.review_version, study.review_state, study.review_by, study.review_at = row.version, row.state, by, row.at
            study.disagreement = study.disagreement & ~READER | (READER if contradicts(row.findings, results) else 0)
            if review.state == "done" and study.deliver and study.state not in OVER:
                deliver(session, study_id, REVIEW, store.clock())
    except IntegrityError:  # on PostgreSQL two may get so far
        raise StaleReview("somebody else reviewed it meanwhile; look at the current version") from None
    return review_of(row, by)


def known_results(session: Session, study: Study, review: NewReview, served: Collection[str]) -> Sequence[Result]:
    """Results of the study, after the review was checked against them."""
    checked(study)
    results = [checked(one) for one in session.scalars(select(Result).where(Result.study_id == study.id))]
    known = {one for row in results for one in row.maps.get("order", ())} or served
    check(review, (study.image["width"], study.image["height"]), known)
    return results


def begin(session: Session, study_id: str, reader: str) -> None:
    """Remembers that `reader` reads a study blind."""
    if session.get(BlindStart, (study_id, reader)) is None:
        session.add(BlindStart(study_id=study_id, reader=reader, at=now()))


def check_stage(review: NewReview, before: Collection[str]) -> None:
    """`before` are the stages of the reader's earlier versions."""
    if review.stage == "blind" and any(one.seen for one in review.findings.values()):
        raise BadInput("stage: a blind read saw no model; send `seen` empty, or stage open")
    if review.stage == "blind" and "open" in before:
        raise BadInput("stage: you have read this study with results in sight; send stage open")


def new_version(row: Row, before: Row | None, review: NewReview, results: Sequence[Result], by: str) -> Row:
    """Fills a row; what is as it was in the version before keeps its author and date."""
    if before is not None:
        checked(before)
    row.version, row.state, row.stage, row.at = review.base + 1, review.state, review.stage, now()
    row.findings = kept_findings(review.findings, before.findings if before else {}, results, by, row.at)
    row.note = review.note.replace("\0", "")  # PostgreSQL has no room for it
    kept = [] if before is None else before.measures
    row.measures = kept if review.measures is None else [one.model_dump() for one in review.measures]
    row.key = bool(before is not None and before.key) if review.key is None else review.key
    row.digest = digest_of(row)
    return row


def contradicts(said: Mapping[str, Any], results: Sequence[Result]) -> bool:
    """Whether a reader rejects what a model calls, or sees what none calls."""
    done = [one for one in results if one.state == "done"]
    called = {found["name"] for one in done for found in one.findings if found["over"]}
    verdicts = {name: one["verdict"] for name, one in said.items() if one["verdict"] != "unset"}
    return bool(done) and any((name in called) == (verdict == "reject") for name, verdict in verdicts.items())


def check(review: NewReview, size: tuple[float, float], known: Collection[str]) -> None:
    """Findings must be those of a model of this study, boxes must lie in the image."""
    for name, found in review.findings.items():
        if known and name not in known:
            raise BadInput(f"findings: {name[:64]!r} is not one of {', '.join(sorted(known))}")
        for box in found.boxes:
            if not box.lies_in(*size):
                corners = ", ".join(f"{value:g}" for value in (box.x0, box.y0, box.x1, box.y1))
                raise BadInput(f"{name}: box ({corners}) has no area within the image of {size[0]:g} x {size[1]:g} pixels")
    for line in (line for one in review.measures or () for line in one.lines):
        if (line.x0, line.y0) == (line.x1, line.y1):
            raise BadInput("measures: a line has no length; draw it anew")
