"""Reviews: append-only, and nobody's is overwritten. Who saw version n writes version n + 1, and only the first does."""

from __future__ import annotations

from collections.abc import Collection

from sqlalchemy import select
from sqlalchemy.exc import IntegrityError

from chestmap.errors import BadInput, ChestmapError
from chestmap.serving.store.clock import now
from chestmap.serving.store.database_tables import Result, Review, Study
from chestmap.serving.store.review_provenance import kept_findings
from chestmap.serving.store.review_schema import NewReview, ReviewOut
from chestmap.serving.store.store import Store


class StaleReview(ChestmapError):
    """Somebody else wrote first."""


def current(store: Store, study_id: str) -> ReviewOut:
    versions = history(store, study_id, newest=True)
    return versions[0] if versions else ReviewOut(version=0, state="no", by="", at=None, findings={}, note="")


def history(store: Store, study_id: str, *, newest: bool = False) -> list[ReviewOut]:
    """Every version, oldest first; or the newest only."""
    wanted = select(Review).where(Review.study_id == study_id)
    wanted = wanted.order_by(Review.version.desc()).limit(1) if newest else wanted.order_by(Review.version)
    with store.reading() as session:
        return [
            ReviewOut.model_validate(
                {key: getattr(row, key) for key in ("version", "state", "by", "at", "findings", "note")}
            )
            for row in session.scalars(wanted)
        ]


def put_review(store: Store, study_id: str, by: str, review: NewReview, served: Collection[str] = ()) -> ReviewOut | None:
    """The new version; None where there is no such study, `StaleReview` where `base` is not the newest.

    `served` are the findings that may be named as long as a study has no result.
    """
    try:
        with store.writing() as session:
            study = session.get(Study, study_id)
            if study is None:
                return None
            results = session.scalars(select(Result).where(Result.study_id == study_id)).all()
            known = {one for row in results for one in row.maps.get("order", ())} or served
            check(review, (study.image["width"], study.image["height"]), known)
            if study.review_version != review.base:
                raise StaleReview(
                    f"version {review.base} was reviewed by {study.review_by} meanwhile; look at the current one"
                )
            version, at = review.base + 1, now()
            before = session.get(Review, (study_id, review.base))
            row = Review(study_id=study_id, version=version, state=review.state, by=by, at=at)
            row.findings = kept_findings(review.findings, before.findings if before else {}, results, by, at)
            row.note = review.note.replace("\0", "")  # PostgreSQL has no room for it
            session.add(row)
            study.review_version, study.review_state, study.review_by, study.review_at = version, review.state, by, at
    except IntegrityError:  # on PostgreSQL two may get so far
        raise StaleReview("somebody else reviewed it meanwhile; look at the current version") from None
    return ReviewOut(version=version, state=review.state, by=by, at=at, findings=row.findings, note=row.note)


def check(review: NewReview, size: tuple[float, float], known: Collection[str]) -> None:
    """Findings must be those of a model of this study, boxes must lie in the image."""
    for name, found in review.findings.items():
        if known and name not in known:
            raise BadInput(f"findings: {name[:64]!r} is not one of {', '.join(sorted(known))}")
        for box in found.boxes:
            if not box.lies_in(*size):
                corners = ", ".join(f"{value:g}" for value in (box.x0, box.y0, box.x1, box.y1))
                raise BadInput(f"{name}: box ({corners}) has no area within the image of {size[0]:g} x {size[1]:g} pixels")
