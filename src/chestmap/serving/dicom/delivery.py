"""Results to the archive, until it has them: retries that wait ever longer, and dead letters after days."""

from __future__ import annotations

import logging
import threading

from chestmap.serving.dicom.destinations import Destination, Undelivered
from chestmap.serving.dicom.settings import NodeSettings
from chestmap.serving.dicom.spool import TROUBLE, Spool

log = logging.getLogger(__name__)
LOOK = 1.0
"""Seconds between looks at what is due; what was just predicted does not wait for it."""


class Delivery:
    """A thread that sends whatever is due. While the archive does not answer, one image knocks for all."""

    def __init__(self, destination: Destination, spool: Spool, settings: NodeSettings) -> None:
        self.destination, self.spool, self.settings = destination, spool, settings
        self._stopping = threading.Event()
        self._refused = 0  # attempts in a row that found nobody
        self._thread = threading.Thread(target=self._run, name="delivery", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Ends after the image that is being sent."""
        self._stopping.set()
        self.spool.made.set()
        if self._thread.ident is not None:
            self._thread.join(4 * self.settings.network_seconds)  # an archive that never ends its answer: it is sent again

    def _run(self) -> None:
        while not self._stopping.is_set():
            self.spool.made.clear()
            try:
                due = self.spool.queue.next_due()
                if due is None:
                    self.spool.made.wait(LOOK)
                else:
                    self.deliver(*due)
            except Exception as problem:  # a node goes on, whatever one delivery ran into
                log.warning("delivery: %s; trying again", type(problem).__name__)
                self._stopping.wait(self._pause(1))

    def deliver(self, image_id: str, tries: int) -> None:
        """Done, to be tried later, or a dead letter."""
        try:
            if results := self.spool.results(image_id):
                with self.spool.metrics.seconds.labels("send").time():
                    self.destination.send(results)
        except Undelivered as problem:
            self._undelivered(image_id, tries, problem)
        except TROUBLE as problem:
            self._undelivered(image_id, tries, Undelivered(f"results cannot be read ({type(problem).__name__})"))
        else:
            if self._refused:
                log.info("the archive takes results again")
                self.spool.queue.hurry()
            self._refused = 0
            self.spool.delivered(image_id)
            self.spool.metrics.delivered.labels(self.destination.name).inc()

    def _undelivered(self, image_id: str, tries: int, problem: Undelivered) -> None:
        self.spool.queue.postpone(image_id, self._pause(tries + 1), str(problem))
        self.spool.metrics.retries.labels(self.destination.name).inc()
        for one in self.spool.queue.overdue(3600 * self.settings.give_up_hours):
            log.warning("image %s: its results are a dead letter now; `chestmap node --retry-dead` sends them again", one)
            self.spool.bury(one)
        if not problem.unreachable:
            if not tries:  # else it was told
                log.warning("image %s: %s; trying again", image_id, problem)
            return
        self._refused += 1
        if self._refused == 1:
            log.warning("%s; results wait, and are sent as soon as it takes them", problem)
        self._stopping.wait(self._pause(self._refused))

    def _pause(self, tries: int) -> float:
        return min(self.settings.longest_retry_seconds, self.settings.retry_seconds * 2.0 ** min(tries - 1, 30))
