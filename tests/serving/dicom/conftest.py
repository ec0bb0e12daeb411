import gc
import logging
from contextlib import ExitStack

import pytest

from chestmap.serving.dicom.node import Duty, Node
from chestmap.serving.dicom.receiver import Door, allowed_of
from chestmap.serving.dicom.settings import NodeSettings
from chestmap.serving.dicom.spool import Spool
from orthanc import orthanc, orthanc_server
from serving.dicom.films import Archive, Collected

__all__ = ["orthanc", "orthanc_server"]

QUICK = {"retry_seconds": 0.05, "longest_retry_seconds": 0.2, "free_bytes": 0, "readers": 1}


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
    return NodeSettings(**QUICK)


@pytest.fixture
def start(served, readers, tmp_path, settings):
    """`start(destination, allow=[...], **door)` runs a node in this process; it gives the node, whose `port` is known."""
    with ExitStack() as ends:

        def begin(destination=None, *, allow=("TEST",), how=settings, folder="node", keep=False, **more):
            door = Door(port=0, allowed=allowed_of(allow), **{key: more.pop(key) for key in ("tls",) if key in more})
            pull = more.pop("pull", None)
            spool = Spool(tmp_path / folder, keep=keep)
            duty = Duty(served, destination or Collected(), **more)
            node = Node(duty, spool, how, readers=readers, pull=pull and pull(spool))
            node.port = node.start(door)
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
