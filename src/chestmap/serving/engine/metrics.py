"""What Prometheus reads: counts and times, by route template and model; no ids, names or queries."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)


class Measured:
    """Has a registry of its own, so that several services fit into one process. `prefix` begins every name."""

    def __init__(self, prefix: str) -> None:
        self.registry, self.prefix = CollectorRegistry(), prefix

    def count(self, name: str, about: str, *labels: str) -> Counter:
        return Counter(f"{self.prefix}_{name}", about, labels, registry=self.registry)

    def times(self, name: str, about: str, *labels: str) -> Histogram:
        return Histogram(f"{self.prefix}_{name}", about, labels, buckets=SECONDS, registry=self.registry)

    def watch(self, name: str, about: str, value: Callable[[], float]) -> None:
        """A gauge whose value is asked for when Prometheus asks."""
        Gauge(f"{self.prefix}_{name}", about, registry=self.registry).set_function(value)

    def text(self) -> bytes:
        return generate_latest(self.registry)


class Metrics(Measured):
    """Of the service."""

    def __init__(self) -> None:
        super().__init__("chestmap")
        self._requests = self.count("requests", "Answers", "method", "route", "status")
        self._seconds = self.times("request_seconds", "Time to answer", "route")
        self._batches = Histogram(
            "chestmap_batch_images", "Images in a batch", ["model"], buckets=(1, 2, 4, 8, 16, 32, 64), registry=self.registry
        )
        self._compute = self.count("predict_seconds", "Time in a model", "model")
        self._refused = self.count("refused", "Uploads refused", "reason")

    def request(self, method: str, route: str, status: int, seconds: float) -> None:
        self._requests.labels(method, route, status).inc()
        self._seconds.labels(route).observe(seconds)

    def batch(self, model: str, images: int, seconds: float) -> None:
        self._batches.labels(model).observe(images)
        self._compute.labels(model).inc(seconds)

    def refused(self, reason: str) -> None:
        self._refused.labels(reason).inc()
