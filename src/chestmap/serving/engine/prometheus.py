"""Counts and times the service for Prometheus, by route template and model. It holds no ids, names or queries.

`GET /metrics` prints these figures. Label values come from fixed lists, so that no caller can fill the memory with names.
"""

from __future__ import annotations

import logging
import threading
from collections import Counter as Counts
from collections.abc import Callable
from contextlib import AbstractContextManager

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

log = logging.getLogger(__name__)
STAGES = ("receive", "decode", "predict", "write", "send")
SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)


class Measured:
    """Has a registry of its own unless one is given, so that several services fit into one process. `prefix` begins every name."""

    def __init__(self, prefix: str, registry: CollectorRegistry | None = None) -> None:
        self.registry, self.prefix = registry or CollectorRegistry(), prefix

    def count(self, name: str, about: str, *labels: str) -> Counter:
        """Makes a counter with the prefix of the service; its name must be new."""
        return Counter(f"{self.prefix}_{name}", about, labels, registry=self.registry)

    def times(self, name: str, about: str, *labels: str) -> Histogram:
        """Makes a histogram of seconds with the prefix of the service."""
        return Histogram(f"{self.prefix}_{name}", about, labels, buckets=SECONDS, registry=self.registry)

    def watch(self, name: str, about: str, value: Callable[[], float]) -> None:
        """A gauge that is computed when Prometheus asks."""
        Gauge(f"{self.prefix}_{name}", about, registry=self.registry).set_function(value)

    def text(self) -> bytes:
        """Gives all figures in the text format of Prometheus, as `GET /metrics` returns them."""
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
        self._results = self.count("results", "Results of models", "model", "state")
        self.unreadable = self.count("unreadable", "Images of archives that cannot be read")
        self._stages = self.times("stage_seconds", "Time of a stage", "stage")
        self._lock, self._more, self._words = threading.Lock(), Counts[str](), dict[str, str]()
        for stage in STAGES:
            self._stages.labels(stage)

    def stage(self, name: str) -> AbstractContextManager[object]:
        """Measures what is done in it; `STAGES` are the names."""
        return self._stages.labels(name).time()

    def result(self, model: str, state: str) -> None:
        """Counts a finished result; `state` is that of the stored row, such as `done` or `failed`."""
        self._results.labels(model, state).inc()

    def say(self, reason: str, words: str) -> None:
        """Logs once: a flood of connections, or a full disk, must not be a flood of lines. `tell` counts the others."""
        with self._lock:
            first = reason not in self._words
            self._words[reason] = words
            self._more[reason] += not first
        if first:
            log.warning("%s", words)

    def tell(self) -> None:
        """Logs what was said again since the last call, one line for each reason."""
        with self._lock:
            more, words, self._more = self._more, self._words, Counts()
            self._words = {reason: said for reason, said in words.items() if more[reason]}
        for reason, count in more.items():
            if count:
                log.warning("%s (%d times more)", words[reason], count)

    def request(self, method: str, route: str, status: int, seconds: float) -> None:
        """Counts a request under its route template, never under its path, which holds ids."""
        self._requests.labels(method, route, status).inc()
        self._seconds.labels(route).observe(seconds)

    def batch(self, model: str, images: int, seconds: float) -> None:
        """Counts a batch that a model computed: its images, and the seconds that the network took."""
        self._batches.labels(model).observe(images)
        self._compute.labels(model).inc(seconds)
        self._stages.labels("predict").observe(seconds)

    def refused(self, reason: str) -> None:
        """Counts a refused request or upload; `reason` is one of a few fixed words."""
        self._refused.labels(reason).inc()
