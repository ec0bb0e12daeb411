"""The node's folder: the queue, and for each image a folder of its files; and what is counted of them.

queue.sqlite          what was acknowledged, and how far it is
studies/ab/s-ab12…/   image.dcm and, once it was predicted, results/
dead/s-ab12…/         the same, for results that could not be delivered
incoming/             what is being received; emptied at every start
orphans/              images that the queue does not know: never acknowledged, unless the queue was lost
key, lock             from which names are made; held by the node that owns the folder
"""

from __future__ import annotations

import hmac
import shutil
import sqlite3
import threading
from collections.abc import Iterable
from contextlib import closing
from hashlib import sha256
from pathlib import Path

from chestmap.errors import Refused
from chestmap.serving.dicom.metrics import NodeMetrics
from chestmap.serving.dicom.queue import Queue, queue_of
from chestmap.serving.store.store_files import Folders, sync

Piece = bytes | bytearray | memoryview
TROUBLE = (OSError, sqlite3.Error)
"""Disk or database: no fault of an image, and over some day."""


class Spool:
    """Queue and files, kept in step. For any number of threads of one process."""

    def __init__(self, root: Path, *, keep: bool = False) -> None:
        if not (root / "queue.sqlite").exists() and any(root.glob("studies/*/s-*/original")):
            raise Refused(f"{root}: holds studies of `chestmap serve`; give the node a folder of its own")
        self.folders, self.keep = Folders(root), keep
        self.folders.lock()
        self._key, self._lock = self.folders.key(), threading.Lock()
        self.dead = self.folders.root / "dead"
        self.dead.mkdir(mode=0o700, exist_ok=True)
        self.queue = Queue(self.folders.root / "queue.sqlite")
        self.metrics = NodeMetrics(self.queue)
        self.arrived, self.made = threading.Event(), threading.Event()

    def close(self) -> None:
        self.queue.close()
        self.folders.unlock()

    def recover(self) -> None:
        """Takes up what an earlier node left."""
        self.folders.sweep(self.queue.known())
        self.queue.recover()

    def id_of(self, sop_instance_uid: str) -> str:
        """The same image has the same id; without the folder's key nobody gets from one to the other."""
        return "s-" + hmac.new(self._key, sop_instance_uid.encode(), sha256).hexdigest()[:24]

    def take(self, sop_instance_uid: str, pieces: Iterable[Piece], by: str = "c-store") -> str:
        """Returns when the image is safe on disk and in the queue. One that is pending already is not kept twice."""
        image_id = self.id_of(sop_instance_uid)
        with self.metrics.seconds.labels("receive").time():
            self._keep(image_id, pieces)
        self.metrics.received.labels(by).inc()
        self.arrived.set()
        return image_id

    def _keep(self, image_id: str, pieces: Iterable[Piece]) -> None:
        received = self.folders.new()
        try:
            with (received / "image.dcm").open("xb") as file:
                for piece in pieces:
                    file.write(piece)
            self.folders.make_durable(received)
            with self._lock:
                if not self.queue.is_pending(image_id):
                    self._remove(image_id)
                    self.folders.place(received, image_id)
                    self.queue.add(image_id)
        finally:
            shutil.rmtree(received, ignore_errors=True)

    def place(self, image_id: str) -> Path:
        """Where an image's files are."""
        dead = self.dead / image_id
        return dead if dead.is_dir() else self.folders.of(image_id)

    def keep_results(self, image_id: str, made: Path) -> None:
        """`made` is a folder of whole files on the same disk; it becomes the image's results, durably."""
        target = self.place(image_id) / "results"
        shutil.rmtree(target, ignore_errors=True)
        sync(made)
        made.rename(target)
        sync(target.parent)
        self.queue.results_ready(image_id)
        self.metrics.predicted.inc()
        self.made.set()

    def results(self, image_id: str) -> list[Path]:
        """In the order of their names, which begin with their kind; none where there was nothing to say."""
        return sorted((self.place(image_id) / "results").iterdir())

    def delivered(self, image_id: str) -> None:
        """The files go, unless they are kept; in step with an image that comes again at the same time."""
        with self._lock:
            self.queue.delivered(image_id, kept=self.keep)
            if not self.keep:
                self._remove(image_id)
            elif (self.dead / image_id).is_dir():
                self._move(self.dead / image_id, self.folders.of(image_id))

    def bury(self, image_id: str) -> None:
        """To the dead letters."""
        with self._lock:
            if (place := self.folders.of(image_id)).is_dir():
                self._move(place, self.dead / image_id)
            self.queue.bury(image_id)
        self.metrics.dead_letters.inc()

    def tidy(self, failed_seconds: float, done_seconds: float) -> None:
        """Removes what is not needed any more."""
        now = self.queue.clock()
        with self._lock:
            gone = self.queue.to_remove(now - failed_seconds)
            for image_id in gone:
                self._remove(image_id)
            self.queue.forget(gone, now - done_seconds)

    def _move(self, place: Path, target: Path) -> None:
        target.parent.mkdir(mode=0o700, exist_ok=True)
        shutil.rmtree(target, ignore_errors=True)
        place.rename(target)
        sync(target.parent)
        sync(place.parent)

    def _remove(self, image_id: str) -> None:
        self.folders.remove(image_id)
        shutil.rmtree(self.dead / image_id, ignore_errors=True)


def retry_failed(root: Path) -> int:
    """Images that could not be predicted, and whose files are still there, are new again."""
    with closing(queue_of(root)) as queue:
        folders = Folders(root)
        return queue.retry_failed([one for one in queue.failed() if (folders.of(one) / "image.dcm").is_file()])
