"""From model folders to a running service."""

from __future__ import annotations

import logging
import socket
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from chestmap.errors import BadInput
from chestmap.models.engines import ForwardSettings
from chestmap.models.predictor import load
from chestmap.serving.engine.served_model import Served
from chestmap.serving.engine.service import Service
from chestmap.serving.engine.settings import ServeSettings
from chestmap.serving.http.access import Access, Person
from chestmap.serving.http.app import create_app
from chestmap.serving.http.server import Address, Server, server_of
from chestmap.serving.store.store import Store
from chestmap.settings import checked


@dataclass(frozen=True)
class Door:
    """Who may come in, and by which names the service is called."""

    tokens: Mapping[bytes, Person] = field(default_factory=dict)
    proxy_header: str = ""
    proxies: tuple[str, ...] = ("127.0.0.1", "::1")
    hosts: tuple[str, ...] = ()


def run(
    folders: Sequence[Path],
    store: Path,
    address: Address,
    door: Door,
    settings: ServeSettings,
    *,
    server: type[Server] = Server,
) -> None:
    """Until a signal ends it."""
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(asctime)s %(message)s")
    for name in ("alembic", "uvicorn.error", "uvicorn"):
        logging.getLogger(name).setLevel(logging.WARNING)
    tree = {key: getattr(settings, key) for key in ("engine", "device", "precision")}
    forward = checked(ForwardSettings, tree, name="--serve-set")
    served = [Served(load(folder, forward)) for folder in folders]
    if len({one.sha256 for one in served}) < len(served):
        raise BadInput("the same model is given twice; give each once")
    service = Service(served, Store(store, settings.database), settings)
    tempfile.tempdir = str(service.store.folders.incoming)  # where uploads lie until they are read
    access = Access(door.tokens, door.proxy_header, frozenset(door.proxies))
    app = create_app(service, access, {socket.gethostname(), *door.hosts})
    for one in served:
        logging.getLogger(__name__).info("serving %s", one.id)
    logging.getLogger(__name__).info("listening on %s", address.url)
    server_of(app, address, settings, server).run()
