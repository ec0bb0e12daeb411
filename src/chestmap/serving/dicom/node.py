"""All parts of the node together, from a start to a stop; in between it may end at any moment."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

from chestmap.reports.dicom import Kind
from chestmap.serving.dicom.delivery import Delivery
from chestmap.serving.dicom.destinations import Destination
from chestmap.serving.dicom.metrics import Page
from chestmap.serving.dicom.predicting import Predicting
from chestmap.serving.dicom.pull import Pull
from chestmap.serving.dicom.receiver import Door, Receiver
from chestmap.serving.dicom.settings import NodeSettings
from chestmap.serving.dicom.spool import TROUBLE, Spool
from chestmap.serving.engine.decoder_pool import Readers
from chestmap.serving.engine.served_model import Served
from chestmap.serving.engine.settings import Bounds, ServeSettings

log = logging.getLogger(__name__)
DEFAULT_KINDS: tuple[Kind, ...] = ("sr", "gsps")
TIDY_SECONDS = 3600
STATUS_SECONDS = 10


@dataclass(frozen=True, eq=False)
class Duty:
    """What becomes of an image: which model sees it, which results are made, and where they go."""

    served: Served
    destination: Destination
    kinds: Sequence[Kind] = DEFAULT_KINDS


class Node:
    """Owns the folder of its spool from `start` to `stop`."""

    def __init__(
        self,
        duty: Duty,
        spool: Spool,
        settings: NodeSettings | None = None,
        *,
        pull: Pull | None = None,
        readers: Readers | None = None,
    ) -> None:
        """`readers` may be shared by several nodes; without them it has its own."""
        self.spool, self.settings, self.pull = spool, settings or NodeSettings(), pull
        bounds = Bounds(file_bytes=self.settings.object_bytes + (1 << 20), read_seconds=self.settings.read_seconds)
        self._own_readers = readers is None
        how = ServeSettings(readers=self.settings.readers, bounds=bounds)
        self.readers = readers or Readers(how, spool.folders.key())
        self.predicting = Predicting(duty.served, spool, self.readers, duty.kinds, self.settings)
        self.delivery = Delivery(duty.destination, spool, self.settings)
        self.receiver: Receiver | None = None
        self.page: Page | None = None

    def start(self, door: Door, page: tuple[str, int] | None = None) -> int:
        """Takes up what an earlier node left, then listens; the port. `page` is where metrics are read."""
        if page is not None:
            self.page = Page(page, self.spool.metrics.registry)
        self.spool.recover()
        self._tidy()
        self.receiver = Receiver(door, self.spool, self.settings)
        self.predicting.start()
        self.delivery.start()
        if self.pull:
            self.pull.start()
        return self.receiver.port

    def stop(self) -> None:
        """Finishes what is under way; the rest goes on at the next start."""
        if self.receiver:
            self.receiver.stop()
        if self.pull:
            self.pull.stop()
        self.predicting.stop()
        self.delivery.stop()
        if self.page:
            self.page.close()
        if self._own_readers:
            self.readers.close()
        self.spool.close()

    def watch(self, ended: threading.Event) -> None:
        """Tells how the queue is whenever that has changed, until `ended`, or the model predicts nothing any more."""
        said, tidied = "", time.monotonic()
        while True:
            with suppress(*TROUBLE):
                counts = self.spool.queue.counts()
                if (line := " · ".join(f"{state} {count}" for state, count in counts.items())) != said:
                    log.info("%s", line)
                said = line
            self.spool.metrics.tell()
            if ended.wait(STATUS_SECONDS) or self.predicting.broken:
                return
            if time.monotonic() - tidied > TIDY_SECONDS:
                self._tidy()
                tidied = time.monotonic()

    def _tidy(self) -> None:
        try:
            self.spool.tidy(3600 * self.settings.keep_failed_hours, 86400 * self.settings.keep_done_days)
        except TROUBLE as problem:
            log.warning("removing old files: %s", type(problem).__name__)
