"""Chooses the pictures of a report: successes, failures and false alarms of every finding.

The choice is a function of the scores alone, so that two reports of one model show the same images. Nobody picks by eye.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from jaxtyping import Float32, Int, UInt8

from chestmap.datasets.source import UNKNOWN, Source
from chestmap.errors import BadInput
from chestmap.predictions.folder import Predictions
from chestmap.reports.map_layers import grey_picture, map_on_picture, picture_size, scaled
from chestmap.reports.pictures import Label, Picture
from chestmap.types import Prediction

BOXED_SHARE = 0.7
"""Of a finding's pictures, where it has boxes; the others show what it does on images without one."""

LABELS: dict[int, Label] = {1: "present", 0: "absent", UNKNOWN: "unknown"}


@dataclass(frozen=True, eq=False)
class ScoredImages:
    """What was scored: image ids, the IoU of every (image id, finding) with boxes, and where each finding's map is cut."""

    ids: Sequence[str]
    iou: Mapping[tuple[str, str], float]
    thresholds: Mapping[str, float]


@dataclass(frozen=True)
class PictureLimits:
    """How many pictures at most, and the pixels of their longer side."""

    pictures: int = 200
    longest: int = 384


def gather(
    predictions: Predictions, source: Source, scored: ScoredImages, amount: PictureLimits | None = None
) -> list[Picture]:
    """Deterministic. An image that cannot be read is an error, as it could be predicted before."""
    amount = amount or PictureLimits()
    names = [name for name in predictions.findings if name in source.findings]
    if not names or not scored.ids:
        raise BadInput(f"{predictions.folder}: nothing to show of {source.name}: no finding or no image in common")
    place = {image_id: row for row, image_id in enumerate(predictions.image_ids)}
    ids = [image_id for image_id in scored.ids if image_id in place]
    rows = np.array([place[image_id] for image_id in ids], dtype=np.int64)
    labels = source.labels[source.rows(ids)]
    chosen: list[tuple[int, str]] = []
    for name, quota in _quotas(names, scored, amount.pictures).items():
        scores = predictions.scores[rows, predictions.findings.index(name)]
        iou = np.array([scored.iou.get((image_id, source.findings.resolve(name)), np.nan) for image_id in ids])
        found = choose(scores, labels[:, source.findings.index(name)], iou, quota)
        chosen += [(index, name) for index in found]
    maker = _Maker(predictions, source, scored, amount.longest)
    return [maker.make(predictions[int(rows[index])], name) for index, name in chosen]


def _quotas(names: Sequence[str], scored: ScoredImages, total: int) -> dict[str, int]:
    """Findings with boxes get twice what others get."""
    boxed = {finding for _, finding in scored.iou}
    weights = {name: 2 if name in boxed else 1 for name in names}
    share = total / sum(weights.values())
    return {name: max(3, int(share * weight)) for name, weight in weights.items()}


def choose(
    scores: Float32[np.ndarray, "image"],
    labels: Int[np.ndarray, "image"],
    iou: np.ndarray,
    quota: int,
) -> list[int]:
    """Images of one finding. Of those with boxes the best and the worst overlaps and some between; then the highest scores where
    it is labelled absent, and the highest and lowest where it is present without a box.
    """
    boxed = np.flatnonzero(~np.isnan(iou))
    boxed = boxed[np.argsort(-iou[boxed], kind="stable")]
    others = {label: np.flatnonzero(np.isnan(iou) & (labels == label)) for label in (1, 0)}
    ranked = {label: rows[np.argsort(-scores[rows], kind="stable")] for label, rows in others.items()}
    for_boxed = min(len(boxed), round(quota * BOXED_SHARE))
    left = quota - for_boxed
    absent = min(len(ranked[0]), left - min(left // 2, len(ranked[1])))
    present = min(len(ranked[1]), left - absent)
    for_boxed = min(len(boxed), quota - absent - present)
    return [
        *_ends_and_middle(boxed, for_boxed),
        *_ends_and_middle(ranked[1], present),
        *ranked[0][:absent].tolist(),
    ]


def _ends_and_middle(ranked: np.ndarray, count: int) -> list[int]:
    """Two fifths from each end of a ranking, the rest evenly from between."""
    if count >= len(ranked):
        return ranked.tolist()
    end = max(1, round(count * 0.4)) if count > 1 else 0
    middle = ranked[end : len(ranked) - end]
    steps = np.linspace(0, len(middle) - 1, count - 2 * end + 2)[1:-1].round().astype(np.int64)
    return [*ranked[:end].tolist(), *middle[steps].tolist(), *ranked[len(ranked) - end :].tolist()]


class _Maker:
    """Keeps the last images, since one image often shows several findings."""

    def __init__(self, predictions: Predictions, source: Source, scored: ScoredImages, longest: int) -> None:
        self.predictions, self.source, self.scored, self.longest = predictions, source, scored, longest
        self.image = lru_cache(maxsize=512)(self._image)

    def _image(self, row: int) -> tuple[UInt8[np.ndarray, "h w"], tuple[float, float]]:
        """The picture and the (width, height) of image space, in which boxes are given."""
        radiograph = self.source[row].radiograph
        return grey_picture(radiograph.pixels, picture_size(radiograph.size, self.longest)), radiograph.size

    def make(self, prediction: Prediction, name: str) -> Picture:
        """One finding of one image; the finding may be spelled differently on the two sides."""
        source, own = self.source, self.predictions.header.own_rule
        row, finding = source.row_of[prediction.image_id], source.findings.resolve(name)
        pixels, image = self.image(row)
        size, column = (pixels.shape[1], pixels.shape[0]), prediction.findings.index(name)
        boxes = [box for box in source.boxes.get(prediction.image_id, ()) if box.finding == finding]
        return Picture(
            finding=finding,
            image_id=prediction.image_id,
            image=pixels,
            label=LABELS[int(source.labels[row, source.findings.index(finding)])],
            score=float(prediction.scores[column]),
            map=map_on_picture(prediction.maps[column], prediction.frame, size, normalize=own.normalize),
            threshold=self.scored.thresholds.get(finding, own.threshold),
            true=scaled(boxes, image, size),
            iou=self.scored.iou.get((prediction.image_id, finding)),
        )
