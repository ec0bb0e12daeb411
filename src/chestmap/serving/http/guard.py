"""Checks every request: limits, deadlines, Host, cross-site rules, the caller; adds the headers of every answer.

It wraps the application, so that nothing is parsed before it was counted.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
import traceback
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from ipaddress import ip_address
from typing import Any
from urllib.parse import urlsplit

from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from chestmap.serving.engine.prometheus import Metrics
from chestmap.serving.engine.settings import Bounds
from chestmap.serving.http.access import Access
from chestmap.serving.http.wrong_tokens import WrongTokens

log = logging.getLogger(__name__)
Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

SAFE = {"GET", "HEAD", "OPTIONS"}
HEALTH = {"/healthz", "/readyz"}
OPEN = {"/", "/v1/session", *HEALTH}
ONCE = (
    "host", "content-length", "authorization", "content-type", "transfer-encoding", "cookie", "origin", "sec-fetch-site",
    "x-chestmap", "x-reviewer", "x-forwarded-proto",
)  # fmt: skip
"""Headers of which a proxy and this service might believe different ones, if there were two."""

LONGEST_TARGET = 4096
CSP = (
    "default-src 'self'; img-src 'self' blob: data:; object-src 'none'; base-uri 'none'; form-action 'self'; "
    "frame-ancestors 'none'"
)
HEADERS = [
    (b"content-security-policy", CSP.encode()),
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"permissions-policy", b"camera=(), geolocation=(), microphone=()"),
]


class Stop(Exception):
    """An answer of the guard's own, after a while."""

    def __init__(self, status: int, message: str, seconds: float = 0.0) -> None:
        super().__init__(message)
        self.status, self.message, self.seconds = status, message, seconds


class Guard:
    """The outermost ASGI application. `hosts` are names, besides localhost and addresses, by which it may be called."""

    def __init__(self, app: App, access: Access, bounds: Bounds, metrics: Metrics, hosts: Iterable[str] = ()) -> None:
        self.app, self.access, self.bounds, self.metrics = app, access, bounds, metrics
        self.hosts = {"localhost", *(host.lower() for host in hosts)}
        self.once = {*ONCE, access.proxy_header.lower()} - {""}
        self.wrong_tokens = WrongTokens()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        secure = _is_secure(scope)
        start, answer = time.monotonic(), _Answer(send, self.bounds.send_seconds, secure=secure)
        state = scope.setdefault("state", {})
        state |= {"secure": secure, "wrong_token": lambda: self.wrong_tokens.delay(_peer(scope))}
        try:
            self._check(scope)
            await self.app(scope, self._body(receive, scope), answer)
        except Stop as stop:
            await asyncio.sleep(stop.seconds)
            await answer.error(stop.status, stop.message)
        except (ClientDisconnect, TimeoutError):
            pass  # nobody is there to be answered; the server closes the connection
        except Exception as problem:
            frames = traceback.extract_tb(problem.__traceback__)
            place = next((one for one in reversed(frames) if "chestmap" in one.filename), frames[-1])
            log.error("%s at %s:%s", type(problem).__name__, place.filename, place.lineno)  # noqa: TRY400 - messages may hold names
            await answer.error(
                500, "something went wrong in the service; its log says where"
            )  # unless the application did so
        finally:
            route = getattr(scope.get("route"), "path", "none")
            took = time.monotonic() - start
            method = scope["method"] if scope["method"] in {*SAFE, "POST", "PUT", "DELETE"} else "other"
            self.metrics.request(method, route, answer.status, took)
            log.info("%s %s %d %.0f ms", method, route, answer.status, took * 1000)

    def _body(self, receive: Receive, scope: Scope) -> _Body:
        """A client without credentials sends little, and at once."""
        if scope["state"]["person"] is None:
            return _Body(receive, self.bounds.stranger_bytes, min(self.bounds.stranger_seconds, self.bounds.body_seconds))
        return _Body(receive, self._most_bytes(scope), self.bounds.body_seconds)

    def _most_bytes(self, scope: Scope) -> int:
        """Only uploads may be large."""
        return self.bounds.request_bytes if scope["path"] == "/v1/predict" else self.bounds.json_bytes

    def _check(self, scope: Scope) -> None:
        """In the order of cost: counting before parsing, parsing before cryptography."""
        if scope["state"].get("spare") and scope["path"] not in HEALTH:
            raise Stop(503, "every connection is at work; try again in a few seconds")
        listed = scope["headers"]
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in listed}
        if len(listed) > self.bounds.headers:
            raise Stop(431, f"{len(listed)} headers; at most {self.bounds.headers} are read")
        if sum(len(name) + len(value) for name, value in listed) > self.bounds.header_bytes:
            raise Stop(431, f"headers of more than {self.bounds.header_bytes:,} bytes")
        if len(scope.get("raw_path") or b"") + len(scope["query_string"]) > LONGEST_TARGET:
            raise Stop(414, f"address of more than {LONGEST_TARGET} letters")
        self._check_once(scope)
        self._check_host(headers.get("host", ""))
        if headers.get("content-encoding", "identity").lower() != "identity":
            raise Stop(415, "Content-Encoding: send the body as it is")
        length = headers.get("content-length", "0")
        if not length.isascii() or not length.isdigit() or int(length) > self._most_bytes(scope):
            raise Stop(413, f"body of {length[:20]} bytes; at most {self._most_bytes(scope):,} are read")
        if scope["method"] not in SAFE:
            self._check_origin(headers)
        person = self.access.person(headers, _peer(scope))
        if person is None and scope["path"] not in OPEN and not scope["path"].startswith("/page/"):
            seconds = self.wrong_tokens.delay(_peer(scope)) if "authorization" in headers else 0.0
            raise Stop(401, "no valid token: send Authorization: Bearer TOKEN, or sign in on the page", seconds)
        scope["state"]["person"] = person
        if person is not None:
            scope["state"].get("admit", bool)()

    def _check_once(self, scope: Scope) -> None:
        """What a proxy in front and this service might read differently is refused."""
        seen = Counter(name.decode("latin-1") for name, _ in scope["headers"])
        for once in self.once:
            if seen[once] > 1:
                raise Stop(400, f"header {once} given twice")
        if seen["content-length"] and seen["transfer-encoding"]:
            raise Stop(400, "Content-Length and Transfer-Encoding together: send one of them")

    def _check_host(self, host: str) -> None:
        """Names must be known, or any web page could reach a loopback service through a name of its own (DNS rebinding)."""
        try:
            name = (urlsplit(f"//{host}").hostname or "").lower()
        except ValueError:
            name = ""
        if name in self.hosts:
            return
        try:
            ip_address(name)
        except ValueError:
            raise Stop(421, "this service does not answer to that Host; start it with --allow-host NAME") from None

    @staticmethod
    def _check_origin(headers: dict[str, str]) -> None:
        """A page elsewhere cannot set X-Chestmap without being allowed to, and nobody is."""
        if "x-chestmap" not in headers:
            raise Stop(403, "header X-Chestmap: 1 is missing; every request that changes something carries it")
        if headers.get("sec-fetch-site", "same-origin") not in {"same-origin", "none"}:
            raise Stop(403, "request from another site")
        origin = headers.get("origin")
        if origin is not None and origin.partition("://")[2].lower() != headers.get("host", "").lower():
            raise Stop(403, "request from another origin")


def _peer(scope: Scope) -> str:
    return (scope.get("client") or ("", 0))[0]


def _is_secure(scope: Scope) -> bool:
    """Whether the client speaks TLS, to us or to a proxy. Who lies about it hinders only themselves."""
    said = next((value for name, value in scope["headers"] if name == b"x-forwarded-proto"), b"")
    return scope["scheme"] == "https" or said.strip().lower() == b"https"


class _Body:
    """`receive` that counts bytes and has a deadline, despite any Content-Length."""

    def __init__(self, receive: Receive, most: int, seconds: float) -> None:
        self.receive, self.most, self.end = receive, most, time.monotonic() + seconds
        self.count, self.more = 0, True

    async def __call__(self) -> Message:
        if not self.more:
            return await self.receive()
        try:
            message = await asyncio.wait_for(self.receive(), max(0.001, self.end - time.monotonic()))
        except TimeoutError:
            raise HTTPException(408, "the body took too long", {"connection": "close"}) from None
        self.count += len(message.get("body", b""))
        self.more = bool(message.get("more_body", False))
        if self.count > self.most:
            raise HTTPException(413, f"body of more than {self.most:,} bytes", {"connection": "close"})
        return message


class _Answer:
    """`send` with the headers of every answer, and a deadline for a client that does not take it."""

    def __init__(self, send: Send, seconds: float, *, secure: bool) -> None:
        self.send, self.seconds, self.secure, self.status = send, seconds, secure, 0

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            given = {name.lower() for name, _ in message["headers"]}
            extra = [*HEADERS, (b"cache-control", b"no-store")]
            if self.secure:
                extra.append((b"strict-transport-security", b"max-age=31536000"))
            message = {**message, "headers": [*message["headers"], *(pair for pair in extra if pair[0] not in given)]}
        await asyncio.wait_for(self.send(message), self.seconds)

    async def error(self, status: int, text: str) -> None:
        """JSON, in the form of the application's own errors. The connection is closed, since its body was not read."""
        if self.status:  # too late for an answer: the server closes the connection
            return
        body = json.dumps({"error": text}).encode()
        headers = [
            (b"content-type", b"application/json"), (b"content-length", str(len(body)).encode()), (b"connection", b"close"),
        ]  # fmt: skip
        await self({"type": "http.response.start", "status": status, "headers": headers})
        await self({"type": "http.response.body", "body": body})
