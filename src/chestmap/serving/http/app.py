"""Builds the HTTP application: routes, the form of errors, and tasks that run meanwhile.

`server.py` runs what `create_app` returns, and tests call it directly. Every error has one shape, `{"error": …}`, and tells
what to do.
"""

from __future__ import annotations

import asyncio
import html
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from fastapi import APIRouter, FastAPI, HTTPException, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException as StarletteHTTPException

from chestmap.errors import BadInput
from chestmap.serving.engine.decoder_pool import DecodersBusy
from chestmap.serving.engine.service import Service, ServiceFull
from chestmap.serving.http import routes_predict, routes_reads, routes_studies
from chestmap.serving.http import schemas as bodies
from chestmap.serving.http.access import COOKIE, Access
from chestmap.serving.http.asking import Here
from chestmap.serving.http.guard import Guard
from chestmap.serving.http.sessions import SECONDS
from chestmap.serving.store.store_files import DamagedFile
from chestmap.version import __version__

PAGE = Path(__file__).parents[1] / "page"
TYPES = {
    ".html": "text/html; charset=utf-8", ".js": "text/javascript; charset=utf-8", ".css": "text/css; charset=utf-8",
    ".svg": "image/svg+xml", ".png": "image/png", ".woff2": "font/woff2", ".json": "application/json",
}  # fmt: skip
meta = APIRouter()


@runtime_checkable
class SecondDoor(Protocol):
    """A second door to the same service."""

    def start(self) -> object: ...

    def stop(self) -> None: ...


def create_app(service: Service, access: Access, hosts: Iterable[str] = (), *, other: SecondDoor | None = None) -> Guard:
    """The whole service as one ASGI application; `hosts` are names by which it may be called, as well as localhost.

    `other` is opened after the service has started, and closed before it stops.
    """

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        app.state.uploads = asyncio.Semaphore(service.settings.uploads)
        app.state.stopping = asyncio.Event()
        app.state.readiness = Readiness(service)
        await run_in_threadpool(service.start)
        if other:
            await run_in_threadpool(other.start)
        yield
        app.state.stopping.set()
        if other:
            await run_in_threadpool(other.stop)
        await run_in_threadpool(service.stop)

    app = FastAPI(
        title="chestmap", version=__version__, lifespan=lifespan, docs_url=None, redoc_url=None, responses=bodies.ERRORS,
        description="Findings of chest radiographs, where they are, and reviews of them. Not a medical device.",
    )  # fmt: skip
    app.state.service, app.state.access = service, access
    for router in (meta, routes_predict.router, routes_studies.router, routes_reads.router):
        app.include_router(router)
    _say_errors(app)
    return Guard(app, access, service.settings.bounds, service.metrics, hosts)


def _error_response(status: int, text: str, headers: dict[str, str] | None = None) -> JSONResponse:
    """An error in the form of all errors."""
    return JSONResponse({"error": text}, status, headers)


def _say_errors(app: FastAPI) -> None:
    """Every error is one line of JSON."""

    async def http(_: Request, problem: Any) -> Response:
        return _error_response(problem.status_code, str(problem.detail), dict(problem.headers or {}))

    async def invalid(_: Request, problem: Any) -> Response:
        lines = [f"{'.'.join(str(part) for part in one['loc'][1:]) or 'body'}: {one['msg']}" for one in problem.errors()[:3]]
        return _error_response(422, "; ".join(lines)[:500])

    async def bad(_: Request, problem: Any) -> Response:
        return _error_response(422, str(problem)[:1000])

    async def full(request: Request, problem: Any) -> Response:
        reason, seconds = (problem.reason, problem.seconds) if isinstance(problem, ServiceFull) else ("busy", 2)
        request.app.state.service.metrics.refused(reason)
        return _error_response(429 if reason in {"queue", "busy"} else 503, str(problem), {"Retry-After": str(seconds)})

    async def damaged(_: Request, problem: Any) -> Response:
        return _error_response(500, str(problem)[:1000])

    async def broken(_: Request, __: Any) -> Response:
        return _error_response(500, "something went wrong in the service; its log says where")

    for kind, answer in (
        (Exception, broken),
        (StarletteHTTPException, http), (RequestValidationError, invalid), (BadInput, bad), (ServiceFull, full), (DecodersBusy, full),
        (DamagedFile, damaged),
    ):  # fmt: skip
        app.add_exception_handler(kind, answer)


@meta.get("/v1/models", tags=["models"])
def models(service: Here) -> bodies.Models:
    """What is served: ids for the other operations, findings in their order, and operating points where there are any."""
    return bodies.Models.model_validate({"models": [one.about() for one in service.served.values()]})


@meta.post("/v1/session", tags=["session"])
async def sign_in(request: Request, token: bodies.Token, response: Response) -> bodies.Who:
    """A cookie for the page, good for half a day. A wrong token is answered late."""
    access: Access = request.app.state.access
    if access.open:
        return bodies.Who(name="", admin=True)
    value = access.session(token.token)
    person = access.person({"authorization": f"Bearer {token.token}"}, "")
    if value is None or person is None:
        await asyncio.sleep(request.state.wrong_token())
        raise HTTPException(401, "no valid token")
    response.set_cookie(COOKIE, value, SECONDS, httponly=True, samesite="strict", secure=request.state.secure)
    return bodies.Who(name=person.name, admin=person.admin)


@meta.delete("/v1/session", tags=["session"], status_code=204, response_class=Response, response_model=None)
def sign_out(request: Request, response: Response) -> None:
    """The session is over; the token stays good for others."""
    request.app.state.access.sign_out(request.headers)
    response.delete_cookie(COOKIE, httponly=True, samesite="strict", secure=request.state.secure)


@meta.get("/healthz", tags=["health"])
async def healthz() -> bodies.Health:
    """The process answers."""
    return bodies.Health(status="ok", version=__version__)


@meta.get("/readyz", tags=["health"])
async def readyz(request: Request) -> bodies.Health:
    """Uploads are taken in and predicted; 503 gives the reason if not. Looked at once a second, however many ask."""
    await request.app.state.readiness.check()
    return bodies.Health(status="ok", version=__version__)


class Readiness:
    """One look at disk, models and database for all who ask within a second, so that probes cost nothing."""

    seconds, longest = 1.0, 5.0

    def __init__(self, service: Service) -> None:
        self.service = service
        self._look: asyncio.Future[None] | None = None
        self._at = 0.0

    async def check(self) -> None:
        """Answers 503 where the disk or the database does not answer in time.

        One look serves all requests of its seconds.
        """
        loop = asyncio.get_running_loop()
        if self._look is None or (self._look.done() and loop.time() - self._at > self.seconds):
            self._at, self._look = loop.time(), asyncio.ensure_future(run_in_threadpool(self._refresh))
            self._look.add_done_callback(lambda look: look.cancelled() or look.exception())
        try:
            await asyncio.wait_for(asyncio.shield(self._look), self.longest)
        except TimeoutError:
            raise HTTPException(503, "disk or database do not answer", {"Retry-After": "5"}) from None

    def _refresh(self) -> None:
        self.service.check_room()
        if not self.service.batches.alive:
            raise HTTPException(503, "the models are not running", {"Retry-After": "5"})
        self.service.store.queued()


@meta.get("/metrics", tags=["health"], response_class=Response)
def metrics(service: Here) -> Response:
    """For Prometheus."""
    return Response(service.metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")


@meta.get("/", include_in_schema=False)
def index() -> Response:
    """Serves the page of the worklist."""
    return _static("index.html")


@meta.get("/page/{name:path}", include_in_schema=False)
def page(name: str) -> Response:
    """Serves a script, style sheet or picture of the page by its name; other names are 404."""
    return _static(name)


def _static(name: str) -> Response:
    """A file of the page; the name is looked up in what there is, and never becomes a path."""
    there = {path.relative_to(PAGE).as_posix(): path for path in PAGE.rglob("*") if path.suffix in TYPES}
    if name not in there:
        raise HTTPException(404, "no such page")
    return Response(there[name].read_bytes(), media_type=TYPES[there[name].suffix], headers={"cache-control": "no-cache"})


@meta.get("/docs", include_in_schema=False)
def docs(request: Request) -> HTMLResponse:
    """Every operation in one plain page: no script, nothing from elsewhere."""
    head = "<!doctype html><html lang=en><meta charset=utf-8><title>chestmap API</title><h1>chestmap API</h1>"
    paths = request.app.openapi()["paths"]
    operations = [_operation(path, method, about) for path, found in paths.items() for method, about in found.items()]
    return HTMLResponse("\n".join([head, '<p>For programs: <a href="openapi.json">openapi.json</a></p>', *operations]))


def _operation(path: str, method: str, about: dict[str, Any]) -> str:
    """Tags that HTML lets one leave open are left open."""
    asked = (
        f"<li><code>{one['name']}</code> {html.escape(one.get('description', ''))}" for one in about.get("parameters", ())
    )
    answers = (f"<li>{code}: {html.escape(one['description'])}" for code, one in about["responses"].items())
    text = html.escape(about.get("description", about.get("summary", "")))
    return f"<h2><code>{method.upper()} {html.escape(path)}</code></h2><p>{text}<ul>{''.join(asked)}</ul><ul>{''.join(answers)}</ul>"
