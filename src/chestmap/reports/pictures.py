"""Chooses the pairs of image and finding that a report shows, and writes each as HTML.

A picture holds image, map and box at display size. The page shows the map as a layer that the reader can fade.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Literal

import cv2
import numpy as np
from jaxtyping import Float32, UInt8

from chestmap.reports.map_layers import Marks, colored, data_uri, marks_of
from chestmap.reports.number_format import number
from chestmap.types import Box

Label = Literal["present", "absent", "unknown"]
HIT = 0.3
"""The IoU from which a picture counts as a hit until the reader of the page chooses another."""

HITS = (0.1, 0.3, 0.5)
MAP_SIDE = 112
"""Pixels of the longer side of a stored map; the browser smooths it over the picture."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Picture:
    """One finding of one image. Boxes and map are in the pixels of `image`; the map is in [0, 1], None where it has no information.

    `iou` is that of the mask at `threshold` with the union of the true boxes, as it was scored.
    """

    finding: str
    image_id: str
    image: UInt8[np.ndarray, "h w"]
    label: Label
    score: float
    map: Float32[np.ndarray, "h w"] | None = None
    threshold: float | None = None
    true: tuple[Box, ...] = ()
    iou: float | None = None

    @property
    def marks(self) -> Marks:
        """The outline of the thresholded map; none where there is no map or no threshold."""
        return Marks() if self.map is None or self.threshold is None else marks_of(self.map >= self.threshold)

    def outcome(self, limit: float = HIT) -> str:
        """Whether the map meets the true box at an IoU of `limit`; "no box" where there is none."""
        return "no box" if self.iou is None else "hit" if self.iou >= limit else "miss"


def sections(pictures: Sequence[Picture], order: Iterable[str], quality: int, summary: Mapping[str, str]) -> str:
    """A section for each finding that has pictures; `summary` is the line of numbers under its heading."""
    found = []
    for finding in order:
        own = [picture for picture in pictures if picture.finding == finding]
        if own:
            figures = "\n".join(figure(picture, quality) for picture in sorted(own, key=_rank))
            found.append(
                f'<section class="finding" data-finding="{escape(finding)}"><h3>{escape(finding)} '
                f'<small>{escape(summary.get(finding, ""))}</small></h3><div class="grid">{figures}</div></section>'
            )
    return "\n".join(found)


def _rank(picture: Picture) -> tuple[float, float]:
    """Best overlap first, then pictures without a box by score."""
    return (-2.0 if picture.iou is None else picture.iou) * -1.0, -picture.score


def figure(picture: Picture, quality: int) -> str:
    """Attributes carry what the page filters and sorts by; a screen reader reads the button's name."""
    height, width = picture.image.shape
    iou = "" if picture.iou is None else f"{picture.iou}"
    outcome, marks = picture.outcome(), picture.marks
    told = f"IoU {number(picture.iou, 2)}, " if iou else ""
    words = f"{picture.finding}, {picture.image_id}: {told}score {number(picture.score, 2)}, labelled {picture.label}"
    heat = "" if picture.map is None else f'<img class="map" alt="" src="{data_uri(colored(_small(picture.map)), 80)}">'
    return (
        f'<figure data-finding="{escape(picture.finding)}" data-outcome="{outcome}" data-label="{picture.label}" '
        f'data-score="{picture.score:.3f}" data-iou="{iou}"><button type="button" class="picture" aria-label="{escape(words)}; enlarge">'
        f'<img class="ray" alt="" width="{width}" height="{height}" loading="lazy" decoding="async" '
        f'src="{data_uri(picture.image, quality)}">{heat}{_marks_svg(picture, marks)}</button>'
        f'<figcaption><span class="outcome" data-outcome="{outcome}">{outcome}</span> '
        f"<b>{'IoU ' + number(picture.iou, 2) if iou else ''}</b> score {number(picture.score, 2)}"
        f"<i>{_caption(picture)}</i><code>{escape(picture.image_id)}</code></figcaption></figure>"
    )


def _caption(picture: Picture) -> str:
    """What is known of the image, and where its map was cut."""
    boxes = len(picture.true)
    told = f"{picture.label}, {boxes or 'no'} box{'es' if boxes > 1 else ''}"
    cut = (
        "the map says nothing"
        if picture.map is None
        else f"cut at {number(picture.threshold, 2)}"
        if picture.threshold
        else ""
    )
    return "; ".join(filter(None, (told, cut)))


def _marks_svg(picture: Picture, marks: Marks) -> str:
    """One path for each kind of mark, so that a layer is one element; own marks lie under true ones."""
    height, width = picture.image.shape
    outline = "".join("M" + "L".join(f"{x},{y}" for x, y in points) + "Z" for points in marks.outlines)
    own = "".join(_box(*corners) for corners in marks.boxes)
    true = "".join(_box(box.x0, box.y0, box.x1, box.y1) for box in picture.true)
    parts = (("outline", outline), ("own", own), ("true", true))
    drawn = "".join(f'<path class="{name}" d="{d}"/>' for name, d in parts if d)
    return f'<svg viewBox="0 0 {width} {height}" aria-hidden="true">{drawn}</svg>'


def _box(x0: float, y0: float, x1: float, y1: float) -> str:
    return f"M{x0:.0f},{y0:.0f}H{x1:.0f}V{y1:.0f}H{x0:.0f}Z"


def _small(values: Float32[np.ndarray, "h w"]) -> Float32[np.ndarray, "y x"]:
    """A stored map needs no more pixels than the networks give it."""
    height, width = values.shape
    scale = MAP_SIDE / max(height, width)
    if scale >= 1:
        return values
    return cv2.resize(values, (max(1, round(width * scale)), max(1, round(height * scale))), interpolation=cv2.INTER_AREA)


def fitting_quality(pictures: Sequence[Picture], budget: int) -> int:
    """The WebP quality with which the pictures take at most `budget` bytes, tried on some of them."""
    tried = pictures[:: max(1, len(pictures) // 8)]
    for quality in (84, 74, 62, 48, 34):
        size = sum(len(data_uri(picture.image, quality)) for picture in tried) * len(pictures) / max(len(tried), 1)
        if size <= budget:
            return quality
    return 20
