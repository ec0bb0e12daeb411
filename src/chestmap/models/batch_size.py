"""Chooses how many images go through the network at once, from the canvas and the memory of one image.

Called where neither the user nor an earlier call fixed the size. The size changes speed only, but float results may differ
in the last bits, so a folder keeps it.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

WANTED = {"cpu": 4, "cuda": 32}
"""Images of 512 x 512: a processor gains nothing from more (`benchmarks/inference.md`), a GPU fills up there."""

MOST = 256
SHARE = 0.4
"""Of the memory that is free."""

ROOMY = {"cpu": 2 << 30, "cuda": 0}
"""Bytes that hold all images of a batch on a processor, whatever the network here: .5 GiB for 512 x 512, twice the most measured."""


def chosen_batch_size(forward: Callable[..., object], canvas: tuple[int, int]) -> int:
    """A power of 2: what suits the canvas, halved until it fits into the free memory by a probe of one and of two images.

    Where memory is plentiful nothing is probed.

    It depends on the machine as little as can be, since the last bits of a score depend on it.
    """
    width, height = canvas
    wish = WANTED[_device(forward)] * 512 * 512 / (width * height)
    size = 1
    while size * 2 <= min(wish, MOST):
        size *= 2
    device = _device(forward)
    if size > 1 and not 0 < ROOMY[device] <= _free(device) * SHARE:
        each, free = _need(forward, canvas), _free(device)
        while size > 1 and each * size > free * SHARE:
            size //= 2
    return size


def _need(forward: Callable[..., object], canvas: tuple[int, int]) -> float:
    """Bytes that one more image takes at the highest, measured; the first pass also warms up."""
    cuda: Any = import_module("torch").cuda if _device(forward) == "cuda" else None
    peaks = []
    for count in (1, 2):
        if cuda:
            cuda.synchronize()
            cuda.reset_peak_memory_stats()
        before = cuda.memory_allocated() if cuda else _status("VmRSS")
        forward(np.zeros((count, 1, canvas[1], canvas[0]), np.float32))
        peaks.append((cuda.max_memory_allocated() if cuda else _status("VmHWM")) - before)
    return max(peaks[1] / 2, peaks[1] - peaks[0], 0.0)


def _device(forward: Callable[..., object]) -> str:
    return "cuda" if getattr(forward, "device", "") == "cuda" else "cpu"


def _free(device: str) -> float:
    if device == "cuda":
        cuda: Any = import_module("torch").cuda
        free, _ = cuda.mem_get_info()
        return free + cuda.memory_reserved() - cuda.memory_allocated()
    group = Path("/sys/fs/cgroup/memory.max")
    text = group.read_text(encoding="ascii").strip() if group.is_file() else ""
    left = float(text) - _status("VmRSS") if text.isdigit() else float("inf")
    return max(0.0, min(_meminfo("MemAvailable"), left))


def _meminfo(key: str) -> float:
    return _kilobytes(Path("/proc/meminfo"), key, 4e9)


def _status(key: str) -> float:
    return _kilobytes(Path("/proc/self/status"), key, 0.0)


def _kilobytes(path: Path, key: str, otherwise: float) -> float:
    """A line such as `VmHWM:  1234 kB` in bytes; a machine that is no Linux has none."""
    if not path.is_file():
        return otherwise
    lines = (line.split() for line in path.read_text(encoding="ascii", errors="replace").splitlines())
    return next((float(line[1]) * 1024 for line in lines if line and line[0] == f"{key}:"), otherwise)
