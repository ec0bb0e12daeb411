"""A real server on loopback, in a thread of the test's process."""

import socket
import threading
import time
from contextlib import contextmanager

from chestmap.serving.http.access import Access
from chestmap.serving.http.server import ListenAddress, server_of


@contextmanager
def running(service, tokens=None, address=None):
    """A service; gives the port."""
    from chestmap.serving.http.app import create_app

    app = create_app(service, Access(tokens or {}))
    with listening(server_of(app, address or ListenAddress(port=0), service.settings)) as port:
        yield port


@contextmanager
def listening(server):
    """Any server; gives the port."""
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started and thread.is_alive():
        time.sleep(0.01)
    try:
        yield server.servers[0].sockets[0].getsockname()[1]
    finally:
        server.should_exit = True
        thread.join(30)


def talk(port, *pieces, pause=0.0, wait=10.0):
    """Sends bytes as they are; what came back until the server closed or was silent for `wait` seconds."""
    with socket.create_connection(("127.0.0.1", port), timeout=wait) as line:
        try:
            for piece in pieces:
                line.sendall(piece)
                time.sleep(pause)
        except OSError:
            pass  # closed on us
        answer = b""
        try:
            while piece := line.recv(65536):
                answer += piece
                head, _, body = answer.partition(b"\r\n\r\n")
                length = [line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
                if length and len(body) >= int(length[0].split(b":")[1]):
                    break
        except OSError:
            pass
        return answer
