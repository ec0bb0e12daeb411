"""Limits connections of each address and in all, so that idle ones never keep others out.

A new connection is always taken in: where there is no room, the one that has been idle longest goes, of the same address where
that has its share. Only connections with a request that the guard admitted are never closed for others. Where none is idle, a few
spare places answer health probes alone. All stays below the descriptors that the process may open.
"""

from __future__ import annotations

import socket
from collections import Counter
from collections.abc import Iterable
from contextlib import suppress
from ipaddress import ip_address
from typing import Any

SPARE = 16
"""Places for health probes beyond all others."""

CLOSING = 64
"""Connections that may be closed but not yet gone; beyond it, new ones wait in the system's queue."""

LARGEST_RESERVE = 256
MOST_DESCRIPTORS = 65536


def room_for_connections(most: int) -> int:
    """At most `most`, and below the descriptors that are left after files, database and decoders had theirs."""
    try:
        import resource
    except ImportError:  # not on this system: nothing is known of a limit
        return most
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    ceiling = MOST_DESCRIPTORS if hard == resource.RLIM_INFINITY else min(hard, MOST_DESCRIPTORS)
    if soft != resource.RLIM_INFINITY and soft < ceiling:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (ceiling, hard))
            soft = ceiling
        except (OSError, ValueError):
            pass  # the system keeps it lower
    if soft == resource.RLIM_INFINITY:
        return most
    reserve = min(LARGEST_RESERVE, soft // 2)
    return max(1, min(most, soft - reserve - SPARE - CLOSING))


class Connection(socket.socket):
    """A client's socket, which the doorway hears of when it is closed."""

    doorway: ConnectionLimits | None = None
    source = ""
    spare = closing = False

    def close(self) -> None:
        """Gives the place of the connection back to its doorway, then closes the socket."""
        if self.doorway is not None:
            self.doorway.release(self)
        super().close()


class ConnectionLimits:
    """Who is there. `exempt` addresses, those of trusted proxies, stand for many people and have no share of their own."""

    def __init__(self, most: int, of_address: int, exempt: Iterable[str] = ()) -> None:
        self.most, self.of_address, self.exempt = most, of_address, frozenset(exempt)
        self.refused = 0
        self._there: dict[int, Connection] = {}  # by descriptor, the oldest first
        self._idle: dict[int, Connection] = {}  # of those, the longest idle first
        self._count: Counter[str] = Counter()
        self._spare = self._closing = 0

    def __len__(self) -> int:
        return len(self._there)

    def has_room(self) -> bool:
        """Whether one more descriptor may be opened at all."""
        return len(self._there) < self.most + SPARE + CLOSING

    def enter(self, connection: Connection, address: str) -> bool:
        """Takes it in, or is False where every other place is at work."""
        connection.source = _group(address)
        full = connection.source not in self.exempt and self._count[connection.source] >= self.of_address
        if full and not self._make_room(connection.source):
            self.refused += 1
            return False
        if self._filled() >= self.most and not self._make_room():
            connection.spare = True
            if self._spare >= SPARE:
                self.refused += 1
                return False
            self._spare += 1
        number = connection.fileno()
        connection.doorway = self
        self._there[number] = self._idle[number] = connection
        self._count[connection.source] += 1
        return True

    def _filled(self) -> int:
        return len(self._there) - self._spare - self._closing

    def _make_room(self, source: str = "") -> bool:
        """Closes the connection that has been idle longest."""
        found = next((one for one in self._idle.values() if not one.spare and source in {"", one.source}), None)
        if found is None:
            return False
        del self._idle[found.fileno()]
        self._count[found.source] -= 1
        found.closing = True
        self._closing += 1
        with suppress(OSError):  # the client was faster
            found.shutdown(socket.SHUT_RDWR)  # the event loop sees its end, and closes it
        return True

    def busy(self, number: int) -> None:
        """Its request was admitted."""
        self._idle.pop(number, None)

    def idle(self, number: int) -> None:
        """It waits for its next request."""
        connection = self._there.get(number)
        if connection is not None and not connection.closing:
            self._idle.pop(number, None)
            self._idle[number] = connection

    def is_spare(self, number: int) -> bool:
        """Tells whether a connection came over the limit and may only be answered 503; `number` is its file descriptor."""
        return number in self._there and self._there[number].spare

    def release(self, connection: Connection) -> None:
        """Forgets a connection that closes. Only its own number counts: the system may have reused it."""
        number = connection.fileno()
        if self._there.get(number) is not connection:
            return
        del self._there[number]
        self._idle.pop(number, None)
        if connection.closing:
            self._closing -= 1
        else:
            self._count[connection.source] -= 1
        self._spare -= connection.spare
        self._count = +self._count if len(self._count) > 2 * len(self._there) + 64 else self._count


def _group(address: str) -> str:
    """An IPv6 customer has 2⁶⁴ addresses: those count as one."""
    try:
        found = ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if found.version == 4:
        return address
    mapped = getattr(found, "ipv4_mapped", None)
    return str(mapped) if mapped else found.exploded[:19]


class Listener(socket.socket):
    """A listening socket that asks the doorway before the event loop hears of a connection."""

    doorway: ConnectionLimits | None = None

    def accept(self) -> tuple[socket.socket, Any]:
        """Accepts the next connection that the limits allow; raises `BlockingIOError` while all places are taken."""
        while True:
            if self.doorway is None or not self.doorway.has_room():
                raise BlockingIOError  # it waits in the system's queue until others are gone
            handle, address = self._accept()  # pyright: ignore[reportAttributeAccessIssue] -- as socket.accept does
            connection = Connection(self.family, self.type, self.proto, fileno=handle)
            if self.doorway.enter(connection, address[0] if address else ""):
                return connection, address
            connection.close()


def listeners(host: str, port: int, doorway: ConnectionLimits) -> list[socket.socket]:
    """A listening socket for each address of a host."""
    found: list[socket.socket] = []
    try:
        for family, kind, protocol, _, address in socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        ):
            listener = Listener(family, kind, protocol)
            found.append(listener)
            listener.doorway = doorway
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            listener.bind(address)
    except OSError:
        for listener in found:
            listener.close()
        raise
    return found
