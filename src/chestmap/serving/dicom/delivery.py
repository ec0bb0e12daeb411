"""Sends results to the archive until it has them. Retries wait ever longer; after days a result is a dead letter.

One thread sends, in the order in which results became due. A restart loses nothing: the queue is in the database.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field

from sqlalchemy.exc import SQLAlchemyError

from chestmap.errors import BadInput
from chestmap.reports.dicom import Kind
from chestmap.serving.dicom.destinations import Destination, ReportReceiver, Undelivered
from chestmap.serving.dicom.prometheus import NodeMetrics
from chestmap.serving.engine.archive_objects import MadeObjects, made_for_archive
from chestmap.serving.engine.decoder_pool import DecoderEnded, DecodersBusy
from chestmap.serving.engine.service import Service
from chestmap.serving.store import deliveries
from chestmap.serving.store.arrivals import remove_delivered
from chestmap.serving.store.database_tables import REPORTS, REVIEW, WITHDRAWAL
from chestmap.serving.store.deliveries import DueResult
from chestmap.serving.store.results import MOST_DEATHS
from chestmap.serving.store.store_files import DamagedFile

log = logging.getLogger(__name__)
LOOK = 1.0
"""Seconds between looks at what is due."""


@dataclass(frozen=True, eq=False)
class DeliverySettings:
    """What becomes of a result: which objects are made, where they go, and whether the image is kept afterwards.

    `receivers` get finished reviews once the archive has them; keys are of REPORTS.
    """

    destination: Destination
    kinds: Sequence[Kind]
    keep: bool = True
    receivers: Mapping[str, ReportReceiver] = field(default_factory=dict)


class Delivery:
    """A thread that sends whatever is due. While the archive does not answer, one image knocks for all.

    Objects are made when they are sent, by the processes that decode; while one is sent the next are made.
    """

    def __init__(self, duty: DeliverySettings, service: Service, metrics: NodeMetrics) -> None:
        self.duty, self.service, self.store, self.metrics = duty, service, service.store, metrics
        self.destination, self.settings = duty.destination, service.settings.dicom
        self._stopping = threading.Event()
        self._refused = 0  # attempts in a row that found nobody
        self._pool = ThreadPoolExecutor(service.settings.readers, "write")
        self._thread = threading.Thread(target=self._run, name="delivery", daemon=True)

    def start(self) -> None:
        """Starts the sending thread; `stop` ends it after the object that is under way."""
        self._thread.start()

    def stop(self) -> None:
        """Ends after the image that is being sent."""
        self._stopping.set()
        if self._thread.ident is not None:
            self._thread.join(4 * self.settings.network_seconds)  # an archive that never ends its answer: it is sent again
        self._pool.shutdown(cancel_futures=True)

    def _run(self) -> None:
        while not self._stopping.is_set():
            try:
                found = deliveries.due(self.store, 2 * self.service.settings.readers)
                if found:
                    self.deliver(found)
                else:
                    self._stopping.wait(LOOK if not len(self.service.batches) else LOOK / 10)
            except Exception as problem:  # goes on, whatever one delivery ran into
                self.service.metrics.say("delivery", f"delivery: {type(problem).__name__}; trying again")
                self._stopping.wait(self._pause(1))

    def deliver(self, found: Sequence[DueResult]) -> None:
        """Each is done, tried later, a dead letter, or still ready where the archive is away."""
        making = [(one, None if one.subject in REPORTS else self._pool.submit(self._made, one)) for one in found]
        refused = self._refused
        try:
            for one, made in making:
                if self._refused > refused or self._stopping.is_set():
                    break
                self._deliver(one, made)
        finally:
            for _, made in making:
                if made is not None and not made.cancel() and made.exception() is None:
                    made.result().remove()

    def _made(self, one: DueResult) -> MadeObjects:
        with self.service.metrics.stage("write"):
            return made_for_archive(self.service, one.study_id, one.subject, self.duty.kinds)

    def _sent(self, one: DueResult, made: Future[MadeObjects] | None) -> MadeObjects | None:
        """What the archive has now; None of a report, which another receiver has."""
        if made is None:
            self._post(one)
            return None
        sent = made.result()
        if sent.files:
            with self.service.metrics.stage("send"):
                self.destination.send(sent.files)
        return sent

    def _post(self, one: DueResult) -> None:
        if (receiver := self.duty.receivers.get(one.subject)) is None:
            raise BadInput(f"dicom.{one.subject} is not set any more: set it, and finish the review once more")
        receiver.post(self.service, one.study_id)

    def _deliver(self, one: DueResult, made: Future[MadeObjects] | None) -> None:
        try:
            sent = self._sent(one, made)
        except Undelivered as problem:
            self._undelivered(one, problem)
        except DecoderEnded as problem:
            if one.tries + 1 < MOST_DEATHS:
                self._undelivered(one, Undelivered(str(problem)))
            else:
                self._fail(one, str(problem))
        except (BadInput, DamagedFile) as problem:
            self._fail(one, str(problem))
        except (OSError, SQLAlchemyError, DecodersBusy) as problem:
            self._undelivered(one, Undelivered(f"results cannot be made ({type(problem).__name__})"))
        else:
            self._delivered(one, sent)

    def _fail(self, one: DueResult, reason: str) -> None:
        log.warning("image %s: its results cannot be made; `chestmap node --status` says why", one.study_id)
        deliveries.fail(self.store, one, reason)

    def _delivered(self, one: DueResult, sent: MadeObjects | None) -> None:
        if sent is None:
            deliveries.delivered(self.store, one)
            self.metrics.delivered.labels(self._name(one)).inc()
            return
        if self._refused:
            log.info("the archive takes results again")
            deliveries.hurry(self.store)
        self._refused = 0
        then = tuple(self.duty.receivers) if one.subject == REVIEW else ()
        deliveries.delivered(self.store, one, sent.objects, sent.gone, then)
        if one.subject == WITHDRAWAL:
            deliveries.remove_withdrawn(self.store, one.study_id)
        elif not self.duty.keep:
            remove_delivered(self.store, one.study_id)
        self.metrics.delivered.labels(self.destination.name).inc()

    def _name(self, one: DueResult) -> str:
        receiver = self.duty.receivers.get(one.subject)
        return receiver.address if receiver else self.destination.name

    def _undelivered(self, one: DueResult, problem: Undelivered) -> None:
        deliveries.postpone(self.store, one, self._pause(one.tries + 1), str(problem))
        self.metrics.retries.labels(self._name(one)).inc()
        for study_id in deliveries.give_up(self.store, 3600 * self.settings.give_up_hours):
            log.warning(
                "image %s: its results are a dead letter now; `chestmap node --retry-dead` sends them again", study_id
            )
            self.metrics.dead_letters.inc()
        if not problem.unreachable:
            if not one.tries:  # else it was reported
                log.warning("image %s: %s; trying again", one.study_id, problem)
            return
        self._refused += 1
        if self._refused == 1:
            log.warning("%s; results wait, and are sent as soon as it takes them", problem)
        self._stopping.wait(self._pause(self._refused))

    def _pause(self, tries: int) -> float:
        return min(self.settings.longest_retry_seconds, self.settings.retry_seconds * 2.0 ** min(tries - 1, 30))
