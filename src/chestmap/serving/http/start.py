"""Starts an HTTP server for a service."""

from __future__ import annotations

import logging
import os
import socket
import sys
import tempfile
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from chestmap.errors import ProcessDied
from chestmap.serving.engine.service import Service
from chestmap.serving.http.access import Access, Person
from chestmap.serving.http.app import SecondDoor, create_app
from chestmap.serving.http.server import ListenAddress, Server, server_of
from chestmap.storage.freed_memory import keep_freed_memory

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class HttpOptions:
    """Who may come in, and by which names the service is called."""

    tokens: Mapping[bytes, Person] = field(default_factory=dict)
    proxy_header: str = ""
    proxies: tuple[str, ...] = ("127.0.0.1", "::1")
    hosts: tuple[str, ...] = ()


def run(
    service: Service,
    address: ListenAddress,
    door: HttpOptions,
    *,
    other: Callable[[Service], SecondDoor] | None = None,
    server: type[Server] = Server,
) -> None:
    """Until a signal ends it, or no model predicts any more. `other` makes a second door, which is open as long as this one."""
    keep_freed_memory()
    os.umask(0o077)  # database and files are for their owner alone
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(asctime)s %(message)s")
    for name in ("alembic", "uvicorn.error", "uvicorn"):
        logging.getLogger(name).setLevel(logging.WARNING)
    tempfile.tempdir = str(service.store.folders.incoming)  # where uploads lie until they are read
    access = Access(door.tokens, door.proxy_header, frozenset(door.proxies))
    app = create_app(service, access, {socket.gethostname(), *door.hosts}, other=other and other(service))
    for one in service.served.values():
        log.info("serving %s", one.id)
    log.info("listening on %s", address.url)
    running = server_of(app, address, service.settings, server)
    threading.Thread(target=_watch, args=(service, running), daemon=True).start()
    running.run()
    if service.batches.broken.is_set():
        raise ProcessDied(
            f"a model predicts not even an empty image ({service.batches.problem}); nothing is lost: start again"
        )


def _watch(service: Service, running: Server) -> None:
    """Ends the server where going on would fail every image."""
    service.batches.broken.wait()
    service.drain()
    running.should_exit = True
