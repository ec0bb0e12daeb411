"""Answers C-ECHO, and C-STORE of radiographs. Success is answered once the image is on disk and in the store.

pynetdicom calls the handlers, each in a thread of its own. What is refused is counted by its reason, and logged without a
word of its content.
"""

from __future__ import annotations

import re
import socket
import ssl
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from io import BytesIO
from ipaddress import ip_address, ip_network
from typing import cast

from pydicom import uid
from pydicom.filereader import read_dataset
from pynetdicom import AE, evt
from pynetdicom.dsutils import encode_file_meta
from pynetdicom.sop_class import Verification  # pyright: ignore[reportAttributeAccessIssue] -- made when it is imported
from sqlalchemy.exc import SQLAlchemyError

from chestmap.errors import BadInput
from chestmap.imaging.dicom_header import FAILURES, quiet
from chestmap.reports.dicom.source_header import SINGLE
from chestmap.serving.dicom.listening import Listener, Network, give_up, meter_of, start_anew
from chestmap.serving.dicom.prometheus import NodeMetrics
from chestmap.serving.engine.service import Service

REJECTIONS = {
    (1, 3): ("title", "its title is not in --allow"),
    (1, 7): ("called", "it calls another title than --title"),
    (3, 2): ("associations", "there are as many associations as may be (associations)"),
}
"""Source and diagnostic of an A-ASSOCIATE-RJ."""

SYNTAXES = [
    uid.ExplicitVRLittleEndian, uid.ImplicitVRLittleEndian, uid.JPEGLosslessSV1, uid.JPEGLossless, uid.JPEG2000Lossless,
    uid.JPEG2000, uid.JPEGLSLossless, uid.JPEGLSNearLossless, uid.RLELossless, uid.JPEGBaseline8Bit, uid.JPEGExtended12Bit,
]  # fmt: skip
"""What `imaging/dicom_pixels.py` reads, without big endian, which is retired, and deflated, which a sender could blow up."""

IDENTIFIER = re.compile(r"[0-9.]{1,64}")
TITLE = re.compile(r"[ -\[\]-~]{1,16}")

SUCCESS, OUT_OF_RESOURCES, NOT_AUTHORIZED, NO_IDENTIFIER, NO_IMAGE, FAILURE = 0x0000, 0xA700, 0x0124, 0x0117, 0xC000, 0x0110
MISMATCH = 0xA900
"""The data set does not match its request (PS3.4 table B.2-1)."""
INSTANCE = 0x00080018
START = 1 << 16
"""Bytes of a data set in which its SOP Instance UID must be; what precedes it is a few short elements."""


@dataclass(frozen=True, kw_only=True)
class ListenOptions:
    """Where the node listens, under which title, and who may call. Nobody in `allowed` means anybody."""

    title: str = "CHESTMAP"
    host: str = "127.0.0.1"
    port: int = 11112
    allowed: Mapping[str, Sequence[Network]] = field(default_factory=dict)  # no networks: from any address
    tls: ssl.SSLContext | None = None

    @property
    def networks(self) -> tuple[Network, ...]:
        """Addresses that some caller may have; none where one of them may call from anywhere."""
        everywhere = any(not one for one in self.allowed.values())
        return () if everywhere else tuple(network for one in self.allowed.values() for network in one)

    def admits(self, title: str, host: str) -> bool:
        """Whether a caller with this title at this host may send."""
        if not self.allowed:
            return True
        networks = self.allowed.get(title.strip())
        return networks is not None and (not networks or any(ip_address(host) in one for one in networks))


def title_of(text: str) -> str:
    """An application entity's title: 1 to 16 letters without a backslash."""
    if not TITLE.fullmatch(text) or not text.strip():
        raise BadInput(f'AE title "{text}": expected 1 to 16 ASCII letters without a backslash')
    return text.strip()


def allowed_of(texts: Sequence[str]) -> dict[str, list[Network]]:
    """`TITLE` or `TITLE@ADDRESS`, where an address may be a network such as 10.1.0.0/16."""
    allowed: dict[str, list[Network]] = {}
    anywhere = {title_of(text) for text in texts if "@" not in text}
    for text in texts:
        title, _, address = text.partition("@")
        networks = allowed.setdefault(title_of(title), [])
        if title.strip() not in anywhere:
            try:
                networks.append(ip_network(address, strict=False))
            except ValueError:
                raise BadInput(f"--allow {text}: expected TITLE or TITLE@ADDRESS, such as PACS@10.1.2.3") from None
    return allowed


class Receiver:
    """Listens from when it is made; `port` is the real one where 0 was asked for."""

    def __init__(self, door: ListenOptions, service: Service, metrics: NodeMetrics) -> None:
        self.door, self.service, self.settings, self.metrics = door, service, service.settings.dicom, metrics
        settings = self.settings
        entity = AE(door.title)
        entity.require_called_aet, entity.require_calling_aet = True, list(door.allowed)
        entity.maximum_associations, entity.maximum_pdu_size = settings.associations, settings.pdu_bytes
        entity.acse_timeout, entity.dimse_timeout = settings.acse_seconds, settings.network_seconds
        entity.network_timeout = settings.network_seconds
        entity.add_supported_context(Verification)
        for storage in sorted(SINGLE):
            entity.add_supported_context(storage, SYNTAXES)
        self.refused = metrics.refused
        handlers = [
            (evt.EVT_C_STORE, self._store), (evt.EVT_C_ECHO, self._echo), (evt.EVT_DIMSE_RECV, start_anew),
            (evt.EVT_REJECTED, self._rejected), (evt.EVT_ESTABLISHED, self._established), (evt.EVT_ABORTED, self._aborted),
            (evt.EVT_CONN_CLOSE, give_up),
        ]  # fmt: skip
        listener = Listener.of(settings, door.networks, self.refused)
        try:
            made = entity.make_server(
                (door.host, door.port), ssl_context=door.tls, evt_handlers=handlers, server_class=listener
            )
        except OSError as error:
            raise BadInput(f"--host {door.host} --port {door.port}: {error.strerror}; give others") from None
        assert isinstance(made, Listener)
        self._entity, self._listener = entity, made
        self.port = int(made.server_address[1])
        self._thread = threading.Thread(target=made.serve_forever, name="receiver", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Ends the associations too: what was not acknowledged is sent again by who sent it."""
        self._listener.shutdown()
        self._listener.server_close()
        for association in self._listener.active_associations:
            if association.is_established:
                association.abort()
            elif (line := association.dul.socket) and line.socket:  # an abort would wait for a state that never comes
                with suppress(OSError):
                    line.socket.shutdown(socket.SHUT_RDWR)
        self._thread.join()

    def _admits(self, event: evt.Event) -> bool:
        caller = event.assoc.requestor  # codespell:ignore
        return self.door.admits(caller.ae_title, caller.address or "")

    def _echo(self, event: evt.Event) -> int:
        return SUCCESS if self._admits(event) else NOT_AUTHORIZED

    def _store(self, event: evt.Event) -> int:
        """Nothing is decoded here. Whatever the disk answers, the sender is asked to try again later."""
        try:
            if not self._admits(event):
                self.refused("title", f"an image was refused: {_caller(event)} may not send from there (--allow)")
                return NOT_AUTHORIZED
            identifier = str(event.request.AffectedSOPInstanceUID)  # pyright: ignore[reportAttributeAccessIssue]
            if not IDENTIFIER.fullmatch(identifier):
                self.refused("identifier", f"an image of {_caller(event)} was refused: its SOP Instance UID is none")
                return NO_IDENTIFIER
            dataset = cast(BytesIO | None, event.request.DataSet)  # pyright: ignore[reportAttributeAccessIssue]
            if not dataset or not dataset.getbuffer().nbytes:
                self.refused("empty", f"an image of {_caller(event)} was refused: it holds nothing")
                return NO_IMAGE
            start = b"\0" * 128 + b"DICM" + encode_file_meta(event.file_meta)
            if (own := _identifier(dataset, str(event.context.transfer_syntax))) != identifier:
                came = "another SOP Instance UID than its request" if own else "no SOP Instance UID"
                self.refused("mismatch", f"an image of {_caller(event)} was refused: its data set holds {came}")
                return MISMATCH
            if self.service.store.folders.free() < self.settings.free_bytes:
                self.refused("disk", "an image was refused: less of the disk is free than free_bytes")
                return OUT_OF_RESOURCES
            self.service.accept(identifier, (start, dataset.getbuffer()))
            self.metrics.received.labels("c-store").inc()
        except (OSError, SQLAlchemyError) as problem:
            said = problem.strerror if isinstance(problem, OSError) and problem.strerror else type(problem).__name__
            self.refused("disk", f"an image was refused: {said}")
            return OUT_OF_RESOURCES
        except Exception as problem:  # whatever somebody sends
            self.refused("trouble", f"an image of {_caller(event)} was refused: {type(problem).__name__}")
            return FAILURE
        return SUCCESS

    def _rejected(self, event: evt.Event) -> None:
        """By pynetdicom; it keeps what it answered: who said no, and why."""
        answer = event.assoc.acceptor.primitive
        reason, said = REJECTIONS.get(
            (getattr(answer, "result_source", 0), getattr(answer, "diagnostic", 0)),
            ("other", "it asks for what is not known"),
        )
        self.refused(reason, f"an association of {_caller(event)} was rejected: {said}")

    def _established(self, event: evt.Event) -> None:
        """What the sender may try in vain: once for an association.

        Many senders offer every class that there is with each image. Where images are taken, other classes are no news.
        """
        taken = {one.abstract_syntax for one in event.assoc.accepted_contexts}
        left = sorted(
            {str(one.abstract_syntax) for one in event.assoc.rejected_contexts if one.abstract_syntax not in taken}
        )
        images = [storage for storage in left if storage in SINGLE]
        others = [] if taken & SINGLE else [storage for storage in left if storage not in SINGLE]
        for reason, what, found in (("syntax", "its transfer syntaxes of ", images), ("class", "", others)):
            if found:
                named = "".join(letter for letter in uid.UID(found[0]).name if letter.isprintable())[:64]
                more = f" and {len(found) - 1} more" if len(found) > 1 else ""
                self.refused(reason, f"{_caller(event)} offers what is not taken: {what}{named}{more}")

    def _aborted(self, event: evt.Event) -> None:
        """Without an answer no sender thinks that its image is safe."""
        meter = meter_of(event)
        if event.assoc.dimse.message is not None and not (meter and meter.ended):
            self.refused(
                "aborted", f"an association of {_caller(event)} ended in the midst of an image, which was not taken"
            )


def _identifier(dataset: BytesIO, syntax: str) -> str:
    """The SOP Instance UID of an encoded data set; empty where there is none in its first bytes. Nothing else is read."""
    start, kind = BytesIO(bytes(dataset.getbuffer()[:START])), uid.UID(syntax)
    try:
        with quiet():
            found = read_dataset(
                start, kind.is_implicit_VR, kind.is_little_endian, stop_when=lambda tag, *_: int(tag) > INSTANCE
            )
            return str(found.get("SOPInstanceUID") or "").strip("\0 ")
    except FAILURES:
        return ""


def _caller(event: evt.Event) -> str:
    """The title and address, without anything that could steer a terminal."""
    caller = event.assoc.requestor  # codespell:ignore
    title = "".join(letter for letter in caller.ae_title[:16] if TITLE.fullmatch(letter)).strip()
    return f"{title or '(no title)'} at {caller.address or 'an unknown address'}"
