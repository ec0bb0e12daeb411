"""Whether a map shows what the score depends on: pixels are taken away, or brought back, in the order of the map.

Deletion and insertion of Petsiuk et al. (2018), for any room, by forward passes alone. Low deletion and high insertion are good.
The floor is the order of a random field as smooth as the maps: a map below it shows nothing of the score.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np
from jaxtyping import Float

from chestmap.errors import BadInput

Scores = Callable[[np.ndarray], np.ndarray]
"""Scores [image finding] of canvases [image 1 h w] in [0, 1]; such as `Predictor.raw(...)[0]`."""

STEPS = 16
BLUR = 0.08
"""Spread of the blur that stands for a deleted pixel, in shares of the canvas' longer side."""


@dataclass(frozen=True)
class Faithfulness:
    """Areas under the score against the share of pixels, in [0, 1], of one image and finding, and of the random order."""

    deletion: float
    insertion: float
    random_deletion: float
    random_insertion: float


def faithfulness(
    scores: Scores,
    canvas: Float[np.ndarray, "h w"],
    values: Float[np.ndarray, "y x"],
    finding: int,
    *,
    steps: int = STEPS,
    seed: int = 0,
) -> Faithfulness:
    """Of the map `values` of one finding over one canvas; takes 4 (steps + 1) forward passes in one call of `scores`."""
    if steps < 1:
        raise BadInput(f"steps {steps}: expected at least 1")
    if not np.isfinite(values).all():
        raise BadInput("a map with values that are no numbers has no order; predict again")
    height, width = canvas.shape
    blurred = _blurred(canvas)
    random = _as_smooth(values.shape, np.random.default_rng(seed))
    batch = []
    for order in (_order(values, (width, height)), _order(random, (width, height))):
        batch += [_mixed(canvas, blurred, order, step / steps) for step in range(steps + 1)]
        batch += [_mixed(blurred, canvas, order, step / steps) for step in range(steps + 1)]
    found = np.asarray(scores(np.stack(batch)[:, None].astype(np.float32)))[:, finding].astype(np.float64)
    areas = [float(np.trapezoid(part, dx=1 / steps)) for part in found.reshape(4, steps + 1)]
    return Faithfulness(*areas)


def _order(values: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Rank of each canvas pixel by the map, 0 first; equal pixels in reading order."""
    large = cv2.resize(values.astype(np.float32), size, interpolation=cv2.INTER_LINEAR)
    rank = np.empty(large.size, dtype=np.int64)
    rank[np.argsort(-large.ravel(), kind="stable")] = np.arange(large.size)
    return rank.reshape(large.shape)


def _mixed(one: np.ndarray, other: np.ndarray, order: np.ndarray, share: float) -> np.ndarray:
    """`one`, of which the first `share` of pixels are those of `other`."""
    return np.where(order < round(share * order.size), other, one)


def _blurred(canvas: np.ndarray) -> np.ndarray:
    return cv2.GaussianBlur(canvas.astype(np.float32), (0, 0), BLUR * max(canvas.shape), borderType=cv2.BORDER_REPLICATE)


def _as_smooth(shape: tuple[int, int], random: np.random.Generator) -> np.ndarray:
    """Noise on the map's own grid, blurred by one cell: as coarse as the map."""
    return cv2.GaussianBlur(random.random(shape).astype(np.float32), (0, 0), 1.0)


def outside_share(values: Float[np.ndarray, "y x"], mask: Float[np.ndarray, "h w"]) -> float:
    """Share of the map's sum outside a known region, such as the lungs of a phantom; NaN for an empty map.

    The floor is the same for a constant map: the share of the image outside the region, `1 - mask.mean()`.
    """
    height, width = mask.shape
    large = np.maximum(cv2.resize(values.astype(np.float32), (width, height), interpolation=cv2.INTER_LINEAR), 0)
    total = float(large.sum(dtype=np.float64))
    return 1 - float((large * mask).sum(dtype=np.float64)) / total if total > 0 else float("nan")
