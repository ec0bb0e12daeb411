"""Keeps results: asked for, resumed after a stop, answered once.

A result is written once: a second answer for the same model and study is dropped. After a stop, `resume` lists what is
still owed.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from sqlalchemy import ColumnElement, exists, insert, or_, select, update
from sqlalchemy.orm import Session

from chestmap.serving.store.active_learning import worth
from chestmap.serving.store.clock import now
from chestmap.serving.store.database_tables import (
    MODELS,
    OVER,
    SHOWN,
    WITHDRAWAL,
    Delivery,
    File,
    Result,
    Score,
    Sent,
    Study,
)
from chestmap.serving.store.row_digests import digest_of, is_whole

if TYPE_CHECKING:
    from chestmap.serving.store.store import Store
    from chestmap.serving.store.store_files import StoreFolder

MOST_DEATHS = 3
NOTES = "1.2.840.10008.5.1.4.1.1.88.59"
"""Key Object Selection: a note that rejects other objects is not withdrawn itself."""
THERE = Sent.sop_class != NOTES
"""Objects that a later one replaced are in the archive still, and as wrong as the others."""


@dataclass(frozen=True)
class NewFile:
    """A file of a study; `name` is within its folder, `kind` is how it is asked for."""

    kind: str
    name: str
    sha256: str
    bytes: int


@dataclass(frozen=True, kw_only=True)
class ModelAnswer:
    """A model's answer for a study, or the reason for none."""

    study_id: str
    model_sha: str
    findings: list[dict[str, Any]] = field(default_factory=list)
    maps: dict[str, Any] = field(default_factory=dict)
    file: NewFile | None = None
    suspicion: float = 0.0
    error: str | None = None


@dataclass(frozen=True)
class PendingResult:
    """A result that is still to come."""

    study_id: str
    model_sha: str


def queue_missing(store: Store, session: Session, studies: Mapping[str, Mapping[str, str]]) -> None:
    """Queues studies for models that never saw them, which map sha256 to id."""
    rows = [
        {
            "study_id": study_id, "model_sha": sha, "model_id": name, "state": "queued", "number": next(store.numbers),
            "deaths": 0, "error": None, "at": None, "findings": [], "maps": {}, "digest": "",
        }
        for study_id, models in studies.items() for sha, name in models.items()
    ]  # fmt: skip
    if rows:
        session.execute(insert(Result), rows)


def ask(store: Store, study_id: str, models: dict[str, str]) -> list[PendingResult]:
    """What is still to be predicted of a study that is there already; what failed is tried again."""
    with store.writing() as session:
        there = {row.model_sha: row for row in session.scalars(select(Result).where(Result.study_id == study_id))}
        study = session.get(Study, study_id)
        if study is None or study.state not in SHOWN:
            return []
        queue_missing(store, session, {study_id: {sha: name for sha, name in models.items() if sha not in there}})
        for sha in models.keys() & there.keys():
            if there[sha].state in {"failed", "absent"}:
                there[sha].state, there[sha].error, there[sha].deaths = "queued", None, 0
        session.flush()
        wanted = select(Result.model_sha).where(Result.study_id == study_id, Result.state == "queued")
        found = [PendingResult(study_id, sha) for sha in session.scalars(wanted) if sha in models]
        _update_studies(session, [study_id])
        return found


def resume(store: Store, models: dict[str, str], under_way: Iterable[PendingResult] = ()) -> list[PendingResult]:
    """At a start: what is still to be predicted, oldest first.

    `under_way` is what the service was at when it last stopped; an image with which it stopped three times is given up.
    """
    queued = Result.state == "queued"
    with store.writing() as session:
        for one in under_way:
            mine = (Result.study_id == one.study_id) & (Result.model_sha == one.model_sha) & queued
            session.execute(update(Result).where(mine).values(deaths=Result.deaths + 1))
        worst = "the service stopped each time it predicted this image; upload it again after an update"
        changes = (
            update(Result).where(queued, Result.deaths >= MOST_DEATHS).values(state="failed", error=worst),
            update(Result).where(Result.state == "absent", Result.model_sha.in_(models)).values(state="queued"),
            update(Result).where(queued, Result.model_sha.not_in(list(models))).values(state="absent"),
        )
        for change in changes:
            for study_id in set(session.scalars(change.returning(Result.study_id))):
                _update_studies(session, [study_id])
        wanted = select(Result.study_id, Result.model_sha).where(queued).order_by(Result.number)
        return [PendingResult(*row) for row in session.execute(wanted)]


def answer(store: Store, answers: Sequence[ModelAnswer]) -> None:
    """In one commit. A result that exists already, or belongs to a study deleted meanwhile, is left as it is."""
    with store.writing() as session:
        wanted = select(Result).where(Result.study_id.in_({one.study_id for one in answers}))
        rows = {(row.study_id, row.model_sha): row for row in session.scalars(wanted)}
        new: list[ModelAnswer] = []
        for one in answers:
            row = rows.get((one.study_id, one.model_sha))
            if row is None or row.state != "queued":
                continue
            row.state, row.error, row.at = ("failed" if one.error else "done"), one.error, now()
            row.findings, row.maps = one.findings, one.maps
            row.digest = digest_of(row)
            new.append(one)
        files = [file_row(store.folders, one.study_id, one.file) for one in new if one.file]
        if files:
            session.execute(insert(File), files)
        scores = [
            {
                "study_id": one.study_id,
                "model_sha": one.model_sha,
                "finding": found["name"],
                "score": found["score"],
                "over": found["over"],
            }
            for one in new
            for found in one.findings
        ]
        if scores:  # a result that is queued has none
            session.execute(insert(Score), scores)
        studies = _update_studies(session, {one.study_id for one in new}, new, list(rows.values()))
        due = {one.id for one in studies if one.deliver and one.state not in OVER}
        for one in new:  # in the commit that records that a result is there
            if one.study_id in due and not one.error:
                deliver(session, one.study_id, one.model_sha, store.clock())


def deliver(session: Session, study_id: str, subject: str, at: float) -> None:
    """Sends a result, or sends it once more where the archive had it."""
    row = session.get(Delivery, (study_id, subject)) or Delivery(study_id=study_id, subject=subject)
    row.state, row.since, row.due, row.tries, row.error = "ready", at, 0.0, 0, ""
    session.add(row)


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


def file_row(folders: StoreFolder, study_id: str, new: NewFile) -> dict[str, Any]:
    """Makes a row of `File`. The path is kept relative, so that a store may be moved."""
    path = folders.folder_of(study_id).relative_to(folders.root) / new.name
    return {"study_id": study_id, "kind": new.kind, "path": path.as_posix(), "sha256": new.sha256, "bytes": new.bytes}


def _update_studies(
    session: Session, study_ids: Collection[str], new: Sequence[ModelAnswer] = (), rows: Sequence[Result] = ()
) -> Sequence[Study]:
    """The studies' own lines after their results changed; `rows` are all results of theirs, where the caller has them."""
    if not rows:
        wanted = select(Result).where(Result.study_id.in_(study_ids)).execution_options(populate_existing=True)
        rows = session.scalars(wanted).all()
    found: dict[str, list[Result]] = {}
    for row in rows:
        found.setdefault(row.study_id, []).append(row)
    chosen = select(Study).where(Study.id.in_(study_ids)).execution_options(populate_existing=True)
    studies = session.scalars(chosen).all()
    for study in studies:
        if study.state in OVER:
            continue
        results, whole = found.get(study.id, []), is_whole(study)
        states = {one.state for one in results}
        study.state = "queued" if "queued" in states else "done" if "done" in states else "failed"
        errors = [f"{one.model_id}: {one.error}" for one in results if one.error]
        if study.state == "failed" and not errors:
            errors = ["its model is not served any more; serve it again, or upload the image again"]
        study.error = "; ".join(errors) or None
        said = [one.suspicion for one in new if one.study_id == study.id and not one.error]
        if said:
            study.suspicion = max(study.suspicion, *said)
            study.teaches = worth([one.findings for one in results if one.state == "done"])
            study.top = _top(results)
            study.disagreement = study.disagreement & ~MODELS | (MODELS if _differ(results) else 0)
        if whole:  # a damaged row stays one
            study.digest = digest_of(study)
    return studies


def _differ(results: Sequence[Result]) -> bool:
    """Whether one model calls a finding that another one, which knows it, does not."""
    said: dict[str, set[bool]] = {}
    for found in (found for one in results if one.state == "done" for found in one.findings):
        said.setdefault(found["name"], set()).add(bool(found["over"]))
    return any(len(one) > 1 for one in said.values())


def _top(results: Sequence[Result], most: int = 3) -> list[dict[str, Any]]:
    """Findings that a model calls, then the others; each part by the highest score of any model."""
    best: dict[str, float] = {}
    called: set[str] = set()
    for one in results:
        for found in one.findings:
            best[found["name"]] = max(best.get(found["name"], 0.0), found["score"])
            called |= {found["name"]} if found["over"] else set()
    first = sorted(best.items(), key=lambda pair: (pair[0] not in called, -pair[1]))[:most]
    return [{"finding": name, "score": score, "over": name in called} for name, score in first]
