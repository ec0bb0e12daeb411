"""Draws one box for each finding: around the largest region of its map above the model's threshold.

Computed as evaluation does it, on image pixels, so that the boxes that are given are those that were scored. No torch here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float, Float16

from chestmap.evaluation.maps.comparison_space import Surface, Workspace, sampler
from chestmap.evaluation.maps.overlap import regions
from chestmap.predictions.header import OwnRule
from chestmap.types import Box, Findings, Frame

LONGEST = 1024
"""Pixels of the longer side on which maps are cut, as evaluation has it by default; boxes lie in image pixels all the same."""


@dataclass(frozen=True)
class BoxRule:
    """`levels` are those of the map scaled to [0, 1], for findings with a threshold chosen on validation images."""

    own: OwnRule
    levels: Mapping[str, float] = field(default_factory=dict, hash=False)


def boxes_of(
    findings: Findings,
    scores: Float[np.ndarray, "finding"],
    maps: Float16[np.ndarray, "finding h w"],
    frame: Frame,
    rule: BoxRule,
    work: Workspace | None = None,
) -> tuple[Box, ...]:
    """In image pixels, in the order of the findings; a map without information gives none.

    A box's score is the finding's score times the peak of the scaled map inside it, so that a box away from the map's peak
    counts for less, and one around it carries the finding's own score. A caller with many images keeps `work` for one thread.
    """
    surface, work = Surface(longest=LONGEST), work or Workspace()
    sampled = sampler(surface, frame, maps.shape[1:], work)
    x, y = surface.scale(frame)
    normalize = np.array([rule.own.normalize or finding in rule.levels for finding in findings])
    thresholds = [rule.levels.get(finding, rule.own.threshold) for finding in findings]
    cells, known = sampled.scaled(maps, normalize, top=1.0)
    windows = sampled.windows(cells, np.array(thresholds))  # nothing outside of them reaches the threshold
    found = []
    for row, finding in enumerate(findings):
        rows, columns = windows[row]
        if not known[row] or not rows.stop or not columns.stop:
            continue
        pixels = sampled.sample(cells[row])[rows, columns]
        mask = np.greater_equal(pixels, thresholds[row], out=work.array("mask", pixels.shape, bool))
        corners, areas = regions(mask.view(np.uint8))
        if not len(corners):
            continue
        left, top, right, bottom = (int(value) for value in corners[int(np.argmax(areas))])
        peak = min(float(pixels[top:bottom, left:right].max()), 1.0)
        x0, x1, y0, y1 = left + columns.start, right + columns.start, top + rows.start, bottom + rows.start
        box = Box(finding, x0 / x, y0 / y, x1 / x, y1 / y, float(scores[row]) * peak)
        if inside := box.clipped(*frame.image):
            found.append(inside)
    return tuple(found)
