"""Starts a DICOM door from options, and a service that has no other.

`chestmap serve --dicom` and `chestmap node` come here. Certificates and ports are checked before a model is opened.
"""

from __future__ import annotations

import logging
import signal
import ssl
import sys
import threading
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from dicomweb_client import DICOMwebClient

from chestmap.errors import BadInput, ProcessDied, Refused
from chestmap.reports.dicom import kinds_of
from chestmap.serving.dicom import tls
from chestmap.serving.dicom.delivery import DeliverySettings
from chestmap.serving.dicom.destinations import Destination, ReportReceiver, Stow, c_store_of, web_client_of
from chestmap.serving.dicom.fhir_server import fhir_server_of
from chestmap.serving.dicom.hl7 import hl7_receiver_of
from chestmap.serving.dicom.node import DEFAULT_KINDS, MakePull, Node
from chestmap.serving.dicom.prometheus import MetricsServer
from chestmap.serving.dicom.pull import Pull
from chestmap.serving.dicom.receiver import ListenOptions, allowed_of, title_of
from chestmap.serving.engine.service import Service
from chestmap.serving.engine.settings import DicomSettings, ServeSettings
from chestmap.serving.http.access import is_loopback
from chestmap.serving.store.database_tables import FHIR, HL7

log = logging.getLogger(__name__)
TALKATIVE = ("pynetdicom", "pydicom", "dicomweb_client", "urllib3")
"""Libraries with messages that may hold words of an image's header."""


@dataclass(frozen=True, kw_only=True)
class TlsFiles:
    """Certificates and keys as files, as the verb takes them."""

    certificate: Path | None = None
    key: Path | None = None
    client_ca: Path | None = None
    archive_ca: Path | None = None
    credentials: Path | None = None

    def door(self, title: str, host: str, port: int, allow: Sequence[str]) -> ListenOptions:
        """Refuses what would let strangers in."""
        if bool(self.certificate) != bool(self.key):
            raise BadInput("--certificate and --key belong together; give both")
        if self.client_ca and not self.certificate:
            raise BadInput("--client-ca asks senders for certificates, which needs TLS; give --certificate and --key")
        if not is_loopback(host) and not allow:
            raise Refused(f"--host {host}: anybody who reaches it could send; give --allow TITLE@ADDRESS for each sender")
        made = tls.listening(self.certificate, self.key, self.client_ca) if self.certificate and self.key else None
        return ListenOptions(title=title_of(title), host=host, port=port, allowed=allowed_of(allow), tls=made)

    def sending(self) -> ssl.SSLContext | None:
        """Makes the TLS context for connections to the archive; without `archive_ca` they are plain."""
        return tls.sending(self.archive_ca, self.certificate, self.key) if self.archive_ca else None

    def web_client(self, url: str, settings: DicomSettings) -> DICOMwebClient:
        """Makes the DICOMweb client for an archive's base address, with its token or password where one is given."""
        return web_client_of(url, self.credentials, self.archive_ca, settings)


@dataclass(frozen=True, kw_only=True)
class DicomOptions:
    """The DICOM door as both verbs take it. `archive` is TITLE@HOST:PORT; `stow` and `pull` are addresses of DICOMweb."""

    port: int = 11112
    title: str = "CHESTMAP"
    host: str = "127.0.0.1"
    allow: Sequence[str] = ()
    archive: str | None = None
    stow: str | None = None
    pull: str | None = None
    every: float = 60
    kinds: Sequence[str] = ()
    keep: bool = True
    security: TlsFiles = TlsFiles()

    def check(self, settings: ServeSettings) -> None:
        """Before a model is loaded."""
        self._door()
        self._duty(settings.dicom)
        self._pull(settings.dicom)

    def node(self, service: Service) -> Node:
        """Nothing listens yet."""
        settings = service.settings.dicom
        return Node(service, self._door(), self._duty(settings), self._pull(settings))

    def _door(self) -> ListenOptions:
        return self.security.door(self.title, self.host, self.port, self.allow)

    def _duty(self, settings: DicomSettings) -> DeliverySettings | None:
        wanted = kinds_of([kind for word in self.kinds for kind in word.split(",")]) or DEFAULT_KINDS
        destination, receivers = self._destination(settings), self._receivers(settings)
        if receivers and not destination:
            named = " and ".join(f"dicom.{one}" for one in receivers)
            raise BadInput(f"{named}: finished reviews go there after the archive has them; give --to or --stow too")
        return DeliverySettings(destination, wanted, self.keep, receivers) if destination else None

    def _receivers(self, settings: DicomSettings) -> dict[str, ReportReceiver]:
        known = {
            FHIR: fhir_server_of(settings, self.security.archive_ca),
            HL7: hl7_receiver_of(settings),
        }
        return {subject: one for subject, one in known.items() if one is not None}

    def _destination(self, settings: DicomSettings) -> Destination | None:
        """Send results where images are pulled from, unless another destination is given."""
        stow = self.stow or (None if self.archive else self.pull)
        if self.archive and stow:
            raise BadInput("results go to one archive: give --to TITLE@HOST:PORT or --stow URL")
        if self.archive:
            return c_store_of(self.archive, self.title, settings, self.security.sending())
        return Stow(self.security.web_client(stow, settings)) if stow else None

    def _pull(self, settings: DicomSettings) -> MakePull | None:
        if self.pull is None:
            return None
        client, every = self.security.web_client(self.pull, settings), self.every
        return lambda service, metrics: Pull(client, service, metrics, every)


def run(service: Service, node: Node, page: tuple[str, int] | None = None) -> None:
    """Until SIGTERM or SIGINT. `page` is where Prometheus reads."""
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(asctime)s %(message)s")
    silence()
    ended = threading.Event()
    for one in (signal.SIGTERM, signal.SIGINT):
        signal.signal(one, lambda *_: ended.set())
    served = MetricsServer(page, service.metrics.registry) if page else None
    try:
        service.start()
        node.start()
        if served and page:
            log.info("metrics are at http://%s:%d/metrics", page[0], served.port)
        while not ended.wait(0.5) and not service.batches.broken.is_set():
            pass
        log.info("stopping")
    finally:
        node.stop()
        service.stop()
        if served:
            served.close()
    if service.batches.broken.is_set():
        raise ProcessDied(
            f"the model predicts not even an empty image ({service.batches.problem}); nothing is lost: start again"
        )


def silence() -> None:
    """No words of a header in a log: neither messages nor warnings of the libraries that read it."""
    warnings.simplefilter("ignore")
    for name in (*TALKATIVE, "alembic"):
        logging.getLogger(name).setLevel(logging.CRITICAL + 1)
