"""Exports reviews of a store as annotated images that a method learns from. It only reads, also while the service runs.

accept   present; the boxes are those that the reviewer saw
reject   absent
correct  present, with the boxes as drawn; without any, its place is unknown
unset, or not named: unknown

Only verdicts that somebody gave on their finding count, unless all are asked for: not those agreed to in bulk, nor those of
versions that did not keep how they were given. A box of a model that did not call the finding is nobody's word, and left out.
An accept without boxes has those of the model where only one had spoken and called it: of several nobody knows which was meant.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, get_args

from sqlalchemy import Engine, func, select
from sqlalchemy.orm import Session

from chestmap.annotations.annotated_image import AnnotatedImage, new_folder, place_image, write_tables
from chestmap.datasets.folder_tables import with_seen
from chestmap.errors import BadInput
from chestmap.serving.store.database import open_read_only
from chestmap.serving.store.database_tables import File, Result, Review, Study
from chestmap.serving.store.review_provenance import CORNERS
from chestmap.serving.store.review_schema import How, KeptBox, KeptFinding
from chestmap.serving.store.row_digests import checked
from chestmap.serving.store.store_files import DamagedFile, digest
from chestmap.types import Box, Findings

PROVENANCE = "reviews.jsonl"
ENDINGS = {"dicom": ".dcm", "png": ".png", "jpeg": ".jpg"}


@dataclass(frozen=True)
class ReviewedStudy:
    """A study with a verdict; `origin` records who decided what, and when."""

    annotated: AnnotatedImage
    original: Path
    origin: dict[str, Any]


def read_reviews(
    folder: Path, url: str | None = None, *, only_done: bool = False, all_verdicts: bool = False
) -> tuple[Findings, list[ReviewedStudy]]:
    """The newest version of each review, and every finding that a model or a reviewer named."""
    engine = open_read_only(folder, url)
    try:
        ways = frozenset(get_args(How)) if all_verdicts else frozenset({"considered"})
        return _read(engine, folder.resolve(), ("done",) if only_done else ("part", "done"), ways)
    finally:
        engine.dispose()


def _read(engine: Engine, root: Path, states: Sequence[str], ways: Collection[str]) -> tuple[Findings, list[ReviewedStudy]]:
    with Session(engine) as session:
        newest = (Review.study_id == Study.id) & (Review.version == Study.review_version)
        original = (File.study_id == Study.id) & (File.kind == "original")
        rows = select(Study, Review, File).join(Review, newest).join(File, original)
        found = list(session.execute(rows.where(Review.state.in_(states)).order_by(Study.id)))
        results: dict[str, list[Result]] = {}
        for one in session.scalars(select(Result).where(Result.state == "done").order_by(Result.number)):
            results.setdefault(one.study_id, []).append(checked(one))
        said = select(Review.study_id, Review.version, Review.state, Review.by, Review.at).order_by(Review.version)
        versions: dict[str, list[dict[str, Any]]] = {}
        for study_id, *line in session.execute(said):
            versions.setdefault(study_id, []).append(dict(zip(("version", "state", "by", "at"), line, strict=True)))
        opinions: dict[str, list[Review]] = {}
        several = select(Review.study_id).group_by(Review.study_id).having(func.count(func.distinct(Review.by)) > 1)
        for one in session.scalars(select(Review).where(Review.study_id.in_(several)).order_by(Review.version)):
            opinions.setdefault(one.study_id, []).append(checked(one))
        named = [name for many in results.values() for one in many for name in one.maps.get("order", ())]
        named += [name for _, review, _ in found for name in review.findings]
        if not named:
            raise BadInput(f"{root}: nobody has reviewed anything in it yet; review studies first")
        findings = with_seen(named[:1], named)
        reviewed = []
        for study, review, file in found:
            checked(study)
            checked(review)
            seen = [one for one in results.get(study.id, ()) if one.at and one.at <= review.at]
            verdicts = {name: KeptFinding.model_validate(said) for name, said in review.findings.items()}
            verdicts = {name: said for name, said in verdicts.items() if said.verdict != "unset"}
            taken = {name: said for name, said in verdicts.items() if said.how in ways}
            annotated, sources = _annotated(study, taken, seen, findings)
            sources |= {name: _source(said) | {"left_out": True} for name, said in verdicts.items() if name not in taken}
            if annotated.labels:
                readings = _readings(opinions.get(study.id, ()), ways, findings)
                origin = {
                    "image": annotated.image, "study": study.id, "sha256": study.sha256, "patient": study.patient,
                    "by": review.by, "at": review.at, "version": review.version, "state": review.state, "note": review.note,
                    "models": [{"id": one.model_id, "sha256": one.model_sha} for one in seen],
                    "measures": review.measures, "key": review.key, "findings": sources, "versions": versions[study.id], **readings,
                }  # fmt: skip
                reviewed.append(ReviewedStudy(annotated, root / file.path, origin))
    return findings, reviewed


def _readings(versions: Sequence[Review], ways: Collection[str], findings: Findings) -> dict[str, Any]:
    """`readings`: of each reviewer the newest verdict of their own on each finding, as boxes; none where it is absent.

    A later reviewer may have seen the boxes of an earlier one. Nothing where one person alone gave verdicts.
    """
    found: dict[str, dict[str, list[list[float]]]] = {}
    for one in versions:
        for name, stored in one.findings.items():
            said = KeptFinding.model_validate(stored)
            if said.by == one.by and said.how in ways and said.verdict != "unset":
                boxes = [] if said.verdict == "reject" else boxes_of(name, said, ())
                corners = [[getattr(box, key) for key in CORNERS] for box in boxes]
                found.setdefault(one.by, {})[findings.resolve(name)] = corners
    return {"readings": found} if len(found) > 1 else {}


def _source(said: KeptFinding) -> dict[str, Any]:
    return {key: getattr(said, key) for key in ("verdict", "how", "by", "at", "seen")}


def _annotated(
    study: Study, verdicts: Mapping[str, KeptFinding], seen: Sequence[Result], findings: Findings
) -> tuple[AnnotatedImage, dict[str, Any]]:
    """Two names of one finding with contrary verdicts leave it unknown."""
    labels: dict[str, bool] = {}
    boxes: list[Box] = []
    sources: dict[str, Any] = {}
    told = {(findings.resolve(name), said.verdict != "reject") for name, said in verdicts.items()}
    times = Counter(name for name, _ in told)
    for name, said in verdicts.items():
        finding, present = findings.resolve(name), said.verdict != "reject"
        if times[finding] > 1:
            sources[name] = _source(said) | {"contradicted": True}
            continue
        marks = boxes_of(name, said, seen) if present else []
        labels[finding] = present
        made = [Box(finding, one.x0, one.y0, one.x1, one.y1) for one in marks]
        boxes += [box for box in made if box not in boxes]
        sources[name] = _source(said) | {"boxes": [f"{one.origin} {one.model}".strip() for one in marks]}
    name = f"images/{study.id}{ENDINGS[study.image['source']]}"
    size = float(study.image["width"]), float(study.image["height"])
    return AnnotatedImage(
        image=name, size=size, labels=labels, boxes=tuple(boxes), patient=study.patient or study.id, view=study.view
    ), sources


def boxes_of(name: str, said: KeptFinding, seen: Sequence[Result]) -> list[KeptBox]:
    """Those that somebody drew or moved, and those of a model that called the finding."""
    drawn = said.boxes
    if not drawn and said.verdict == "accept":
        shown = [(one, found) for one in seen for found in one.findings if found["name"] == name]
        drawn = [
            KeptBox(**{key: box[key] for key in CORNERS}, origin="model", model=one.model_id, called=bool(found["over"]))
            for one, found in (shown if len(shown) == 1 else ())
            for box in found["boxes"]
        ]
    return [box for box in drawn if box.origin != "model" or box.called]


def write_reviewed(
    out: Path, findings: Findings, reviewed: Sequence[ReviewedStudy], *, copy: bool = False
) -> list[ReviewedStudy]:
    """labels.csv, boxes.json, images/ and reviews.jsonl; returns those that still had an image, which are the ones written."""
    with new_folder(out) as folder:
        written = list(_with_images(folder, reviewed, copy=copy))
        if not written:
            raise BadInput("store: no study with a verdict whose image is there; review studies first")
        write_tables(folder, findings, [one.annotated for one in written])
        lines = (json.dumps(one.origin, ensure_ascii=False) + "\n" for one in written)
        (folder / PROVENANCE).write_text("".join(lines), encoding="utf-8")
    return written


def _with_images(folder: Path, reviewed: Sequence[ReviewedStudy], *, copy: bool) -> Iterator[ReviewedStudy]:
    """Boxes of a model may pass the border by a rounding; they end there."""
    for one in reviewed:
        try:
            if digest(one.original) != one.origin["sha256"]:
                raise DamagedFile(f"the image of study {one.origin['study']} is damaged: restore it from a backup")
            place_image(one.original, folder / one.annotated.image, copy=copy)
        except FileNotFoundError:  # the study was deleted meanwhile
            continue
        inside = (box.clipped(*one.annotated.size) for box in one.annotated.boxes)
        yield replace(one, annotated=replace(one.annotated, boxes=tuple(box for box in inside if box)))
