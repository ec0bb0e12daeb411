"""What Prometheus reads: counts and times, by route template and model; no ids, names or queries."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)


class Metrics:
    """A registry of its own, so that several services fit into one process."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._requests = Counter("chestmap_requests", "Answers", ["method", "route", "status"], registry=self.registry)
        self._seconds = Histogram(
            "chestmap_request_seconds", "Time to answer", ["route"], buckets=SECONDS, registry=self.registry
        )
        self._batches = Histogram(
            "chestmap_batch_images", "Images in a batch", ["model"], buckets=(1, 2, 4, 8, 16, 32, 64), registry=self.registry
        )
        self._compute = Counter("chestmap_predict_seconds", "Time in a model", ["model"], registry=self.registry)
        self._refused = Counter("chestmap_refused", "Uploads refused", ["reason"], registry=self.registry)

    def watch(self, name: str, about: str, value: Callable[[], float]) -> None:
        """A gauge whose value is asked for when Prometheus asks."""
        Gauge(f"chestmap_{name}", about, registry=self.registry).set_function(value)

    def request(self, method: str, route: str, status: int, seconds: float) -> None:
        self._requests.labels(method, route, status).inc()
        self._seconds.labels(route).observe(seconds)

    def batch(self, model: str, images: int, seconds: float) -> None:
        self._batches.labels(model).observe(images)
        self._compute.labels(model).inc(seconds)

    def refused(self, reason: str) -> None:
        self._refused.labels(reason).inc()

    def text(self) -> bytes:
        return generate_latest(self.registry)
