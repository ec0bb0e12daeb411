"""Chooses the engine of a job: that of its folder, or, for a large job, the fastest on its own images.

Only jobs of 2,000 images and a minute or more measure; smaller ones take the default. All candidates must agree with fp32
before they count.
"""

from __future__ import annotations

import sys
import time
from itertools import islice
from pathlib import Path

import numpy as np

from chestmap.models.engines import LIBRARY, PROCESSOR_ONLY, ForwardSettings, has_cuda
from chestmap.models.folder import Model
from chestmap.models.predictor import Predictor, images_of
from chestmap.models.runtimes import is_installed
from chestmap.models.tuned import tune_graph, tuned
from chestmap.prediction.decoding import Decoded, DecodeSettings, Input
from chestmap.prediction.providers import Provider
from chestmap.predictions.folder import read_header

FEWEST, SECONDS = 2_000, 60.0
"""Images of a job, and seconds of its network, from which on measuring takes less than a twentieth of its time."""
MEASURED = 4
"""Images with which ways are measured."""


def as_begun(settings: ForwardSettings, out: Path) -> ForwardSettings:
    """`auto` is the engine of the folder's first call, so that a call which goes on is not refused for another."""
    if settings.engine != "auto" or not (out / "predictions.json").is_file():
        return settings
    ran = read_header(out).get("model", {}).get("forward", {})
    engine, device = ran.get("engine"), ran.get("device")
    if settings.device not in ("auto", device) or not is_installed(LIBRARY.get(str(engine), "torch")):
        return settings
    precision = ran.get("precision") if settings.precision == "auto" else settings.precision
    return ForwardSettings.model_validate(
        {**settings.model_dump(), "engine": engine, "device": device, "precision": precision}
    )


def is_worth_measuring(predictor: Predictor, settings: ForwardSettings, provider: Provider) -> bool:
    """Where two programs can run the model's graph, nothing is known of them here, and the job is long."""
    model = predictor.model
    if (
        settings.engine != "auto"
        or settings.precision == "bf16"
        or settings.device == "cuda"
        or settings.threads is not None
        or model.graph is None
        or not all(is_installed(LIBRARY[name]) for name in PROCESSOR_ONLY)
        or (settings.device == "auto" and has_cuda())
        or tuned(model, settings.precision) is not None
    ):
        return False
    return _has(provider, FEWEST) and _has(provider, int(SECONDS / max(_seconds_of_one(predictor), 1e-6)))


def measure(model: Model, settings: ForwardSettings, provider: Provider, reading: DecodeSettings) -> None:
    """Keeps the fastest way, as `chestmap model tune` does, of the first images that can be read."""
    rows = (row for frame in provider.frames() for row in frame.iter_rows(named=True))
    inputs = [Input(**row) for row in islice(rows, 4 * MEASURED)]
    found = (one for _, one in provider.decode(inputs, reading, 0, len(inputs)))
    canvases = [one.canvas for one in islice((one for one in found if isinstance(one, Decoded)), MEASURED)]
    if canvases:
        sys.stderr.write("Measuring which program runs this model fastest here; `chestmap model tune` measures all\n")
        tune_graph(model, images_of(np.stack(canvases)), "auto" if settings.precision == "auto" else 32)


def _has(provider: Provider, count: int) -> bool:
    """Whether there are as many inputs; no more are looked at."""
    seen = 0
    for frame in provider.frames():
        seen += len(frame)
        if seen >= count:
            return True
    return False


def _seconds_of_one(predictor: Predictor) -> float:
    width, height = predictor.model.canvas.canvas
    image = np.zeros((1, 1, height, width), np.float32)
    predictor.forward(image)
    begun = time.perf_counter()
    predictor.forward(image)
    return time.perf_counter() - begun
