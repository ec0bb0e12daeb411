"""Serves independent reads: who is to read a study, one reader's own read, and how far readers agree.

Until all readers of a study are done, each sees only their own read; an administrator assigns them.
"""

from __future__ import annotations

import math
from typing import Annotated

from fastapi import APIRouter, HTTPException, Response
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field
from starlette.concurrency import run_in_threadpool

from chestmap.serving.engine.service import Service
from chestmap.serving.http import schemas as bodies
from chestmap.serving.http.asking import Asking, Here
from chestmap.serving.http.reads_agreement import agreement_of
from chestmap.serving.http.routes_studies import StudyId, show_study
from chestmap.serving.store import independent_reads, reviews
from chestmap.serving.store.review_schema import NewReview, ReaderLine

router = APIRouter(prefix="/v1", tags=["reads"])


class Readers(BaseModel):
    """The body of `PUT /v1/studies/{id}/readers`: who is to read the study independently."""

    model_config = ConfigDict(extra="forbid")
    readers: Annotated[list[str], Field(max_length=independent_reads.MOST_READERS)]
    blind: bool = Field(default=False, description="They read blind first: no results before they commit, in any program")


class Assigned(BaseModel):
    """The readers of a study, each with the time at which their read was done, or none."""

    readers: list[ReaderLine]


class Agreed(BaseModel):
    """Of one finding. `readers` are two names, or all where it is empty; what cannot be computed is null."""

    finding: str
    readers: list[str]
    images: int
    kappa: float | None
    ac1: float | None
    boxes: int
    iou: float | None


class Agreement(BaseModel):
    """Agreement over all studies whose independent reads are finished: their number, and a row for each finding and pair of
    readers.
    """

    studies: int
    rows: list[Agreed]


@router.put("/studies/{study_id}/readers")
def put_readers(service: Here, person: Asking, study_id: StudyId, wanted: Readers) -> Assigned:
    """Gives a study to these readers, for an independent read each; for administrators."""
    if not person.admin:
        raise HTTPException(403, "only an administrator may assign studies")
    found = independent_reads.assign(service.store, study_id, wanted.readers, person.name, blind=wanted.blind)
    if found is None:
        raise HTTPException(404, "no such study; it may have been deleted")
    return Assigned(readers=found)


@router.put("/studies/{study_id}/read", response_model=bodies.ReviewOut, responses={409: {"model": bodies.Conflict}})
def put_read(service: Here, person: Asking, study_id: StudyId, review: NewReview) -> bodies.ReviewOut | Response:
    """A version of your own read. Others see it when all readers of the study are done."""
    try:
        names = {name for one in service.served.values() for name in one.predictor.findings}
        written = independent_reads.put_read(service.store, study_id, person.name, review, names)
    except reviews.StaleReview as stale:
        now = independent_reads.reads_for(service.store, study_id, person.name).mine or reviews.NOTHING
        return JSONResponse({"error": str(stale), "current": now.model_dump(mode="json")}, 409)
    if written is None:
        raise HTTPException(404, "no such study; it may have been deleted")
    return written


@router.put("/studies/{study_id}/blind")
def begin_blind(service: Here, person: Asking, study_id: StudyId) -> bodies.StudyOut:
    """The study without results of models: you read it blind. No program gives them to you before you commit.

    To commit, write a version of your review or read with stage open. Who has done so before gets the whole study.
    """
    independent_reads.begin_blind(service.store, study_id, person.name)
    return bodies.StudyOut.model_validate(show_study(service, study_id, person))


@router.get("/agreement")
async def agreement(service: Here) -> Agreement:
    """Over all studies whose independent reads are finished."""
    return await run_in_threadpool(_agreement, service)


def _agreement(service: Service) -> Agreement:
    studies, rows = agreement_of(independent_reads.finished_reads(service.store))
    known = [{key: _number(value) for key, value in one.items()} for one in rows]
    return Agreement.model_validate({"studies": studies, "rows": known})


def _number(value: object) -> object:
    return None if isinstance(value, float) and not math.isfinite(value) else value
