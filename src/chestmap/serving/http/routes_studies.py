"""Serves `/v1/studies`: the worklist, a study with its files, and reviews.

Every route takes ids of the store. A deleted study answers 404 on all of them.
"""

from __future__ import annotations

import secrets
from datetime import date
from pathlib import Path
from typing import Annotated, Any, Literal

from fastapi import APIRouter, HTTPException, Query, Response
from fastapi import Path as InPath
from fastapi.responses import FileResponse, JSONResponse
from pydantic import BaseModel, Field

from chestmap.errors import BadImage, BadInput
from chestmap.serving.engine.service import Service
from chestmap.serving.http import schemas as bodies
from chestmap.serving.http.access import Person
from chestmap.serving.http.answers import row_of, study_of
from chestmap.serving.http.asking import Asking, Here
from chestmap.serving.http.blind import Blind, asks_for_results, refuse_results, withheld_of
from chestmap.serving.http.fhir import bundle_of
from chestmap.serving.http.study_pictures import map_bytes, overlay_png, reduced_levels
from chestmap.serving.store import reviews
from chestmap.serving.store.database_tables import MODELS, READER, READERS, Result, Study
from chestmap.serving.store.independent_reads import own_history, reads_blind, reads_for
from chestmap.serving.store.review_schema import NewReview
from chestmap.serving.store.stored_prediction import stored_maps
from chestmap.serving.store.worklist.worklist_filters import Query as Wanted
from chestmap.serving.store.worklist.worklist_page import most_counted

router = APIRouter(prefix="/v1", tags=["studies"])
StudyId = Annotated[str, InPath(pattern=r"^s-[0-9a-f]{24}$", description="As the worklist gives it")]
ModelId = Annotated[str, InPath(max_length=64, description="As /v1/models gives it")]
Stage = Annotated[
    str, Query(pattern=r"^([1-9]\d{0,4}x[1-9]\d{0,4})?$", description="Pixels of the screen that shows them, as 1920x1080")
]
BYTES = {"content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}}
DICOM = {"content": {"application/dicom": {"schema": {"type": "string", "format": "binary"}}}}
PNG = {"content": {"image/png": {"schema": {"type": "string", "format": "binary"}}}}


class Filters(BaseModel):
    """What is empty does not filter. Without --show-patient, `since` and `until` are shifted days, as the worklist shows them."""

    order: Literal["suspicion", "received", "teaches"] = "suspicion"
    state: Literal["", "queued", "done", "failed", "received", "refused", "replaced"] = ""
    finding: str = Field(default="", max_length=64)
    reviewed: Literal["", "no", "part", "done"] = ""
    search: str = Field(default="", max_length=128)
    offset: int = Field(default=0, ge=0, le=2**31 - 1)
    limit: int = Field(default=50, ge=1, le=500)
    view: Literal["", "PA", "AP", "LATERAL", "unknown"] = ""
    sex: Literal["", "F", "M", "O"] = ""
    reader: str = Field(default="", max_length=64, description="Who wrote a version of the review")
    mine: bool = Field(default=False, description="Studies with an independent read that you have not finished")
    since: date | None = None
    until: date | None = None
    least: float | None = Field(default=None, ge=0, le=1, description="Of the score of `finding`, or of the suspicion")
    most: float | None = Field(default=None, ge=0, le=1)
    disagreement: Literal["", "models", "reader", "readers", "any"] = ""
    blind: Blind = False


DISAGREE = {"": 0, "models": MODELS, "reader": READER, "readers": READERS, "any": MODELS | READER | READERS}


@router.get("/studies")
def worklist(service: Here, person: Asking, filters: Annotated[Filters, Query()]) -> bodies.Rows:
    """`finding` keeps studies where a model calls it, or whose score of it lies between `least` and `most`.

    In blind reading the order is that of arrival, and filters by what models say are refused.
    """
    blind = service.settings.blind or filters.blind or reads_blind(service.store, person.name)
    if blind:
        asks_for_results(filters.model_dump(include={"finding", "least", "most", "disagreement"}))
    plain = {name: getattr(filters, name).replace("\0", "") for name in ("finding", "search", "reader")}
    same = {
        name: getattr(filters, name)
        for name in ("state", "reviewed", "offset", "limit", "view", "sex", "since", "until", "least", "most")
    }
    wanted = Wanted(
        **plain, **same, order="received" if blind else filters.order, assigned=person.name if filters.mine else "", disagreement=DISAGREE[filters.disagreement],
        true_dates=service.settings.show_patient,
    )  # fmt: skip
    total, rows = service.store.page(wanted)
    hidden = withheld_of(service, person, [one.id for one in rows], blind=filters.blind)
    lines = [row_of(service, one, hidden=one.id in hidden) for one in rows]
    return bodies.Rows.model_validate(
        {"total": total, "exact": total <= most_counted(wanted), "blind": blind, "studies": lines}
    )


def _existing(service: Service, study_id: str) -> tuple[Study, list[Result]]:
    found = service.store.study(study_id)
    if found is None:
        raise HTTPException(404, "no such study; it may have been deleted")
    if not found[0].image:
        raise HTTPException(404, found[0].error or "the study is not read yet, or its image was removed")
    return found


@router.get("/studies/{study_id}")
def study(service: Here, person: Asking, study_id: StudyId, blind: Blind = False) -> bodies.StudyOut:  # noqa: FBT002
    """Image, results of every model, the current review and the ids of earlier images of the patient.

    To a reader with an independent read to make, `review` is that read, until all readers of the study are done.
    Results are withheld from a reader who reads blind and has not committed.
    """
    return bodies.StudyOut.model_validate(show_study(service, study_id, person, blind=blind))


@router.delete("/studies/{study_id}", status_code=204, response_class=Response, response_model=None)
def delete(service: Here, person: Asking, study_id: StudyId) -> None:
    """With its results, reviews and files; for administrators."""
    if not person.admin:
        raise HTTPException(403, "only an administrator may delete a study")
    if not service.store.delete(study_id):
        raise HTTPException(404, "no such study; it may have been deleted")


class _LargeFile(FileResponse):
    """In pieces of 256 KiB: each is a change of threads, and 18 MB of pixels were 275 of them."""

    chunk_size = 1 << 18


def _file(service: Service, study_id: str, kind: str, media: str) -> FileResponse:
    """By the database's record of the file, never by a client's claim."""
    path = service.store.file(study_id, kind)
    if path is None or not path.is_file():
        raise HTTPException(404, "no such study, or not of this model")
    return _LargeFile(path, media_type=media)


@router.get("/studies/{study_id}/pixels", response_class=Response, responses={200: BYTES})
def pixels(service: Here, study_id: StudyId, stage: Stage = "") -> Response:
    """16-bit little-endian, row by row, greater is brighter.

    With `stage=WIDTHxHEIGHT` both sides are halved, rounded up, as often as leaves a pixel of the image for each pixel
    of a screen of that size. The length tells how often.
    """
    whole = _file(service, study_id, "pixels", "application/octet-stream")
    if not stage:
        return whole
    width, height = (int(side) for side in stage.split("x"))
    reduced = reduced_levels(_existing(service, study_id)[0], Path(whole.path), (width, height))
    return whole if reduced is None else Response(reduced, media_type="application/octet-stream")


@router.get("/studies/{study_id}/thumbnail", response_class=Response, responses={200: PNG})
def thumbnail(service: Here, study_id: StudyId) -> Response:
    """PNG of at most 256 pixels, under the window that the model saw."""
    return _file(service, study_id, "thumbnail", "image/png")


@router.get("/studies/{study_id}/maps/{model}", response_class=Response, responses={200: BYTES})
def maps(service: Here, person: Asking, study_id: StudyId, model: ModelId) -> Response:
    """8-bit [finding, height, width] in the order of the result, each scaled to its own maximum."""
    refuse_results(service, person, study_id)
    result = _result(service, study_id, model)
    path = service.store.file(study_id, f"maps-{result.model_id}")
    if path is None or not path.is_file():
        raise HTTPException(404, "the study has no result of this model")
    return Response(map_bytes(stored_maps(path)), media_type="application/octet-stream")


def _result(service: Service, study_id: str, model: str) -> Result:
    """Of the model asked for, or of the first that has one."""
    _, results = _existing(service, study_id)
    done = [one for one in results if one.state == "done" and model in {"", one.model_id}]
    if not done:
        raise HTTPException(404, "the study has no result of this model")
    return done[0]


@router.get("/studies/{study_id}/overlay", response_class=Response, responses={200: PNG})
def overlay(
    service: Here,
    person: Asking,
    study_id: StudyId,
    model: Annotated[str, Query(max_length=64)] = "",
    finding: Annotated[str, Query(max_length=64)] = "",
) -> Response:
    """PNG: the image next to its highest findings, or next to `finding`."""
    refuse_results(service, person, study_id)
    return Response(overlay_of(service, study_id, model, finding), media_type="image/png")


def overlay_of(service: Service, study_id: str, model: str = "", finding: str = "") -> bytes:
    """Draws the overlay of a stored result as PNG. An empty `finding` draws all; an unknown one is a bad input."""
    result = _result(service, study_id, model)
    if finding and finding not in result.maps["order"]:
        raise BadInput(f"finding: not one of {', '.join(result.maps['order'])}")
    pixels, maps = (service.store.file(study_id, kind) for kind in ("pixels", f"maps-{result.model_id}"))
    if pixels is None or maps is None:
        raise HTTPException(404, "no such study; it may have been deleted")
    return overlay_png(_existing(service, study_id)[0], result, (pixels, maps), finding)


@router.get("/studies/{study_id}/dicom", response_class=Response, responses={200: DICOM, 406: {"model": bodies.Error}})
def dicom(service: Here, person: Asking, study_id: StudyId, model: Annotated[str, Query(max_length=64)] = "") -> Response:
    """The result as DICOM SR, which belongs to the study of the radiograph: one object, or multipart/related."""
    refuse_results(service, person, study_id)
    return dicom_of(service, study_id, model)


def dicom_of(service: Service, study_id: str, model: str = "") -> Response:
    """SR joins the study of its radiograph, so a PNG has none. multipart/related as DICOMweb has it (PS3.18 8.6.1.2)."""
    found, result = _existing(service, study_id)[0], _result(service, study_id, model)
    if found.image["source"] != "dicom":
        raise HTTPException(406, "the upload was no DICOM file, so there is no study to which DICOM results could belong")
    try:
        made = service.made_objects(study_id, result.model_sha)
    except BadImage:
        raise
    except BadInput as problem:
        raise HTTPException(404, str(problem)) from None
    try:
        objects = [path.read_bytes() for path in made.files]
    finally:
        made.remove()
    if len(objects) == 1:
        return Response(objects[0], media_type="application/dicom")
    border = secrets.token_hex(16)
    parts = [b"--%s\r\nContent-Type: application/dicom\r\n\r\n%s\r\n" % (border.encode(), one) for one in objects]
    media = f'multipart/related; type="application/dicom"; boundary={border}'
    return Response(b"".join(parts) + b"--%s--\r\n" % border.encode(), media_type=media)


@router.get("/studies/{study_id}/fhir", responses={200: {"content": {"application/fhir+json": {}}}})
def fhir(service: Here, person: Asking, study_id: StudyId) -> JSONResponse:
    """FHIR R4: a Bundle of ImagingStudy, Observations and DiagnosticReport. The patient is a pseudonym."""
    refuse_results(service, person, study_id)
    found, results = _existing(service, study_id)
    content = bundle_of(found, results, reviews.current(service.store, study_id), row_of(service, found))
    return JSONResponse(content, media_type="application/fhir+json")


@router.put("/studies/{study_id}/review", response_model=bodies.ReviewOut, responses={409: {"model": bodies.Conflict}})
def put_review(service: Here, person: Asking, study_id: StudyId, review: NewReview) -> bodies.ReviewOut | Response:
    """409 with the current version where somebody else wrote since `base`."""
    own = reads_for(service.store, study_id, person.name)
    if own.mine is not None and not own.complete:
        raise BadInput("this study is yours to read independently: write to /read; the shared review comes after all reads")
    try:
        names = {name for one in service.served.values() for name in one.predictor.findings}
        written = reviews.put_review(service.store, study_id, person.name, review, names)
    except reviews.StaleReview as stale:
        now = reviews.current(service.store, study_id)
        return JSONResponse({"error": str(stale), "current": now.model_dump(mode="json")}, 409)
    if written is None:
        raise HTTPException(404, "no such study; it may have been deleted")
    return written


@router.get("/studies/{study_id}/history")
def history(service: Here, person: Asking, study_id: StudyId) -> bodies.History:
    """Every version of the review, oldest first; of your own read, while others' are hidden from you. None is ever changed."""
    _existing(service, study_id)
    reads = reads_for(service.store, study_id, person.name)
    if reads.mine is not None and not reads.complete:
        return bodies.History(versions=own_history(service.store, study_id, person.name))
    return bodies.History(versions=reviews.history(service.store, study_id))


def show_study(service: Service, study_id: str, person: Person, *, blind: bool = False) -> dict[str, Any]:
    """Serves a study as it is at one time, as `person` may see it; 404 where it was deleted."""
    with service.store.one_look():
        hidden = bool(withheld_of(service, person, [study_id], blind=blind))
        return study_of(service, *_existing(service, study_id), reader=person.name, hidden=hidden)


def line(service: Service, study_id: str, person: Person) -> dict[str, Any]:
    """Serves the line of the worklist of one study, so that the page can refresh it alone."""
    hidden = bool(withheld_of(service, person, [study_id]))
    return row_of(service, _existing(service, study_id)[0], hidden=hidden)
