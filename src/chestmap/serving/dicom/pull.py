"""Pulls new radiographs of a DICOMweb archive: lists them by QIDO-RS on a schedule, fetches them by WADO-RS.

An image is pulled once: its instance is looked up in the store before it is fetched. Where many images wait already,
pulling pauses.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter
from collections.abc import Iterator
from datetime import datetime, timedelta

from dicomweb_client import DICOMwebClient
from sqlalchemy.exc import SQLAlchemyError

from chestmap.errors import BadImage
from chestmap.reports.dicom.source_header import SINGLE
from chestmap.serving.dicom.destinations import Undelivered
from chestmap.serving.dicom.prometheus import NodeMetrics
from chestmap.serving.dicom.web import WebClient, text_of
from chestmap.serving.engine.service import Service
from chestmap.serving.store.arrivals import count_waiting, is_known
from chestmap.serving.store.store import Store

log = logging.getLogger(__name__)
MODALITIES = ("CR", "DX")
STUDY, SERIES, INSTANCE, STORAGE = "0020000D", "0020000E", "00080018", "00080016"
MODALITY, INSTANCES = "00080060", "00201208"
SILENT = 3
"""After so many studies in a row without an answer the others wait for the next look."""
LONGEST_WAIT = 3600.0
"""Seconds until an image that could not be fetched is asked for again; it begins with one look, and doubles."""


class Pull:
    """A thread that looks every so many seconds. What the store knows is not fetched again."""

    def __init__(self, client: DICOMwebClient, service: Service, metrics: NodeMetrics, every: float) -> None:
        self.client, self.service, self.metrics, self.every = client, service, metrics, every
        self.settings = service.settings.dicom
        self._seen: dict[str, int] = {}  # study: how many instances it had when all of it was taken in
        self._tries: dict[str, tuple[int, float]] = {}  # image that was not pulled: how often, and when it is due
        self._failures: Counter[str] = Counter()  # of studies: those that fail often come last, and hold up no other
        self._stopping = threading.Event()
        self._web = WebClient(client, self.settings, self._stopping)
        self._thread = threading.Thread(target=self._run, name="pull", daemon=True)

    def start(self) -> None:
        """Starts the thread that asks the archive at once, and then on its schedule."""
        self._thread.start()

    def stop(self) -> None:
        """An archive that neither answers nor hangs up is not waited for: what it sends is not kept any more."""
        self._stopping.set()
        if self._thread.ident is not None:
            self._thread.join(2 * self.settings.network_seconds)

    def _run(self) -> None:
        while not self._stopping.is_set():
            try:
                if taken := self.pull_once():
                    log.info("%d images were pulled", taken)
            except Undelivered as problem:
                log.warning("pulling: %s; looking again in %g seconds", problem, self.every)
            except Exception as problem:  # whatever an archive answers
                log.warning("pulling: %s; looking again in %g seconds", type(problem).__name__, self.every)
            self._stopping.wait(self.every)

    def pull_once(self) -> int:
        """Takes in what is new; how many images that were."""
        taken, failed, silent, found = list[str](), list[str](), 0, self._studies()
        for study in sorted(found, key=lambda one: self._failures[one]):
            if silent == SILENT or not self._may_go_on():
                break
            if found[study] and self._seen.get(study) == found[study]:
                continue
            try:
                whole, silent = self._study(study, taken, failed), 0
            except (Undelivered, BadImage) as problem:
                whole, silent = False, silent + getattr(problem, "unreachable", False)
                failed.append(f"a study: {problem}")
            if whole:
                self._seen[study] = found[study]
            else:
                self._failures[study] += 1
        if failed:
            log.warning("pulling: %d failed, and are asked for again; the first, %s", len(failed), failed[0])
        self._seen = {study: count for study, count in self._seen.items() if study in found}
        self._failures = Counter({study: count for study, count in self._failures.items() if study in found})
        return len(taken)

    def _study(self, study: str, taken: list[str], failed: list[str]) -> bool:
        """Whether the store now knows all of it."""
        whole = True
        for series, instance in self._images(study):
            if not self._may_go_on():
                return False
            tries, due = self._tries.get(instance, (0, 0.0))
            if time.monotonic() < due:
                whole = False
                continue
            try:
                path = f"studies/{study}/series/{series}/instances/{instance}"
                taken.append(self.service.accept(instance, [self._web.image(path, instance)], "pull"))
                self.metrics.received.labels("pull").inc()
                self._tries.pop(instance, None)
            except (Undelivered, BadImage, OSError, SQLAlchemyError) as problem:
                whole = False
                said = str(problem) if isinstance(problem, Undelivered | BadImage) else type(problem).__name__
                failed.append(f"image {self._store.folders.instance_of(instance)}: {said}")
                wait = min(LONGEST_WAIT, self.every * 2.0 ** min(tries, 30))
                self._tries[instance] = tries + 1, time.monotonic() + wait
        return whole

    @property
    def _store(self) -> Store:
        return self.service.store

    def _is_known(self, instance: str) -> bool:
        return is_known(self._store, self._store.folders.instance_of(instance))

    def _may_go_on(self) -> bool:
        """Unless the node stops, or has enough to do."""
        room = self._store.folders.free() >= self.settings.free_bytes
        return not self._stopping.is_set() and room and count_waiting(self._store) < self.settings.pull_waiting

    def _studies(self) -> dict[str, int]:
        """Of these days, with a radiograph; and how many instances each has, 0 where the archive does not say."""
        wanted: dict[str, str] = {}
        if self.settings.pull_days:
            today = datetime.now()  # noqa: DTZ005 - a study's date is that of its place
            first = today - timedelta(days=self.settings.pull_days)
            wanted["StudyDate"] = f"{first:%Y%m%d}-{today:%Y%m%d}"
        found: dict[str, int] = {}
        for modality in MODALITIES:
            for study, one in self._web.every("studies", STUDY, {**wanted, "ModalitiesInStudy": modality}):
                count = text_of(one, INSTANCES)
                found[study] = int(count) if count.isascii() and count.isdigit() else 0
        return found

    def _images(self, study: str) -> Iterator[tuple[str, str]]:
        """Series and instance of each radiograph that the store does not know."""
        for series, one in self._web.query(f"studies/{study}/series", SERIES):
            if text_of(one, MODALITY) not in MODALITIES:
                continue
            for instance, found in self._web.query(f"studies/{study}/series/{series}/instances", INSTANCE):
                if text_of(found, STORAGE) in {"", *SINGLE} and not self._is_known(instance):
                    yield series, instance
