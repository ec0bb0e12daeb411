import gc
import logging
from contextlib import ExitStack

import pytest

from chestmap.serving.dicom.node import DEFAULT_KINDS, DeliverySettings, Node
from chestmap.serving.dicom.receiver import ListenOptions, allowed_of
from chestmap.serving.engine.service import Service
from chestmap.serving.engine.settings import DicomSettings, ServeSettings
from chestmap.serving.store.store import Store
from orthanc import orthanc, orthanc_server
from serving.dicom.films import Archive, Collected

__all__ = ["orthanc", "orthanc_server"]

QUICK = {"retry_seconds": 0.05, "longest_retry_seconds": 0.2, "free_bytes": 0}


@pytest.fixture(autouse=True, scope="session")
def _settled():
    """What was imported is never garbage, so it need not be looked through after every test."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture(autouse=True)
def _silent(monkeypatch):
    """What pynetdicom says of peers is not for a log: as the verb does."""
    for name in ("pynetdicom", "pydicom"):
        monkeypatch.setattr(logging.getLogger(name), "level", logging.CRITICAL + 1)
    yield
    gc.collect()  # sockets that pynetdicom forgot are found here, and not in the midst of another test


@pytest.fixture
def settings():
    return DicomSettings(**QUICK)


@pytest.fixture
def start(served, readers, tmp_path, settings):
    """`start(destination, allow=[...], **door)` runs a node in this process; it gives the node, whose `port` is known."""
    with ExitStack() as ends:

        def begin(
            destination=None, *, allow=("TEST",), how=settings, folder="node", keep=False, kinds=DEFAULT_KINDS, **more
        ):
            door = ListenOptions(
                port=0, allowed=allowed_of(allow), **{key: more.pop(key) for key in ("tls",) if key in more}
            )
            service = Service([served], Store(tmp_path / folder), ServeSettings(readers=1, dicom=how), readers)
            node = Node(
                service,
                door,
                DeliverySettings(destination or Collected(), kinds, keep, more.pop("receivers", {})),
                more.get("pull"),
            )
            service.start()
            node.port = node.start()
            node.ended = ends.enter_context(Ended(node))
            return node

        yield begin


class Ended:
    """Stops a node once, by hand or at the end of the test."""

    def __init__(self, node):
        self.node, self.done = node, False

    def __call__(self):
        if not self.done:
            self.done = True
            self.node.stop()
            self.node.service.stop()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self()


@pytest.fixture
def archive():
    """An archive in this process, by pynetdicom; `close` and `open` it as wanted."""
    made = Archive()
    made.open()
    yield made
    made.close()
