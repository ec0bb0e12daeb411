"""What the node counts: for Prometheus on an address of its own, and for its log, where what repeats is told once.

chestmap_node_received_total{by}           images acknowledged: c-store, pull
chestmap_node_refused_total{reason}        connections, associations and images that were not taken
chestmap_node_predicted_total              images whose results are written; chestmap_node_failed_total the others
chestmap_node_delivered_total{destination} images whose results the archive has
chestmap_node_retries_total{destination}   attempts that failed, each followed by another or by a dead letter
chestmap_node_dead_letters_total           results given up
chestmap_node_seconds{stage}               receive (to disk), decode, predict (a batch), write, send
chestmap_node_images{state}                the queue as `--status` prints it
chestmap_node_oldest_seconds               how long the oldest of those that are not finished waits
"""

from __future__ import annotations

import logging
import sqlite3
import threading
from collections import Counter
from collections.abc import Iterator
from http.server import ThreadingHTTPServer
from ipaddress import IPv6Address, ip_address
from socket import AF_INET, AF_INET6
from socketserver import TCPServer

from prometheus_client import CollectorRegistry, Metric
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.exposition import MetricsHandler
from prometheus_client.registry import Collector

from chestmap.errors import BadInput
from chestmap.serving.dicom.queue import Queue
from chestmap.serving.engine.metrics import Measured

log = logging.getLogger(__name__)
STAGES = ("receive", "decode", "predict", "write", "send")
LOOPBACK = "127.0.0.1"


class NodeMetrics(Measured):
    """For any number of threads."""

    def __init__(self, queue: Queue) -> None:
        super().__init__("chestmap_node")
        self.received = self.count("received", "Images acknowledged", "by")
        self.predicted = self.count("predicted", "Images whose results are written")
        self.failed = self.count("failed", "Images that cannot be predicted")
        self.delivered = self.count("delivered", "Images whose results the archive has", "destination")
        self.retries = self.count("retries", "Attempts to deliver that failed", "destination")
        self.dead_letters = self.count("dead_letters", "Images whose results nobody took")
        self.seconds = self.times("seconds", "Time of a stage", "stage")
        self._refused = self.count("refused", "Not taken", "reason")
        self._lock, self._more, self._words = threading.Lock(), Counter[str](), dict[str, str]()
        for stage in STAGES:
            self.seconds.labels(stage)
        self.registry.register(_Standing(queue))

    def refused(self, reason: str, words: str) -> None:
        """A connection, an association or an image was not taken."""
        self._refused.labels(reason).inc()
        self.say(reason, words)

    def say(self, reason: str, words: str) -> None:
        """Once: a flood of connections, or a disk that stays full, must not be a flood of lines. `tell` counts the others."""
        with self._lock:
            first = reason not in self._words
            self._words[reason] = words
            self._more[reason] += not first
        if first:
            log.warning("%s", words)

    def tell(self) -> None:
        """Once in a while: what was said again since, one line for each reason."""
        with self._lock:
            more, words, self._more = self._more, self._words, Counter()
            self._words = {reason: said for reason, said in words.items() if more[reason]}
        for reason, count in more.items():
            if count:
                log.warning("%s (%d times more)", words[reason], count)


class _Standing(Collector):
    """The queue when Prometheus asks; nothing while it cannot be read."""

    def __init__(self, queue: Queue) -> None:
        self.queue = queue

    def collect(self) -> Iterator[Metric]:
        images = GaugeMetricFamily("chestmap_node_images", "Images in the queue", labels=["state"])
        try:
            for state, count in self.queue.counts().items():
                images.add_metric([state], count)
            oldest = self.queue.oldest()
        except sqlite3.Error:
            return
        yield images
        yield GaugeMetricFamily("chestmap_node_oldest_seconds", "How long the oldest waits", value=oldest)

    def describe(self) -> list[Metric]:
        """Asks nothing, or the queue would be read when it is registered."""
        return []


def address_of(text: str) -> tuple[str, int]:
    """`HOST:PORT` or `PORT`; without a host it is the loopback."""
    host, _, port = text.rpartition(":")
    host = host.strip("[]") or LOOPBACK
    try:
        ip_address(host)
    except ValueError:
        host = LOOPBACK if host == "localhost" else ""
    if not host or not port.isascii() or not port.isdigit() or int(port) > 65535:
        raise BadInput(f'--metrics "{text}": expected PORT or ADDRESS:PORT, such as 127.0.0.1:9400')
    return host, int(port)


class Page:
    """Serves a registry until it is closed; whoever says nothing for ten seconds is cut off."""

    def __init__(self, address: tuple[str, int], registry: CollectorRegistry) -> None:
        class Server(ThreadingHTTPServer):
            address_family = AF_INET6 if isinstance(ip_address(address[0]), IPv6Address) else AF_INET

            def server_bind(self) -> None:
                """Without asking a name server for its own name, which may take its time."""
                TCPServer.server_bind(self)
                self.server_name, self.server_port = str(self.server_address[0]), int(self.server_address[1])

        page = type("Page", (MetricsHandler,), {"registry": registry, "timeout": 10})
        try:
            self._server = Server(address, page)
        except OSError as error:
            raise BadInput(f"--metrics {address[0]}:{address[1]}: {error.strerror}; give another port") from None
        self.port = int(self._server.server_address[1])
        self._thread = threading.Thread(target=self._server.serve_forever, name="metrics", daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
