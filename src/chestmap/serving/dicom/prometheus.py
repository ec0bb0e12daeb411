"""Counts what the DICOM door does, for Prometheus: in the service's own page, or on an address of its own.

chestmap_node_received_total{by}           images acknowledged: c-store, pull
chestmap_node_refused_total{reason}        connections, associations and images that were not taken
chestmap_node_delivered_total{destination} results that the archive has
chestmap_node_retries_total{destination}   attempts that failed, each followed by another or by a dead letter
chestmap_node_dead_letters_total           results given up
chestmap_node_images{state}                images of archives as `--status` prints them
chestmap_node_oldest_seconds               how long the oldest of those that are not finished waits
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import ThreadingHTTPServer
from ipaddress import IPv6Address, ip_address
from socket import AF_INET, AF_INET6
from socketserver import TCPServer

from prometheus_client import CollectorRegistry, Metric
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.exposition import MetricsHandler
from prometheus_client.registry import Collector
from sqlalchemy.exc import SQLAlchemyError

from chestmap.errors import BadInput
from chestmap.serving.engine.prometheus import Measured, Metrics
from chestmap.serving.store import deliveries
from chestmap.serving.store.store import Store

LOOPBACK = "127.0.0.1"


class NodeMetrics(Measured):
    """For any number of threads, in the registry of the service."""

    def __init__(self, service: Metrics, store: Store) -> None:
        super().__init__("chestmap_node", service.registry)
        self.service = service
        self.received = self.count("received", "Images acknowledged", "by")
        self.delivered = self.count("delivered", "Results that the archive has", "destination")
        self.retries = self.count("retries", "Attempts to deliver that failed", "destination")
        self.dead_letters = self.count("dead_letters", "Results that nobody took")
        self._refused = self.count("refused", "Not taken", "reason")
        self.registry.register(_ImageGauges(store))

    def refused(self, reason: str, words: str) -> None:
        """A connection, an association or an image was not taken."""
        self._refused.labels(reason).inc()
        self.service.say(reason, words)


class _ImageGauges(Collector):
    """The images when Prometheus asks; nothing while the store cannot be read."""

    def __init__(self, store: Store) -> None:
        self.store = store

    def collect(self) -> Iterator[Metric]:
        """Reads the counts from the database at each scrape; yields nothing while the database is away."""
        images = GaugeMetricFamily("chestmap_node_images", "Images of archives", labels=["state"])
        try:
            for state, count in deliveries.counts(self.store).items():
                images.add_metric([state], count)
            oldest = deliveries.oldest(self.store)
        except SQLAlchemyError:
            return
        yield images
        yield GaugeMetricFamily("chestmap_node_oldest_seconds", "How long the oldest waits", value=oldest)

    def describe(self) -> list[Metric]:
        """Asks nothing, or the store would be read when it is registered."""
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


class MetricsServer:
    """Serves a registry until it is closed; a client that sends nothing for ten seconds is cut off."""

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
        """Stops answering scrapes and waits for the thread to end."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
