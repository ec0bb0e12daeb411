"""Reads the images that a DICOM door accepted: processes decode them, then the batches take them.

Works only where a DICOM door is open. Images are read in the order of their arrival; a damaged one is marked, and the next
follows.
"""

from __future__ import annotations

import logging
import shutil
import threading
from collections import Counter
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from sqlalchemy.exc import SQLAlchemyError

from chestmap.errors import BadImage
from chestmap.serving.engine.batches import Batches
from chestmap.serving.engine.decoder_pool import DecoderEnded, DecodersBusy
from chestmap.serving.store.arrivals import read, refuse, unread
from chestmap.serving.store.results import MOST_DEATHS, PendingResult
from chestmap.serving.store.store import NewStudy
from chestmap.serving.store.store_files import DamagedFile

log = logging.getLogger(__name__)
PAUSE = 5.0
"""Seconds until another look, and until another try where the disk or the database is at fault."""
ROOM = 0.25
"""Seconds until another look whether the batches have room."""
AT_ONCE = 16
"""Images of one look; what waits behind them is looked for again."""

Read = Callable[[Path, Path, str], NewStudy]
"""Decodes a file into a folder: takes the file, the folder and the file's sha256."""


class ImageReading:
    """A thread that reads whatever is new. The store is the queue, so another process may put images back into it."""

    def __init__(self, batches: Batches, read_one: Read, models: dict[str, str], threads: int) -> None:
        self.batches, self.store, self._read_one, self._models = batches, batches.store, read_one, models
        self.arrived = threading.Event()
        self._stopping = threading.Event()
        self._ends: Counter[str] = Counter()  # of processes that decode, by study
        self._pool = ThreadPoolExecutor(threads, "read")
        self._thread = threading.Thread(target=self._run, name="reading", daemon=True)

    def start(self) -> None:
        """Starts the thread that looks for accepted images; images that an earlier process left unread come first."""
        self._thread.start()

    def stop(self) -> None:
        """Ends after what is being read."""
        self._stopping.set()
        self.arrived.set()
        if self._thread.ident is not None:
            self._thread.join()
        self._pool.shutdown()

    def _run(self) -> None:
        while not self._stopping.is_set():
            self.arrived.clear()
            try:
                found = unread(self.store, AT_ONCE, self._ends) or unread(self.store, 1)
                if found and self.batches.has_room:
                    self.work(found)
                else:
                    self.arrived.wait(ROOM if found else PAUSE)
            except Exception as problem:  # goes on, whatever one image ran into
                self.batches.metrics.say("reading", f"reading: {_reason(problem)}; trying again")
                self._stopping.wait(PAUSE)

    def work(self, found: Iterable[tuple[str, str]]) -> None:
        """Each of them is queued, refused, or received still."""
        with self.batches.coming():
            for _ in self._pool.map(self._read, found):
                pass

    def _read(self, one: tuple[str, str]) -> None:
        study_id, sha = one
        if self._stopping.is_set():
            return
        try:
            self._keep(study_id, sha)
        except DecoderEnded as problem:
            self._retry(study_id, str(problem))
        except (BadImage, DamagedFile) as problem:
            self._refuse(study_id, str(problem))
        except (OSError, SQLAlchemyError, DecodersBusy) as problem:  # no fault of the image
            self.batches.metrics.say("later", f"image {study_id}: {_reason(problem)}; trying again")
            self._stopping.wait(PAUSE)
        except Exception as problem:  # whatever an image brings about, it holds up no other
            self._retry(study_id, f"cannot be read ({type(problem).__name__})")

    def _keep(self, study_id: str, sha: str) -> None:
        made, kept = self.store.folders.new(), False
        try:
            if (path := self.store.file(study_id, "original")) is None:
                return
            with self.batches.metrics.stage("decode"):
                found = self._read_one(path, made, sha)
            self.store.folders.make_durable(made)
            with self.store.moving:
                if path.exists():  # else it was replaced or deleted meanwhile
                    self.store.folders.move_in(made, study_id)
                    kept = read(self.store, found, self._models)
        finally:
            shutil.rmtree(made, ignore_errors=True)
        self._ends.pop(study_id, None)
        if kept:
            self.batches.submit(PendingResult(study_id, sha) for sha in self._models)

    def _retry(self, study_id: str, reason: str) -> None:
        """Perhaps a fault of the image: it is tried again after the others, a few times."""
        self._ends[study_id] += 1
        if self._ends[study_id] < MOST_DEATHS:
            self.batches.metrics.say("again", f"image {study_id}: its reader died or was too slow; trying again later")
        else:
            self._refuse(study_id, reason)

    def _refuse(self, study_id: str, reason: str) -> None:
        self._ends.pop(study_id, None)
        if refuse(self.store, study_id, reason):
            log.warning("image %s cannot be read; `chestmap node --status` says why", study_id)
            self.batches.metrics.unreadable.inc()


def _reason(problem: Exception) -> str:
    """Errors of the system in its words, which name nothing; others by their type."""
    return (isinstance(problem, OSError) and problem.strerror) or type(problem).__name__
