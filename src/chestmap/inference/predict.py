"""Predicting a part: from a model folder and packed images to a predictions folder."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from pydantic import Field

from chestmap.data.loader import Loader, LoaderSettings, Part
from chestmap.data.predictions import Chunk, Header, Predictions, PredictionsWriter, open_predictions
from chestmap.data.progress import progress_of
from chestmap.errors import BadInput, Diverged
from chestmap.inference.model_folder import Model
from chestmap.settings import Settings
from chestmap.tensors import Batch


class PredictSettings(Settings):
    batch_size: int = Field(default=8, ge=1)
    workers: int = Field(default=2, ge=0)
    device: Literal["auto", "cpu", "cuda"] = "auto"
    precision: Literal[32, "bf16"] = 32
    part_size: int = Field(
        default=4096, ge=1
    )  # images in each part of the folder; a killed job goes on after the last whole one


def predict_part(
    model: Model, part: Part, out: Path, settings: PredictSettings | None = None, *, progress: bool = True
) -> Predictions:
    """Scores and maps of every image of a part; what is there already of the same model and images is kept."""
    settings = settings or PredictSettings()
    _check_fits(model, part)
    device = torch.device("cuda" if settings.device != "cpu" and torch.cuda.is_available() else "cpu")
    if settings.device == "cuda" and device.type != "cuda":
        raise BadInput('device "cuda": torch finds no CUDA device; use "auto" or "cpu"')
    model.network.to(device)
    model.network.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue] -- not typed
    about = {"method": model.method.name, "sha256": model.sha256, "data": model.about["data"]}
    writer = PredictionsWriter(
        out, Header(model.findings, model.canvas.canvas, about, model.own_rule, part.fingerprint, settings.part_size)
    )
    with progress_of("predict", len(part), show=progress) as advance:
        for number, first in enumerate(range(0, len(part), settings.part_size)):
            rows = np.arange(first, min(first + settings.part_size, len(part)))
            if writer.has(number):
                advance(len(rows))
            else:
                chunks = _chunks(model, part.select(rows), device, settings)
                writer.write(number, len(rows), _counted(chunks, advance))
    writer.finish()
    return open_predictions(out)


def _check_fits(model: Model, part: Part) -> None:
    if not len(part):
        raise BadInput(f"{part.name}: no image to predict")
    canvas, packed = model.canvas, part.pack.settings
    if (canvas.width, canvas.height, canvas.fit) != (packed.width, packed.height, packed.fit):
        raise BadInput(
            f"{model.folder}: sees {canvas.width}×{canvas.height} {canvas.fit}, the pack {part.pack.folder} is "
            f"{packed.width}×{packed.height} {packed.fit}; pack the images for this model"
        )


def _counted(chunks: Iterator[Chunk], advance: Callable[[int], None]) -> Iterator[Chunk]:
    for chunk in chunks:
        yield chunk
        advance(len(chunk))


def _chunks(model: Model, part: Part, device: torch.device, settings: PredictSettings) -> Iterator[Chunk]:
    patient_of = dict(zip(part.ids, part.source.images["patient_id"][part.rows].to_list(), strict=True))
    loader = Loader(part, LoaderSettings(batch_size=settings.batch_size, workers=settings.workers), shuffle=False)
    for batch in loader.epoch(0):
        yield _predicted(model, batch, patient_of, device, settings)


def _predicted(
    model: Model, batch: Batch, patient_of: dict[str, str], device: torch.device, settings: PredictSettings
) -> Chunk:
    with torch.inference_mode(), torch.autocast(device.type, torch.bfloat16, enabled=settings.precision == "bf16"):
        output = model.network(batch.images.to(device, non_blocking=True))
    scores = output.logits.float().sigmoid().cpu().numpy()
    if not np.isfinite(scores).all():
        raise Diverged(
            f"{model.folder}: a score is not finite; images {', '.join(batch.ids)}; check these images and the weights"
        )
    maps = output.maps.float().clamp(0, 65504).half().cpu().numpy()
    return Chunk(batch.ids, tuple(patient_of[one] for one in batch.ids), batch.frames, scores, maps)
