"""From a model folder and options to a running node."""

from __future__ import annotations

import logging
import signal
import ssl
import sys
import threading
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from dicomweb_client import DICOMwebClient

from chestmap.errors import BadInput, ProcessDied, Refused
from chestmap.models.engines import ForwardSettings
from chestmap.models.predictor import load
from chestmap.reports.dicom import kinds_of
from chestmap.serving.dicom import tls
from chestmap.serving.dicom.destinations import Destination, web_client_of
from chestmap.serving.dicom.node import DEFAULT_KINDS, Duty, Node
from chestmap.serving.dicom.pull import Pull
from chestmap.serving.dicom.receiver import Door, allowed_of, title_of
from chestmap.serving.dicom.settings import NodeSettings
from chestmap.serving.dicom.spool import Spool
from chestmap.serving.engine.served_model import Served
from chestmap.serving.http.access import is_loopback
from chestmap.settings import checked

log = logging.getLogger(__name__)
TALKATIVE = ("pynetdicom", "pydicom", "dicomweb_client", "urllib3")
"""Libraries whose messages may hold what an image's header says."""

MakePull = Callable[[Spool], Pull]


@dataclass(frozen=True)
class Security:
    """Certificates and keys as files, as the verb takes them."""

    certificate: Path | None = None
    key: Path | None = None
    client_ca: Path | None = None
    archive_ca: Path | None = None
    credentials: Path | None = None

    def door(self, title: str, host: str, port: int, allow: Sequence[str]) -> Door:
        """Refuses what would let strangers in."""
        if bool(self.certificate) != bool(self.key):
            raise BadInput("--certificate and --key belong together; give both")
        if self.client_ca and not self.certificate:
            raise BadInput("--client-ca asks senders for certificates, which needs TLS; give --certificate and --key")
        if not is_loopback(host) and not allow:
            raise Refused(f"--host {host}: anybody who reaches it could send; give --allow TITLE@ADDRESS for each sender")
        made = tls.listening(self.certificate, self.key, self.client_ca) if self.certificate and self.key else None
        return Door(title_of(title), host, port, allowed_of(allow), made)

    def sending(self) -> ssl.SSLContext | None:
        return tls.sending(self.archive_ca, self.certificate, self.key) if self.archive_ca else None

    def web_client(self, url: str, settings: NodeSettings) -> DICOMwebClient:
        return web_client_of(url, self.credentials, self.archive_ca, settings)

    def pull(self, url: str | None, every: float, settings: NodeSettings) -> MakePull | None:
        if url is None:
            return None
        client = self.web_client(url, settings)
        return lambda spool: Pull(client, spool, settings, every)


def duty_of(model: Path, destination: Destination, kinds: Sequence[str], settings: NodeSettings) -> Duty:
    """`kinds` as the verb takes them: several words, or words with commas."""
    tree = {key: getattr(settings, key) for key in ("engine", "device", "precision")}
    wanted = kinds_of([kind for word in kinds for kind in word.split(",")]) or DEFAULT_KINDS
    served = Served(load(model, checked(ForwardSettings, tree, name="--node-set")))
    return Duty(served, destination, wanted)


def run(node: Node, door: Door, page: tuple[str, int] | None = None) -> None:
    """Until SIGTERM or SIGINT."""
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(asctime)s %(message)s")
    silence()
    ended = threading.Event()
    for one in (signal.SIGTERM, signal.SIGINT):
        signal.signal(one, lambda *_: ended.set())
    port = node.start(door, page)
    log.info("%s listens on %s:%d%s", door.title, door.host, port, " with TLS" if door.tls else "")
    if page and node.page:
        log.info("metrics are at http://%s:%d/metrics", page[0], node.page.port)
    node.watch(ended)
    log.info("stopping")
    node.stop()
    if node.predicting.broken:
        raise ProcessDied(
            f"the model predicts not even an empty image ({node.predicting.broken}); nothing is lost: start again"
        )


def silence() -> None:
    """No words of a header in a log: neither messages nor warnings of the libraries that read it."""
    warnings.simplefilter("ignore")
    for name in TALKATIVE:
        logging.getLogger(name).setLevel(logging.CRITICAL + 1)
