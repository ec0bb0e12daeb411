"""A node in a process of its own, which a test may kill."""

import signal
import sqlite3
import threading
from contextlib import closing
from pathlib import Path
from typing import Any


def run_node(model: Path, store: Path, destination: str, port: Any) -> None:
    """`port` is told once it listens."""
    import torch

    torch.set_num_threads(1)
    from chestmap.models.predictor import load
    from chestmap.serving.dicom.destinations import c_store_of
    from chestmap.serving.dicom.node import Duty, Node
    from chestmap.serving.dicom.receiver import Door, allowed_of
    from chestmap.serving.dicom.settings import NodeSettings
    from chestmap.serving.dicom.spool import Spool
    from chestmap.serving.engine.served_model import Served

    ended = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: ended.set())
    settings = NodeSettings(retry_seconds=0.1, readers=1, batch_size=2, free_bytes=0)
    sends = c_store_of(destination, "CHESTMAP", settings, None)
    node = Node(Duty(Served(load(model)), sends), Spool(store), settings)
    port.value = node.start(Door(port=0, allowed=allowed_of(["TEST"])))
    node.watch(ended)
    node.stop()


def count_done(store: Path) -> int:
    with closing(sqlite3.connect(store / "queue.sqlite", timeout=30)) as base:
        return base.execute("SELECT count(*) FROM image WHERE state = 'done'").fetchone()[0]
