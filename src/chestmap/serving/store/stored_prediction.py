"""Describes what the store holds of a result. No torch here: processes that decode use it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float16

from chestmap.types import Box, Findings, Frame, Prediction


def stored_maps(path: Path) -> Float16[np.ndarray, "finding h w"]:
    """Reads the maps of a result; nothing is unpickled."""
    return np.load(path, allow_pickle=False)


def prediction_of(study_id: str, findings: Sequence[dict[str, Any]], grid: dict[str, Any], maps: np.ndarray) -> Prediction:
    """What the store holds of a result, as the rest of chestmap knows it."""
    boxes = tuple(
        Box(one["name"], box["x0"], box["y0"], box["x1"], box["y1"], box["score"])
        for one in findings
        for box in one["boxes"]
    )
    scores = np.array([one["score"] for one in findings])
    return Prediction(study_id, "", Findings(tuple(grid["order"])), scores, maps, Frame.from_list(grid["frame"]), boxes)
