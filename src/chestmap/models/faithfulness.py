"""Measures whether a map shows what the score depends on: pixels are removed, or restored, in the map's order.

Deletion and insertion of Petsiuk et al. (2018), for any model, by forward passes alone. Low deletion and high insertion are good.
The floor is the order of a random field as smooth as the maps: a map below it shows nothing of the score.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import Any, Protocol, runtime_checkable

import cv2
import numpy as np
from jaxtyping import Float

from chestmap.datasets.source import Source
from chestmap.errors import BadImage, BadInput
from chestmap.evaluation.scores import number
from chestmap.evaluation.side_by_side import Table
from chestmap.evaluation.statistics.intervals import patient_means
from chestmap.evaluation.statistics.resampling import numbered
from chestmap.imaging.canvas import on_canvas
from chestmap.models.folder import Model
from chestmap.models.predictor import images_of
from chestmap.types import Findings

Scores = Callable[[np.ndarray], np.ndarray]
"""Scores [image finding] of canvases [image 1 h w] in [0, 1]; such as `Predictor.raw(...)[0]`."""

STEPS = 16
BLUR = 0.08
"""Spread of the blur that replaces a deleted pixel, in shares of the canvas' longer side."""


@dataclass(frozen=True)
class Faithfulness:
    """Holds areas under the score against the share of pixels, in [0, 1], of one image and finding.

    `deletion` is better low and `insertion` high. The random ones are of an order that knows nothing of the image.
    """

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


@runtime_checkable
class Room(Protocol):
    """Defines what is asked of a model; `models.predictor.Predictor` has it.

    `raw` takes canvases [image, 1, height, width] in [0, 1] and gives scores [image, finding] and maps.
    """

    @property
    def findings(self) -> Findings: ...

    @property
    def model(self) -> Model: ...

    def raw(self, images: Any) -> tuple[np.ndarray, np.ndarray]: ...


Ends = tuple[float | None, float | None]
"""Of an interval; None with one patient."""


@dataclass(frozen=True, kw_only=True)
class FindingFaithfulness:
    """Means over images that have the finding; ends of 95 % intervals by patient of the differences from the random order."""

    finding: str
    images: int
    deletion: float
    random_deletion: float
    deletion_ends: Ends
    insertion: float
    random_insertion: float
    insertion_ends: Ends

    def as_dict(self) -> dict[str, Any]:
        """Plain values for `model.json`."""
        return asdict(self)


def faithfulness_of(
    predictor: Room, source: Source, ids: Iterable[str], *, images: int = 20, steps: int = STEPS, seed: int = 0
) -> Iterator[FindingFaithfulness]:
    """For each finding, over at most so many images that have it, drawn by the seed; findings without any are left out.

    Images that cannot be read are passed over.
    """
    if images < 1:
        raise BadInput(f"images {images}: expected at least 1")
    listed = np.array(list(ids))
    labels = source.known_labels(source.rows(listed))
    for finding, name in enumerate(predictor.findings):
        if name not in source.findings:
            continue
        there = listed[labels[:, source.findings.index(name)] >= 0.5]
        chosen = np.sort(np.random.default_rng(seed).permutation(len(there))[:images])
        found, patients = [], []
        for image_id in there[chosen].tolist():
            with suppress(BadImage):
                radiograph = source[source.row_of[image_id]].radiograph
                found.append(_of_canvas(predictor, on_canvas(radiograph, predictor.model.canvas)[0], finding, steps, seed))
                patients.append(radiograph.patient_id or image_id)
        if found:
            yield _over_images(name, found, patients)


def _of_canvas(predictor: Room, canvas: np.ndarray, finding: int, steps: int, seed: int) -> Faithfulness:
    """Measures one image; the map is the model's own for this canvas."""
    image = images_of(canvas[None])
    values = predictor.raw(image)[1][0, finding].astype(np.float32)
    return faithfulness(lambda batch: predictor.raw(batch)[0], image[0, 0], values, finding, steps=steps, seed=seed)


def _over_images(name: str, found: list[Faithfulness], patients: list[str]) -> FindingFaithfulness:
    """Averages over images, with intervals by patient of the difference to a random order."""
    columns = np.array([[one.deletion, one.random_deletion, one.insertion, one.random_insertion] for one in found])
    change = np.stack([columns[:, 0] - columns[:, 1], columns[:, 2] - columns[:, 3]], axis=1)
    ends = patient_means(change, numbered(patients), len(set(patients)), 0.95)
    pairs = [(number(low), number(high)) for low, high in zip(ends.low, ends.high, strict=True)]
    deletion, random_deletion, insertion, random_insertion = columns.mean(axis=0).tolist()
    return FindingFaithfulness(
        finding=name,
        images=len(found),
        deletion=deletion,
        random_deletion=random_deletion,
        deletion_ends=pairs[0],
        insertion=insertion,
        random_insertion=random_insertion,
        insertion_ends=pairs[1],
    )


def faithfulness_table(found: Iterable[FindingFaithfulness]) -> Table:
    """Low deletion and high insertion are good; a difference of which the interval holds 0 shows nothing."""
    rows = tuple(
        (
            one.finding,
            str(one.images),
            f"{one.deletion:.3f}",
            _signed(one.deletion - one.random_deletion, one.deletion_ends),
            f"{one.insertion:.3f}",
            _signed(one.insertion - one.random_insertion, one.insertion_ends),
        )
        for one in found
    )
    headers = ("finding", "images", "deletion", "less a random order", "insertion", "less a random order")
    notes = ("A map shows what the score depends on where deletion is below, and insertion above, that of a random order.",)
    title = "Area under the score against the share of pixels"
    return Table(title=title, headers=headers, rows=rows, labels=1, notes=notes)


def _signed(value: float, ends: Ends) -> str:
    """Writes a difference with its sign, and its interval where there is one."""
    low, high = ends
    return f"{value:+.3f}" if low is None or high is None else f"{value:+.3f} [{low:+.3f}, {high:+.3f}]"


def _order(values: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Rank of each canvas pixel by the map, 0 first; equal pixels in reading order."""
    large = cv2.resize(values.astype(np.float32), size, interpolation=cv2.INTER_LINEAR)
    rank = np.empty(large.size, dtype=np.int64)
    rank[np.argsort(-large.ravel(), kind="stable")] = np.arange(large.size)
    return rank.reshape(large.shape)


def _mixed(one: np.ndarray, other: np.ndarray, order: np.ndarray, share: float) -> np.ndarray:
    """Mixes two pictures: `one`, of which the first `share` of pixels are those of `other`.

    `order` ranks the pixels as `_order` does, so that a growing share only ever adds pixels.
    """
    return np.where(order < round(share * order.size), other, one)


def _blurred(canvas: np.ndarray) -> np.ndarray:
    """Makes the picture that deleted pixels come from: blurred by `BLUR`, its border repeated outward."""
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
