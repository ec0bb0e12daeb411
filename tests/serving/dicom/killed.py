"""A node in a process of its own, which a test may kill."""

import signal
import sqlite3
import threading
from contextlib import closing
from pathlib import Path
from typing import Any


def run_node(model: Path, store: Path, destination: str, port: Any) -> None:
    """`port` is told once it listens. It keeps what was delivered, as `chestmap serve --dicom` does."""
    import torch

    torch.set_num_threads(1)
    from chestmap.models.predictor import load
    from chestmap.serving.dicom.delivery import DeliverySettings
    from chestmap.serving.dicom.destinations import c_store_of
    from chestmap.serving.dicom.node import DEFAULT_KINDS, Node
    from chestmap.serving.dicom.receiver import ListenOptions, allowed_of
    from chestmap.serving.engine.served_model import ServedModel
    from chestmap.serving.engine.service import Service
    from chestmap.serving.engine.settings import DicomSettings, ServeSettings
    from chestmap.serving.store.store import Store

    ended = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: ended.set())
    settings = ServeSettings(readers=1, batch_size=2, dicom=DicomSettings(retry_seconds=0.1, free_bytes=0))
    sends = c_store_of(destination, "CHESTMAP", settings.dicom, None)
    service = Service([ServedModel(load(model))], Store(store), settings)
    node = Node(
        service, ListenOptions(port=0, allowed=allowed_of(["TEST", "ORTHANC"])), DeliverySettings(sends, DEFAULT_KINDS)
    )
    service.start()
    port.value = node.start()
    ended.wait()
    node.stop()
    service.stop()


def count_done(store: Path) -> int:
    return _number(store, "SELECT count(*) FROM delivery WHERE state = 'done'")


def count_taken(store: Path) -> int:
    return _number(store, "SELECT count(*) FROM study")


def _number(store: Path, query: str) -> int:
    with closing(sqlite3.connect(store / "store.sqlite", timeout=30)) as base:
        return base.execute(query).fetchone()[0]
