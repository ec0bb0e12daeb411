"""Runs uvicorn with deadlines for slow clients, TLS, and a stop that finishes what is under way.

Slow clients are closed by deadlines, idle ones make room for new ones. SIGTERM finishes requests that are under way and
takes no more.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import h11
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from chestmap.errors import BadInput
from chestmap.serving.engine.settings import ServeSettings
from chestmap.serving.http.connections import ConnectionLimits, listeners, room_for_connections
from chestmap.serving.http.guard import Guard

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ListenAddress:
    """Where to listen. Port 0 takes any that is free."""

    host: str = "127.0.0.1"
    port: int = 8000
    certificate: Path | None = None
    key: Path | None = None

    @property
    def url(self) -> str:
        """The address to open in a browser; an IPv6 host is put in brackets."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{'https' if self.certificate else 'http'}://{host}:{self.port}/"


class BoundedProtocol(H11Protocol):
    """Uvicorn waits forever for the end of a header; this closes the connection."""

    header_seconds = 10.0
    doorway: ConnectionLimits
    _number = -1
    _late: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Starts the deadline for the head of the first request, and tells the application what the doorway allows."""
        super().connection_made(transport)
        self._number = transport.get_extra_info("socket").fileno()
        state = {"admit": lambda: self.doorway.busy(self._number), "spare": self.doorway.is_spare(self._number)}
        self.app_state = {**self.app_state, **state}
        self._arm()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stops the deadline of a connection that has ended."""
        self._disarm()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Starts the deadline anew between requests, and stops it while a request is under way."""
        super().data_received(data)
        if self.conn.their_state is h11.IDLE:
            self._arm()
        else:
            self._disarm()

    def on_response_complete(self) -> None:
        """Marks the connection idle, so that it may be closed for another; a request that waits already gets its deadline."""
        super().on_response_complete()
        self.doorway.idle(self._number)
        if self.conn.their_state is h11.IDLE and self.conn.trailing_data[0]:
            self._arm()

    def _arm(self) -> None:
        """From here on a whole header is due; bytes that trickle in do not put it off."""
        if self._late is None:
            self._late = self.loop.call_later(self.header_seconds, self._close)

    def _disarm(self) -> None:
        if self._late is not None:
            self._late.cancel()
            self._late = None

    def _close(self) -> None:
        if not self.transport.is_closing():
            self.transport.write(b"HTTP/1.1 408 Request Timeout\r\nconnection: close\r\ncontent-length: 0\r\n\r\n")
            self.transport.close()


class Server(uvicorn.Server):
    """Listens through a doorway, and notifies the service at the first signal, so that nobody waits for results any more."""

    def __init__(self, config: uvicorn.Config, drain: Callable[[], None], doorway: ConnectionLimits) -> None:
        super().__init__(config)
        self.drain, self.doorway = drain, doorway

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """The port is taken before models start."""
        host, port = self.config.host, self.config.port
        try:
            sockets = sockets or listeners(host, port, self.doorway)
        except OSError as error:
            raise BadInput(f"{host}:{port}: cannot listen there ({error.strerror or error}); give another --port") from None
        asyncio.get_running_loop().set_exception_handler(ThrottledLog())
        await super().startup(sockets)

    def handle_exit(self, sig: int, frame: Any) -> None:
        """Stops taking images in before uvicorn stops, so that none is accepted and lost."""
        self.drain()
        super().handle_exit(sig, frame)


class ThrottledLog:
    """Logs what goes wrong outside requests in one line, at most one in `seconds`, with the number of those left out."""

    seconds = 10.0

    def __init__(self) -> None:
        self._next, self._left_out = 0.0, 0

    def __call__(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        if loop.time() < self._next:
            self._left_out += 1
            return
        error = context.get("exception")
        more = f" ({self._left_out:,} more since the last line)" if self._left_out else ""
        said = f": {type(error).__name__}" if error else ""
        log.error("%s%s%s", context.get("message", "event loop"), said, more)
        self._next, self._left_out = loop.time() + self.seconds, 0


def server_of(app: Guard, address: ListenAddress, settings: ServeSettings, kind: type[Server] = Server) -> Server:
    """Timeouts and limits of `settings.bounds`; uvicorn logs nothing, since paths and queries may name patients."""
    bounds, fastapi = settings.bounds, cast(Any, app.app)
    doorway = ConnectionLimits(
        room_for_connections(bounds.connections),
        bounds.connections_of_address,
        app.access.proxies if app.access.proxy_header else (),
    )
    kept = {"header_seconds": bounds.header_seconds, "doorway": doorway}
    config = uvicorn.Config(
        cast(Any, app), host=address.host, port=address.port, http=type("Bounded", (BoundedProtocol,), kept), ws="none", loop="asyncio",
        lifespan="on", log_config=None, access_log=False, server_header=False, proxy_headers=False,
        timeout_keep_alive=min(15, max(1, round(bounds.header_seconds))),
        timeout_graceful_shutdown=settings.shutdown_seconds, h11_max_incomplete_event_size=bounds.header_bytes,
        backlog=512,
    )  # fmt: skip
    if address.certificate:
        config.load()
        config.ssl = _tls(address)

    def drain() -> None:
        fastapi.state.service.drain()
        stopping: asyncio.Event | None = getattr(fastapi.state, "stopping", None)
        if stopping is not None:
            asyncio.get_running_loop().call_soon_threadsafe(stopping.set)

    return kind(config, drain, doorway)


def _tls(address: ListenAddress) -> ssl.SSLContext:
    """TLS 1.2 or newer."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        context.load_cert_chain(cast(Path, address.certificate), address.key)
    except (OSError, ssl.SSLError) as error:
        raise BadInput(f"{address.certificate}: {error.strerror or error}; give a PEM certificate and its --key") from None
    return context
