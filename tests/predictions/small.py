"""A predictions folder of made values."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from chestmap.predictions.folder import Chunk, Header, OwnRule, PredictionsWriter
from chestmap.types import Findings, Frame


def write_predictions(
    folder: Path, image_ids: Sequence[str], findings: Sequence[str] = ("Mass",), model: Mapping[str, Any] | None = None
) -> None:
    """Of images of 32 × 32 pixels, on a canvas as large; `model` is what the header holds of it."""
    ids, shape = tuple(image_ids), (len(image_ids), len(findings))
    maps = np.ones((*shape, 4, 4), np.float16)
    scores = np.linspace(0, 1, len(ids) * len(findings), dtype=np.float32).reshape(shape)
    frames = (Frame.fit((32.0, 32.0), (32, 32)),) * len(ids)
    chunk = Chunk(image_ids=ids, patient_ids=ids, frames=frames, scores=scores, maps=maps)
    header = Header(findings=Findings(tuple(findings)), canvas=(32, 32), model=dict(model or {}), own_rule=OwnRule(0.5))
    writer = PredictionsWriter(folder, header)
    writer.write(0, len(ids), iter([chunk]))
    writer.finish()
