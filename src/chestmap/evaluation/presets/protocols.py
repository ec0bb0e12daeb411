"""Scores exactly as a reference computes its figures, so that published numbers can be compared with ours.

| preset | resize, scale | cut | overlap | met | divided by |
|---|---|---|---|---|---|
| ham | corners aligned, canvas, min-max | x >= 0.4 + ln(999) / 100 | mask IoU, IoR; boxes by nearest pixel | >= T | pairs |
| wang2017 | bilinear, image, [0, 255] | >= 60 and >= 180, every region of both | box IoU, IoBB; any region | > T | pairs |
| wsol-v1, wsol-v2 | cubic, 224 x 224, min-max | see wsol.py | box IoU with 1 pixel added; largest, any region | >= | pairs |
| pxap | cubic, 224 x 224, min-max | every 1/1000 | pixels | | pixels |
| chexlocalize | bilinear, image, min-max, 8 bits | Otsu, regions filled | mask IoU, its mean | | pairs with a mask |
| cai2018 | bilinear, image, min-max | three thresholds, one box each | box IoU; ranked list | > T | pairs |
| rodeo | bilinear, image | validation threshold, every region | see rodeo.py | | boxes |

Where a reference leaves a rule open, the preset's docstring states our choice.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import cv2
import numpy as np
from jaxtyping import Float, UInt8

from chestmap.evaluation.maps.comparison_space import Levels, Surface, reached, sampler
from chestmap.evaluation.maps.map_overlap import confidences
from chestmap.evaluation.maps.overlap import areas, intersections, ious, painted, pixel_spans, regions
from chestmap.evaluation.maps.passes import Map
from chestmap.evaluation.measure import Measure
from chestmap.evaluation.presets import wsol
from chestmap.evaluation.published import find
from chestmap.evaluation.rates import Localization
from chestmap.evaluation.score_columns import Block, Resampling, scores_of
from chestmap.evaluation.scores import Score
from chestmap.types import Frame

PresetName = Literal["ham", "wang2017", "wsol-v1", "wsol-v2", "pxap", "chexlocalize", "cai2018", "rodeo"]
IOU = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7)
IOR = (0.1, 0.25, 0.5, 0.75, 0.9)
HAM_CUT = 0.4 + math.log(999) / 100
"""sigmoid(100 (x - 0.4)) >= 0.999"""

CAI_CUTS = (0.3, 0.5, 0.7)
"""The paper mentions three boxes by three intensity thresholds and names none; these are ours."""


@dataclass(frozen=True)
class Preset:
    """`note` keeps a row of numbers for each map, `rows` scores them all."""

    note: Callable[[Map], np.ndarray]
    rows: Callable[[np.ndarray, Localization, Resampling], list[Score]]


def _levels(seen: Map, surface: Surface) -> Levels | None:
    return sampler(surface, seen.frame, seen.values.shape, seen.work).levels(seen.values)


def note_ham(seen: Map) -> Float[np.ndarray, "2"]:
    """IoU and IoR of the mask; both denominators are at least one pixel."""
    levels = _levels(seen, Surface("canvas", resize="corners"))
    if levels is None:
        return np.zeros(2)
    mask = levels.pixels >= reached(HAM_CUT)
    true = _nearest(seen.boxes, seen.frame)
    inside, area = int((mask & true).sum()), int(mask.sum())
    return np.array([inside / max(area + int(true.sum()) - inside, 1), inside / max(area, 1)])


def _nearest(boxes: Float[np.ndarray, "box 4"], frame: Frame) -> np.ndarray:
    """Boxes cut to whole image pixels, painted on the image, and looked up at the image pixel under each canvas pixel's center."""
    a, b, c, d, e, f = frame.inverse
    x, y = np.arange(frame.canvas[0]) + 0.5, np.arange(frame.canvas[1])[:, None] + 0.5
    column, row = np.floor(a * x + b * y + c), np.floor(d * x + e * y + f)
    mask = np.zeros(column.shape, dtype=bool)
    for x0, y0, x1, y1 in np.trunc(boxes):
        mask |= (column >= x0) & (column < x1) & (row >= y0) & (row < y1)
    return mask


def ham_rows(noted: np.ndarray, loc: Localization, how: Resampling) -> list[Score]:
    """Rates by HAM's protocol: T(IoU) and T(IoR) at its steps, of masks."""
    hits = [noted[:, :1] >= np.array(IOU), noted[:, 1:] >= np.array(IOR)]
    heads = [
        {"measure": measure, "at": step}
        for measure, steps in ((Measure.IOU_MET, IOU), (Measure.IOR_MET, IOR))
        for step in steps
    ]
    return _block(loc, np.concatenate(hits, axis=1), heads, "ham", "mask", how)


def _block(
    loc: Localization, values: np.ndarray, heads: list[dict], preset: str, geometry: str, how: Resampling
) -> list[Score]:
    """Means of the columns by finding, with intervals by patient."""
    pairs = loc.pairs
    heads = [head | {"rule": f"preset {preset}", "geometry": geometry} for head in heads]
    block = Block(finding=pairs.finding, patient=loc.pair_patient(), values=values.astype(np.float64), heads=heads)
    return scores_of(block, loc.names, how)


def note_wang(seen: Map) -> Float[np.ndarray, "14"]:
    """Best IoU and IoBB, then the boxes that fail each T(IoU) and each T(IoBB). The comparison with 60 and 180 is ours (>=)."""
    levels = _levels(seen, Surface())
    if levels is None:
        return np.zeros(2 + len(IOU) + len(IOR))
    boxes = np.concatenate([regions(*levels.reaching(cut / 255))[0] for cut in (60, 180)])
    iou = ious(boxes, seen.boxes).max(axis=1)
    iobb = intersections(boxes, seen.boxes).max(axis=1) / areas(boxes)
    failed = [*((iou <= step).sum() for step in IOU), *((iobb <= step).sum() for step in IOR)]
    return np.array([iou.max(initial=0), iobb.max(initial=0), *failed], dtype=np.float64)


def wang_rows(noted: np.ndarray, loc: Localization, how: Resampling) -> list[Score]:
    """AFP is divided by the boxes of all findings, as the steps of the published figures suggest (1/984); our inference."""
    pairs = loc.pairs
    hits = [noted[:, :1] > np.array(IOU), noted[:, 1:2] > np.array(IOR)]
    share = np.bincount(pairs.finding, minlength=len(loc.names))[pairs.finding, None] / max(len(pairs.box_pair), 1)
    kinds = (Measure.IOU_MET, IOU), (Measure.IOR_MET, IOR), (Measure.AFP, IOU), (Measure.AFP_BY_IOR, IOR)
    heads = [{"measure": measure, "at": step} for measure, steps in kinds for step in steps]
    return _block(loc, np.concatenate([*hits, noted[:, 2:] * share], axis=1), heads, "wang2017", "any", how)


def note_chexlocalize(seen: Map) -> Float[np.ndarray, "2"]:
    """IoU of the filled Otsu mask (NaN: empty, which the reference leaves out) and whether the highest pixel lies in a box.

    The reference compares with outlines drawn by radiologists, here with boxes. Regions of one pixel are dropped, as there.
    """
    surface = Surface()
    size = surface.size(seen.frame)
    true = painted(pixel_spans(surface.place(seen.boxes, seen.frame), *size), *size)
    values = wsol.scaled(seen, surface)
    y, x = np.unravel_index(int(values.argmax()), values.shape)
    grey = (values * 255).astype(np.uint8)
    mask = _filled(np.asarray(cv2.threshold(grey, 0, 255, cv2.THRESH_OTSU)[1]))
    inside, area = int((mask & true).sum()), int(mask.sum())
    hit = float(true[y, x]) if values.any() else 0.0
    return np.array([inside / (area + int(true.sum()) - inside) if area else np.nan, hit])


def _filled(mask: UInt8[np.ndarray, "h w"]) -> UInt8[np.ndarray, "h w"]:
    contours, _ = cv2.findContours(mask, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
    drawn = np.zeros_like(mask)
    cv2.drawContours(drawn, [contour for contour in contours if len(contour) > 1], -1, 1, cv2.FILLED)
    return drawn


def chexlocalize_rows(noted: np.ndarray, loc: Localization, how: Resampling) -> list[Score]:
    """The reference's mean leaves out empty masks; "mIoU with misses" counts them as 0."""
    values = np.stack([noted[:, 0], np.nan_to_num(noted[:, 0]), noted[:, 1]], axis=1)
    heads = [{"measure": measure} for measure in (Measure.MIOU, Measure.MIOU_WITH_MISSES, Measure.HIT_RATE)]
    return _block(loc, values, heads, "chexlocalize", "mask", how)


def note_cai(seen: Map) -> Float[np.ndarray, "6"]:
    """For up to three boxes, the largest region at each threshold: mean intensity inside and IoU, brightest first, NaN: none.

    "Largest region" is ours; equal boxes count once.
    """
    noted = np.full((2, len(CAI_CUTS)), np.nan)
    levels = _levels(seen, Surface())
    if levels is None:
        return noted.ravel()
    found = []
    for cut in CAI_CUTS:
        boxes, sizes = regions(*levels.reaching(cut))
        found.append(tuple(boxes[int(sizes.argmax())].tolist()))
    boxes = np.array(list(dict.fromkeys(found)))
    bright = confidences(levels.pixels, boxes)
    order = np.argsort(-bright, kind="stable")
    noted[:, : len(boxes)] = bright[order], ious(boxes, seen.boxes).max(axis=1)[order]
    return noted.ravel()


def cai_rows(noted: np.ndarray, loc: Localization, how: Resampling) -> list[Score]:
    """Boxes are taken rank by rank over all images of a finding while AFP stays within that of Wang 2017, and without a limit.

    AFP is the number of boxes that miss by the images of the finding. Intervals hold the list fixed.
    """
    pairs, names = loc.pairs, loc.names
    iou = noted[:, len(CAI_CUTS) :]
    rows = []
    for label, budgets in (("cai2018", _budgets()), ("cai2018 without budget", {})):
        hits, false = np.zeros((len(pairs), len(IOU))), np.zeros((len(pairs), len(IOU)))
        for finding in np.unique(pairs.finding).tolist():
            here = pairs.finding == finding
            for column, step in enumerate(IOU):
                budget = budgets.get((names[finding], step), math.inf)
                hits[here, column], false[here, column] = within_budget(iou[here], step, budget)
        heads = [{"measure": measure, "at": step} for measure in (Measure.IOU_MET, Measure.AFP) for step in IOU]
        rows += _block(loc, np.concatenate([hits, false], axis=1), heads, label, "any", how)
    return rows


def within_budget(
    iou: Float[np.ndarray, "image rank"], limit: float, budget: float
) -> tuple[Float[np.ndarray, "image"], Float[np.ndarray, "image"]]:
    """Hits and false positives of each image when boxes are taken first rank first, images in order, until AFP would pass the budget."""
    ranked = iou.T.ravel()
    image = np.tile(np.arange(len(iou)), iou.shape[1])
    there = ~np.isnan(ranked)
    ranked, image = ranked[there], image[there]
    hit = ranked > limit
    taken = np.cumsum(~hit) <= budget * len(iou) + 1e-9
    hits = np.zeros(len(iou))
    hits[image[taken & hit]] = 1
    return hits, np.bincount(image[taken & ~hit], minlength=len(iou)).astype(np.float64)


def _budgets() -> dict[tuple[str, float], float]:
    """AFP of Wang 2017 by finding and T(IoU), as Cai et al. print it."""
    table = find("attention_mining/table-5")
    return {
        (finding, step): float(figure)
        for step in IOU
        for finding, figure in table.figures(table.row("Wang 2017", f"AFP@{step:g}")).items()
    }


def preset_notes(presets: Sequence[PresetName], source: str, names: Sequence[str]) -> list[str]:
    """What a reader of a preset's figures must know."""
    if "cai2018" not in presets:
        return []
    notes = [
        "preset cai2018: boxes are taken in the order of the images, as in the paper, so its figures depend on that order"
    ]
    budgeted = {finding for finding, _ in _budgets()}
    if source != "nih":
        notes.append(
            f"preset cai2018: its AFP budgets are those of ChestX-ray14, not of {source}; read the rows without budget"
        )
    if free := [name for name in names if name not in budgeted]:
        notes.append(f"preset cai2018: no AFP budget was published for {', '.join(free)}, which are taken without one")
    return notes


WHOLE_IMAGES: tuple[PresetName, ...] = ("rodeo",)
"""Presets that compare all boxes of an image, not one map with its boxes."""

PRESETS: Mapping[str, Preset] = {
    "ham": Preset(note_ham, ham_rows),
    "wang2017": Preset(note_wang, wang_rows),
    "wsol-v1": Preset(wsol.note_largest, wsol.v1_rows),
    "wsol-v2": Preset(wsol.note_any, wsol.v2_rows),
    "pxap": Preset(wsol.note_pixels, wsol.pxap_rows),
    "chexlocalize": Preset(note_chexlocalize, chexlocalize_rows),
    "cai2018": Preset(note_cai, cai_rows),
}
assert {*PRESETS, *WHOLE_IMAGES} == set(get_args(PresetName))
