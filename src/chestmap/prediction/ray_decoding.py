"""Decodes on the processors of a Ray cluster, apart from the networks. No torch here."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from itertools import islice

from chestmap.imaging.decoders import DIED
from chestmap.prediction.decoding import Decoded, DecodeSettings, Failed, Input, decode, watched
from chestmap.prediction.ray_session import ray_or_told

GROUP_BYTES = 4 << 20
"""Of the canvases that come back from one task."""

MOST = 64
"""Images of one task."""

Found = Decoded | Failed


def decode_some(sources: list[Input], reading: DecodeSettings) -> list[Found]:
    """Decodes a few inputs in one task, since a task for each would cost more than the decoding."""
    return [decode(source, reading) for source in sources]


def decode_apart(inputs: Iterable[Input], reading: DecodeSettings, ahead: int) -> Iterator[tuple[Input, Found]]:
    """As `decode_all`, in tasks of which `ahead` are under way; one that ends a process is looked for image by image."""
    yield from watched(_decoded_apart(inputs, reading, ahead))


def _decoded_apart(inputs: Iterable[Input], reading: DecodeSettings, ahead: int) -> Iterator[tuple[Input, Found]]:
    ray = ray_or_told()
    task, shared = ray.remote(num_cpus=1, max_retries=1)(decode_some), ray.put(reading)
    size = max(1, min(MOST, GROUP_BYTES // (reading.canvas.width * reading.canvas.height)))

    def found_in(sources: list[Input], reference: object) -> list[Found]:
        try:
            return ray.get(reference)
        except ray.exceptions.RayTaskError:
            raise  # an error of ours, not of the image
        except ray.exceptions.RayError:
            if len(sources) == 1:
                return [Failed(sources[0].name, DIED)]
            return [one for source in sources for one in found_in([source], task.remote([source], shared))]

    waiting: deque[tuple[list[Input], object]] = deque()
    rest = iter(inputs)
    while True:
        while len(waiting) < ahead and (sources := list(islice(rest, size))):
            waiting.append((sources, task.remote(sources, shared)))
        if not waiting:
            return
        sources, reference = waiting.popleft()
        yield from zip(sources, found_in(sources, reference), strict=True)
