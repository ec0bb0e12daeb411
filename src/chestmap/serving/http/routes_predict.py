"""Serves `POST /v1/predict`: images in; results as JSON, as a picture, or their ids at once.

An answer of 200 or 202 means that the image is on disk. The same bytes sent twice are one study.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from typing import Annotated, Any

from fastapi import APIRouter, File, Form, Header, HTTPException, Query, Request, Response, UploadFile
from fastapi.responses import JSONResponse
from fastapi.routing import APIRoute
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import UploadFile as Upload

from chestmap.errors import BadImage
from chestmap.serving.engine.service import AcceptedUpload, Service
from chestmap.serving.http import schemas as bodies
from chestmap.serving.http.access import Person
from chestmap.serving.http.asking import Asking, Here
from chestmap.serving.http.blind import refuse_results
from chestmap.serving.http.routes_studies import dicom_of, line, overlay_of, show_study

FIELDS = 8
FIELD_BYTES = 1024
DICOM, PNG, JSON = "application/dicom", "image/png", "application/json"


class _Bounded(APIRoute):
    """Asks for room before the body is read, and bounds the number of its parts."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Wraps the route: checks disk, queue and content type before a byte of the body is read."""
        inner = super().get_route_handler()

        async def bounded(request: Request) -> Response:
            service: Service = request.app.state.service
            service.check_room()
            if not request.headers.get("content-type", "").lower().startswith("multipart/form-data"):
                raise HTTPException(415, "expected multipart/form-data with one or more files")
            with service.receiving():
                await _parsed(request, service.settings.bounds.files)
            return await inner(request)

        return bounded


async def _parsed(request: Request, most: int) -> None:
    """The form, kept in the request; any parser error of a broken one is a 400."""
    try:
        await request.form(max_files=most, max_fields=FIELDS, max_part_size=FIELD_BYTES)
    except HTTPException:
        raise
    except Exception as problem:  # the parser promises no type
        if type(problem).__name__ in {"ClientDisconnect", "HTTPException"}:
            raise
        raise HTTPException(400, "the multipart body is broken") from None


router = APIRouter(prefix="/v1", tags=["predict"], route_class=_Bounded)
BINARY = {"schema": {"type": "string", "format": "binary"}}


@router.post(
    "/predict",
    response_model=bodies.Predicted,
    responses={
        200: {"content": {PNG: BINARY, DICOM: BINARY}},
        202: {"model": bodies.Accepted, "description": "Safe, and predicted later"},
        406: {"model": bodies.Error, "description": "Not in the form asked for"},
        422: {"model": bodies.AllFailed | bodies.Error, "description": "No file could be read, or a value is not allowed"},
    },
)
async def predict(  # noqa: PLR0913 - an operation's parameters
    request: Request,
    service: Here,
    person: Asking,
    files: Annotated[list[UploadFile], File(description="PNG, JPEG or DICOM")],
    model: Annotated[str, Form(max_length=64, description="One model's id; by default all")] = "",
    patient: Annotated[str, Form(max_length=64, description="Whose image a PNG or JPEG is; kept as a pseudonym")] = "",
    wait: Annotated[bool, Query(description="0: answer 202 with the studies' ids as soon as they are safe")] = True,  # noqa: FBT002
    accept: Annotated[str, Header(max_length=512)] = JSON,
) -> Response:
    """An image that is sent twice is one study. An answer of 200 or 202 means that the images are safe on disk."""
    kind = _kind(accept, len(files))
    models = service.models(model)
    taken = await _all_taken(request, service, files, models, patient)
    safe = [one for one in taken if isinstance(one, AcceptedUpload)]
    if not safe:
        failed = [one.model_dump() for one in taken if isinstance(one, bodies.FailedUpload)]
        return JSONResponse({"error": f"no file could be read: {failed[0]['error']}", "studies": failed}, 422)
    done = wait and await _finished(request, service, [one.study_id for one in safe])
    if kind in {PNG, DICOM} and done:
        await run_in_threadpool(refuse_results, service, person, safe[0].study_id)
    if kind == PNG and done:
        return Response(await run_in_threadpool(overlay_of, service, safe[0].study_id, model), media_type=PNG)
    if kind == DICOM and done:
        return await run_in_threadpool(dicom_of, service, safe[0].study_id, model)
    return await run_in_threadpool(_answer, service, person, taken, done=done)


def _answer(service: Service, person: Person, taken: list[AcceptedUpload | bodies.FailedUpload], *, done: bool) -> Response:
    """200 with results, or 202 with what is known so far."""
    view, whole = (show_study, bodies.Predicted) if done else (line, bodies.Accepted)
    studies = [view(service, one.study_id, person) if isinstance(one, AcceptedUpload) else one for one in taken]
    content = whole.model_validate({"studies": studies}).model_dump_json()
    return Response(content, 200 if done else 202, media_type=JSON)


def _kind(accept: str, count: int) -> str:
    """The first form that the client takes and that we have."""
    for part in accept.lower().split(","):
        kind, _, weight = part.partition(";")
        if "q=0" in weight.replace(" ", "").split(";") or "q=0.0" in weight:
            continue
        if (kind := kind.strip()) in {JSON, "application/*", "*/*", ""}:
            return JSON
        if kind in {PNG, "image/*", DICOM, "multipart/related"}:
            if count != 1:
                raise HTTPException(406, f"{count} files; {kind} is answered for one")
            return DICOM if kind in {DICOM, "multipart/related"} else PNG
    raise HTTPException(406, f"Accept: {JSON}, {PNG} and {DICOM} are answered")


async def _all_taken(
    request: Request, service: Service, files: Sequence[Upload], models: dict[str, str], patient: str
) -> list[AcceptedUpload | bodies.FailedUpload]:
    """One after the other: a client that sends many has no more than its share of the processes that decode."""

    def take(upload: Upload) -> AcceptedUpload | bodies.FailedUpload:
        name = upload.filename or ""
        try:
            return service.take_in(upload.file, name, models, patient)
        except BadImage as problem:
            return bodies.FailedUpload(name=name[:128], error=str(problem))

    with service.batches.coming():
        async with request.app.state.uploads:
            return [await run_in_threadpool(take, upload) for upload in files]


async def _finished(request: Request, service: Service, studies: list[str]) -> bool:
    """Whether every result came in time; not when the service begins to stop."""
    futures = [asyncio.wrap_future(service.batches.expect(one)) for one in studies]
    everything = asyncio.gather(*(asyncio.shield(one) for one in futures), return_exceptions=True)
    stopping = asyncio.ensure_future(request.app.state.stopping.wait())
    try:
        await asyncio.wait([everything, stopping], timeout=service.settings.answer_seconds, return_when="FIRST_COMPLETED")
    finally:
        stopping.cancel()
        everything.cancel()
    return all(one.done() and not one.cancelled() for one in futures)
