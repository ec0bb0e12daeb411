"""Makes DICOM objects for an archive: a model's result, and what a reader verified. Decoder processes do it.

The delivery thread asks for objects when they are due, so that they show the newest state of a review.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sqlalchemy import select

from chestmap.errors import BadInput
from chestmap.serving.engine.decoder_pool import DecodersBusy
from chestmap.serving.engine.measured import measured
from chestmap.serving.store import deliveries, reviews
from chestmap.serving.store.database_tables import REVIEW, WITHDRAWAL, Result, Sent
from chestmap.serving.store.deliveries import SentObject

if TYPE_CHECKING:
    from chestmap.serving.engine.service import Service

REPORTS = {"1.2.840.10008.5.1.4.1.1.88.34", "1.2.840.10008.5.1.4.1.1.88.22"}
"""Comprehensive 3D SR and Enhanced SR."""


@dataclass(frozen=True)
class MadeObjects:
    """Objects in a folder of their own, in the order of their kinds; `gone` names objects that they replace or reject."""

    folder: Path
    files: list[Path] = field(default_factory=list)
    objects: list[SentObject] = field(default_factory=list)
    gone: list[str] = field(default_factory=list)

    def remove(self) -> None:
        """Deletes the folder once the objects are sent, or once sending has failed."""
        shutil.rmtree(self.folder, ignore_errors=True)


def made_for_archive(service: Service, study_id: str, subject: str, kinds: Sequence[str]) -> MadeObjects:
    """What is due for the archive; `subject` is a model, REVIEW or WITHDRAWAL."""
    if subject == WITHDRAWAL:
        return made_withdrawal(service, study_id)
    if subject == REVIEW:
        if deliveries.waits_for_models(service.store, study_id):
            raise DecodersBusy("a model's results come first")
        return made_review(service, study_id)
    return made_result(service, study_id, subject, kinds, older_versions(service, study_id, subject))


def made_result(
    service: Service, study_id: str, model_sha: str, kinds: Sequence[str], replaces: Sequence[Sent] = ()
) -> MadeObjects:
    """A stored result, for the caller to remove."""
    model = service.served.get(model_sha)
    if model is None:
        raise BadInput("its model is not served any more; serve it again")
    found, result = service.store.study(study_id), service.store.result(study_id, model.id)
    original, maps = (service.store.file(study_id, kind) for kind in ("original", f"maps-{model.id}"))
    if found is None or result is None or original is None or maps is None:
        raise BadInput("its study was deleted, or has no result of this model")
    about = {
        "id": study_id, "maps": str(maps), "findings": result.findings, "grid": result.maps, "kinds": list(kinds),
        "about": model.dicom_about(found[0].revision), "replaces": [_named(one) for one in replaces],
    }  # fmt: skip
    return _made(service, original, about, [one.instance for one in replaces])


def older_versions(service: Service, study_id: str, model_sha: str) -> list[Sent]:
    """Objects that the archive has of models of the same method that are not served any more."""
    model = service.served.get(model_sha)
    if model is None:
        return []
    method = model.predictor.model.method.name
    retired = select(Result.model_sha).where(
        Result.study_id == study_id, Result.model_id.startswith(f"{method}-"), Result.model_sha.not_in(list(service.served))
    )
    with service.store.reading() as session:
        there = set(session.scalars(retired))
    return [one for one in deliveries.sent_of(service.store, study_id) if one.subject in there]


def made_review(service: Service, study_id: str) -> MadeObjects:
    """Nothing where the review is in work again: the next time that it is done sends it."""
    from chestmap.serving.store.export_reviews import boxes_of  # datasets, and polars with them

    review, found = reviews.current(service.store, study_id), service.store.study(study_id)
    original = service.store.file(study_id, "original")
    if found is None or original is None:
        raise BadInput("its study was deleted")
    if review.state != "done":
        return MadeObjects(service.store.folders.new())
    study, results = found
    done = [one for one in results if one.state == "done"]
    verdicts = [
        {
            "finding": name,
            "present": said.verdict != "reject",
            "boxes": [[box.x0, box.y0, box.x1, box.y1] for box in boxes_of(name, said, done)],
            "bulk": said.how == "bulk",
        }
        for name, said in sorted(review.findings.items())
        if said.verdict != "unset"
    ]
    sent = deliveries.sent_of(service.store, study_id)
    models = [one for one in sent if one.subject != REVIEW]
    rejected = models if _contradicts(review.findings, done) else []
    about = {
        "review": {
            "reader": review.by, "organization": service.settings.dicom.organization, "at": review.at,
            "version": review.version, "study": study_id, "note": review.note,
            "size": [study.image["width"], study.image["height"]], "verdicts": verdicts, "key": review.key,
            "measures": [measured(one, study.image.get("spacing")).text for one in review.measures],
        },
        "earlier": [_named(one) for one in sent], "rejected": [_named(one) for one in rejected],
    }  # fmt: skip
    made = _made(service, original, about, [])
    own = {one.instance for one in made.objects}
    reports = {one.instance for one in sent if one.sop_class in REPORTS}
    made.gone.extend(sorted((reports | {one.instance for one in rejected}) - own))
    return made


def made_withdrawal(service: Service, study_id: str) -> MadeObjects:
    """A note that rejects all objects of an image that a corrected one replaced; it belongs to the exam of the first."""
    rejected = deliveries.rejected_of(service.store, study_id)
    if not rejected:
        return MadeObjects(service.store.folders.new())
    source = deliveries.source_of(service.store, study_id)
    if source is None:
        raise BadInput(
            "a corrected image of another exam replaced it after its files had gone: reject its results in the archive by hand"
        )
    about = {"rejected": [_named(one) for one in rejected], "why": "A corrected image replaced the one that they describe."}
    return _made(service, source, about, [one.instance for one in rejected])


def _contradicts(said: Any, results: Sequence[Result]) -> bool:
    """A finding that a model called was rejected, or lies elsewhere: pictures and regions of the model show it wrongly."""
    called = {found["name"] for one in results for found in one.findings if found["over"]}
    return any(name in called and one.verdict in {"reject", "correct"} for name, one in said.items())


def _named(one: Sent) -> dict[str, str]:
    return {key: getattr(one, key) for key in ("instance", "series", "sop_class")}


def _made(service: Service, original: Path, about: dict[str, Any], gone: list[str]) -> MadeObjects:
    out = service.store.folders.new()
    try:
        found = service.readers.results(original, out, about)
        return MadeObjects(
            out,
            [out / name for name in found["files"]],
            [SentObject(*one) for one in found["objects"]],
            [*gone, *found.get("gone", ())],
        )
    except BaseException:
        shutil.rmtree(out, ignore_errors=True)
        raise
