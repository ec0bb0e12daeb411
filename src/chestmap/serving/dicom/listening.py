"""Bounds what one connection may cost where pynetdicom does not: TLS handshakes, PDUs and images of any length.

The limits hold before an association is accepted, for anyone on the network. What is refused is counted, and logged without
a word of its content.
"""

from __future__ import annotations

import socket
import ssl
import sys
import threading
from collections import Counter
from collections.abc import Callable
from ipaddress import IPv4Network, IPv6Network, ip_address
from typing import Any

from pynetdicom import evt
from pynetdicom.association import Association
from pynetdicom.transport import AssociationServer, AssociationSocket, RequestHandler, ThreadedAssociationServer

from chestmap.serving.engine.settings import DicomSettings

LONGEST_PDU = 1 << 20
"""Some senders exceed the negotiated length, none so far."""

Network = IPv4Network | IPv6Network
Refused = Callable[[str, str], None]
"""Takes the reason and the words for the log; `NodeMetrics.refused` is one."""


class Meter:
    """Replaces a connection's `recv`, and ends the connection at the first byte too many."""

    def __init__(self, line: AssociationSocket, most: int, refused: Refused) -> None:
        self.line, self.read, self.most, self.refused = line, line.recv, most, refused
        self.taken, self.ended = 0, False

    def __call__(self, nr_bytes: int) -> bytearray:
        self.taken += nr_bytes
        if nr_bytes > LONGEST_PDU or self.taken > self.most:
            if not self.ended:
                most, what = (LONGEST_PDU, "a PDU") if nr_bytes > LONGEST_PDU else (self.most, "an image")
                self.refused("too-long", f"a connection was closed: {what} of more than {most:,} bytes")
            self.ended = True
            self.line._shutdown_socket()
            raise OSError("too long")
        return self.read(nr_bytes)


def meter_of(event: evt.Event) -> Meter | None:
    """Finds the meter of an event's connection; none once the peer has closed it."""
    line = event.assoc.dul.socket
    return line.recv if line is not None and isinstance(line.recv, Meter) else None


def start_anew(event: evt.Event) -> None:
    """A whole message has come: the next one may be as long."""
    if meter := meter_of(event):
        meter.taken = 0


def give_up(event: evt.Event) -> None:
    """Closed before it asked for anything, as by a monitor that tries the port: it would keep its place for `acse_seconds`."""
    association = event.assoc
    if association.requestor.primitive is None:  # codespell:ignore
        association.dul.to_user_queue.put(None)  # pyright: ignore[reportArgumentType] -- as at the end of that time


class Handler(RequestHandler):
    """Puts a meter on each connection, so that one peer cannot send a PDU or an image of any length."""

    server: Listener  # pyright: ignore[reportIncompatibleVariableOverride]

    def _create_association(self) -> Association:
        association = super()._create_association()
        line = association.dul.socket
        assert line is not None
        line.recv = Meter(line, self.server.settings.object_bytes + LONGEST_PDU, self.server.refused)
        return association


class Listener(ThreadedAssociationServer):
    """`of` makes one: `settings` and `networks` (addresses that may connect; none for all) are those of the class."""

    settings: DicomSettings
    networks: tuple[Network, ...] = ()
    refused: Refused
    daemon_threads = True
    request_queue_size = 128
    """Connections that wait to be looked at; with the 5 of Python a burst of senders waits a second for the next try."""

    @classmethod
    def of(cls, settings: DicomSettings, networks: tuple[Network, ...], refused: Refused) -> type[Listener]:
        """Makes the server class for pynetdicom, which takes a class and no settings."""
        return type("Listener", (cls,), {"settings": settings, "networks": networks, "refused": staticmethod(refused)})

    def __init__(self, *arguments: Any, **more: Any) -> None:
        self._opening: Counter[str] = Counter()
        self._counting = threading.Lock()
        super().__init__(*arguments, request_handler=Handler, **more)

    def get_request(self) -> tuple[socket.socket, Any]:
        """The handshake of TLS is left to the connection's own thread."""
        assert self.socket is not None
        line, address = self.socket.accept()
        line.settimeout(self.settings.acse_seconds if self.ssl_context else self.settings.network_seconds)
        if self.ssl_context:
            line = self.ssl_context.wrap_socket(line, server_side=True, do_handshake_on_connect=False)
        return line, address

    def verify_request(self, request: Any, client_address: Any) -> bool:  # noqa: ARG002
        """By address, before anything is read."""
        host = client_address[0]
        if self.networks and not any(ip_address(host) in one for one in self.networks):
            self.refused("address", f"a connection was refused: {host} is no address of --allow")
            return False
        there = sum(one.requestor.address == host for one in self.active_associations)  # codespell:ignore
        with self._counting:
            if there + self._opening[host] >= self.settings.per_host:
                self.refused(
                    "connections", f"a connection was refused: {host} has {self.settings.per_host} already (per_host)"
                )
                return False
            self._opening[host] += 1
        return True

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """Shakes hands in the connection's own thread; a failed TLS handshake is counted as refused and never raises."""
        try:
            self._shake_hands(request, client_address[0])
            super().process_request_thread(request, client_address)
        except OSError as problem:
            said = getattr(problem, "reason", None) or type(problem).__name__
            self.refused("tls", f"a connection was refused: TLS ({said})")
            self.shutdown_request(request)

    def _shake_hands(self, request: Any, host: str) -> None:
        """After it a connection counts as an association, and not before."""
        try:
            if isinstance(request, ssl.SSLSocket):
                request.do_handshake()
                request.settimeout(self.settings.network_seconds)
        finally:
            with self._counting:
                self._opening[host] -= 1
                self._opening += Counter()  # forgets zeros

    def handle_error(self, request: Any, client_address: Any) -> None:  # noqa: ARG002
        """Without the traceback that socketserver prints."""
        self.refused("trouble", f"a connection was closed: {type(sys.exception()).__name__}")

    def shutdown(self) -> None:
        """Takes no new connections; ends after those that are being opened."""
        super(AssociationServer, self).shutdown()
