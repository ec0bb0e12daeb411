"""Runs the DICOM door of a service: listens, pulls and delivers. It may end at any moment.

Made by `start.py`. It owns the threads of receiving, pulling and delivering; each can be stopped and started without losing
an image.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime, timedelta

from sqlalchemy.exc import SQLAlchemyError

from chestmap.reports.dicom import Kind
from chestmap.serving.dicom.delivery import Delivery, DeliverySettings
from chestmap.serving.dicom.prometheus import NodeMetrics
from chestmap.serving.dicom.pull import Pull
from chestmap.serving.dicom.receiver import ListenOptions, Receiver
from chestmap.serving.engine.service import Service
from chestmap.serving.store import deliveries
from chestmap.serving.store.arrivals import tidy

log = logging.getLogger(__name__)
DEFAULT_KINDS: tuple[Kind, ...] = ("sr", "gsps")
TIDY_SECONDS = 3600
STATUS_SECONDS = 10

MakePull = Callable[[Service, NodeMetrics], Pull]


class Node:
    """Starts after its service, and stops before it. Without a `duty` nothing is sent."""

    def __init__(
        self, service: Service, door: ListenOptions, duty: DeliverySettings | None = None, pull: MakePull | None = None
    ) -> None:
        self.service, self.store, self.door, self.duty = service, service.store, door, duty
        self.metrics = NodeMetrics(service.metrics, service.store)
        service.delivers = duty is not None
        self.delivery = Delivery(duty, service, self.metrics) if duty else None
        self.pull = pull(service, self.metrics) if pull else None
        self.receiver: Receiver | None = None
        self._ended = threading.Event()
        self._watch = threading.Thread(target=self._run, name="node", daemon=True)

    def start(self) -> int:
        """Listens; the port."""
        self._tidy()
        self.receiver = Receiver(self.door, self.service, self.metrics)
        if self.delivery:
            self.delivery.start()
        if self.pull:
            self.pull.start()
        self._watch.start()
        log.info(
            "%s listens on %s:%d%s",
            self.door.title,
            self.door.host,
            self.receiver.port,
            " with TLS" if self.door.tls else "",
        )
        return self.receiver.port

    def stop(self) -> None:
        """Finishes what is being sent; the rest goes on at the next start."""
        self._ended.set()
        if self.receiver:
            self.receiver.stop()
        if self.pull:
            self.pull.stop()
        if self.delivery:
            self.delivery.stop()
        if self._watch.ident is not None:
            self._watch.join()

    def _run(self) -> None:
        """Tells how the images stand whenever that has changed."""
        said, tidied = "", time.monotonic()
        while not self._ended.wait(STATUS_SECONDS):
            with suppress(OSError, SQLAlchemyError):
                line = " · ".join(f"{state} {count}" for state, count in deliveries.counts(self.store).items())
                if line != said:
                    log.info("%s", line)
                said = line
            self.service.metrics.tell()
            if time.monotonic() - tidied > TIDY_SECONDS:
                self._tidy()
                tidied = time.monotonic()

    def _tidy(self) -> None:
        settings, now = self.service.settings.dicom, datetime.now(UTC)
        refused = now - timedelta(hours=settings.keep_failed_hours)
        removed = now - timedelta(days=settings.keep_done_days)
        try:
            keep = self.duty is None or self.duty.keep
            tidy(self.store, *(one.isoformat(timespec="microseconds") for one in (refused, removed)), keep=keep)
        except (OSError, SQLAlchemyError) as problem:
            log.warning("removing old files: %s", type(problem).__name__)
