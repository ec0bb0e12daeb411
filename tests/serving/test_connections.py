"""Idle connections, however many, keep nobody out; health answers when everything is at work."""

import asyncio
import logging
import resource
import socket
from contextlib import ExitStack, contextmanager
from hashlib import sha256
from types import SimpleNamespace

import httpx
import pytest
from starlette.applications import Starlette
from starlette.responses import Response
from starlette.routing import Route

from chestmap.errors import BadInput
from chestmap.serving.engine.prometheus import Metrics
from chestmap.serving.engine.settings import Bounds, ServeSettings
from chestmap.serving.http import connections
from chestmap.serving.http.access import Access, Person
from chestmap.serving.http.connections import CLOSING, SPARE, Connection, ConnectionLimits, room_for_connections
from chestmap.serving.http.guard import Guard
from chestmap.serving.http.server import ListenAddress, ThrottledLog, server_of
from serving.running import listening, talk

TOKEN = "0123456789abcdef"
GOOD = {"Authorization": f"Bearer {TOKEN}", "X-Chestmap": "1"}
SLOW = f"POST /v1/predict HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {TOKEN}\r\nX-Chestmap: 1\r\nContent-Length: 9\r\n\r\n"


@pytest.fixture
def pair():
    """Makes connections as a listener would."""
    with ExitStack() as stack:

        def make():
            ours, theirs = socket.socketpair()
            stack.enter_context(theirs)
            return stack.enter_context(Connection(ours.family, ours.type, ours.proto, fileno=ours.detach()))

        yield make


def test_the_longest_idle_makes_room(pair):
    door = ConnectionLimits(3, 99)
    first, second, third, fourth, fifth = (pair() for _ in range(5))
    for one in (first, second, third):
        assert door.enter(one, "10.0.0.1")
    door.busy(first.fileno())
    assert door.enter(fourth, "10.0.0.2")
    assert [one.closing for one in (first, second, third)] == [False, True, False]
    door.idle(first.fileno())  # now idle for a shorter time than the third
    assert door.enter(fifth, "10.0.0.2")
    assert third.closing
    for one in (second, third):
        one.close()
    assert len(door) == 3


def test_an_address_has_its_share(pair):
    door = ConnectionLimits(99, 2, {"10.0.0.9"})
    mine = [pair() for _ in range(3)]
    assert all(door.enter(one, "10.0.0.1") for one in mine)
    assert [one.closing for one in mine] == [True, False, False]
    for one in mine:
        door.busy(one.fileno())
    assert not door.enter(pair(), "10.0.0.1")
    assert door.enter(pair(), "10.0.0.2")
    assert all(door.enter(pair(), "10.0.0.9") for _ in range(5))  # a proxy stands for many
    mine[1].close()
    assert door.enter(pair(), "10.0.0.1")


def test_a_network_of_ipv6_is_one_address(pair):
    door = ConnectionLimits(99, 1)
    mine = [pair(), pair()]
    assert door.enter(mine[0], "2001:db8:1:2::1")
    assert door.enter(mine[1], "2001:db8:1:2:ffff::7")
    assert mine[0].closing
    other = pair()
    assert door.enter(other, "2001:db8:1:3::1")
    assert not mine[1].closing


def test_spare_places_are_few_and_come_back(pair):
    door = ConnectionLimits(1, 99)
    busy = pair()
    assert door.enter(busy, "10.0.0.1")
    door.busy(busy.fileno())
    spare = [pair() for _ in range(SPARE)]
    assert all(door.enter(one, "10.0.0.2") for one in spare)
    assert all(door.is_spare(one.fileno()) for one in spare)
    assert not door.enter(pair(), "10.0.0.2")
    assert door.refused == 1
    spare[0].close()
    assert door.enter(pair(), "10.0.0.2")
    busy.close()
    last = pair()
    assert door.enter(last, "10.0.0.3")
    assert not door.is_spare(last.fileno())


@pytest.mark.parametrize(("limits", "room"), [((1024, 1024), 688), ((256, 256), 48), ((1024, 1 << 20), 1000), ((64, 64), 1)])
def test_connections_stay_below_the_descriptors(monkeypatch, limits, room):
    soft, changed = limits[0], []
    monkeypatch.setattr(resource, "getrlimit", lambda _: limits)
    monkeypatch.setattr(resource, "setrlimit", lambda _, pair: changed.append(pair))
    assert room_for_connections(1000) == room
    assert room + SPARE + CLOSING < max(soft, 97) or changed
    assert changed == ([(65536, 1 << 20)] if limits[1] == 1 << 20 else [])


async def echo(request):
    """In place of the service: reads the body, as every operation does."""
    return Response(str(len(await request.body())))


def server_with(port=0, **bounds):
    """The service's door without the service: guard, limits and sockets are the real ones, and no model is loaded."""
    app = Starlette(routes=[Route("/{path:path}", echo, methods=["GET", "POST"])])
    app.state.service = SimpleNamespace(drain=lambda: None)
    settings = ServeSettings(bounds=Bounds(header_seconds=5, **bounds))
    access = Access({sha256(TOKEN.encode()).digest(): Person("Ann")})
    guard = Guard(app, access, settings.bounds, Metrics())
    return server_of(guard, ListenAddress(port=port), settings)


@contextmanager
def guarded(**bounds):
    with listening(server_with(**bounds)) as port:
        yield port


def test_idle_connections_keep_nobody_out():
    """Three times as many as there may be, all without a token and renewed; before, each request was answered 503."""
    afresh = httpx.Limits(max_keepalive_connections=0)
    with (
        guarded(connections=60, connections_of_address=40) as port,
        httpx.Client(base_url=f"http://127.0.0.1:{port}", headers=GOOD, limits=afresh, timeout=20) as client,
        ExitStack() as stack,
    ):
        for round_ in range(6):
            for _ in range(30):
                stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout=10))
            for path in ("/v1/models", "/v1/studies", "/healthz", "/readyz"):
                assert client.get(path).status_code == 200, round_


def test_health_answers_where_everything_is_at_work():
    with guarded(connections=2) as port, ExitStack() as stack:
        for _ in range(2):
            line = stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout=10))
            line.sendall(SLOW.encode())
        for _ in range(100):  # until both were admitted
            answer = httpx.get(f"http://127.0.0.1:{port}/v1/models", headers=GOOD, timeout=20)
            if answer.status_code == 503:
                break
        assert "every connection is at work" in answer.json()["error"]
        for path in ("/healthz", "/readyz"):
            assert httpx.get(f"http://127.0.0.1:{port}{path}", timeout=20).status_code == 200


def test_a_stranger_sends_little_and_at_once():
    with guarded(stranger_seconds=0.3, stranger_bytes=100) as port:
        head = b"POST /v1/session HTTP/1.1\r\nHost: localhost\r\nX-Chestmap: 1\r\nContent-Type: application/json\r\n"
        assert talk(port, head + b"Content-Length: 90\r\n\r\n{", b'"', b"t", b"o", pause=0.2).startswith(b"HTTP/1.1 408")
        long = b'{"token": "' + b"x" * 200 + b'"}'
        assert talk(port, head + b"Content-Length: %d\r\n\r\n" % len(long) + long).startswith(b"HTTP/1.1 413")


def test_a_port_in_use_is_one_line():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        server = server_with(taken.getsockname()[1])
        with pytest.raises(BadInput, match=r"cannot listen there \(Address already in use\); give another --port"):
            server.run()


def test_what_goes_wrong_again_and_again_is_logged_once(caplog):
    loop, rarely = asyncio.new_event_loop(), ThrottledLog()
    with caplog.at_level(logging.ERROR):
        for _ in range(1000):
            rarely(
                loop, {"message": "socket.accept() out of system resource", "exception": OSError(24, "Too many open files")}
            )
        rarely._next = 0.0
        rarely(loop, {"message": "again"})
    loop.close()
    assert [one.getMessage() for one in caplog.records] == [
        "socket.accept() out of system resource: OSError", "again (999 more since the last line)",
    ]  # fmt: skip


def test_a_listener_waits_where_no_descriptor_is_left(monkeypatch):
    door = ConnectionLimits(1, 9)
    monkeypatch.setattr(connections, "SPARE", 0)
    monkeypatch.setattr(connections, "CLOSING", 0)
    (listener,) = connections.listeners("127.0.0.1", 0, door)
    with listener, ExitStack() as stack:
        listener.listen()
        for _ in range(2):
            stack.enter_context(socket.create_connection(listener.getsockname()))
        accepted = stack.enter_context(listener.accept()[0])
        with pytest.raises(BlockingIOError):
            listener.accept()
        accepted.close()
        stack.enter_context(listener.accept()[0])
