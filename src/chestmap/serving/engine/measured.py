"""Computes what a reader measured: lengths and angles in millimeters where the image's spacing is known, ratios."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from chestmap.serving.store.review_schema import Line, Measure

NAMES = {"ruler": "Distance", "angle": "Angle", "ctr": "Cardiothoracic ratio"}


@dataclass(frozen=True)
class Measured:
    """A number with its unit: mm, px, deg, or none for a ratio."""

    name: str
    value: float
    unit: str

    @property
    def text(self) -> str:
        digits, unit = {"": (2, ""), "deg": (1, " degrees")}.get(self.unit, (1, f" {self.unit}"))
        return f"{self.name.lower()} {self.value:.{digits}f}{unit}"


def measured(one: Measure, spacing: Sequence[float] | None) -> Measured:
    """`spacing` is (row, column) in mm at the detector; None gives pixels."""
    down, across = spacing or (1.0, 1.0)
    lengths = [math.hypot((line.x1 - line.x0) * across, (line.y1 - line.y0) * down) for line in one.lines]
    if one.kind == "ruler":
        return Measured(NAMES[one.kind], lengths[0], "mm" if spacing else "px")
    if one.kind == "ctr":
        return Measured(NAMES[one.kind], min(lengths) / max(lengths), "")
    first, second = (_direction(line, down, across) for line in one.lines)
    apart = abs(first - second) % 180.0
    return Measured(NAMES[one.kind], min(apart, 180.0 - apart), "deg")


def _direction(line: Line, down: float, across: float) -> float:
    return math.degrees(math.atan2((line.y1 - line.y0) * down, (line.x1 - line.x0) * across))
