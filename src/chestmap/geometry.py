"""Boxes in image pixels, and the frame that maps an image onto a canvas and back.

Coordinates are continuous: pixel i covers [i, i + 1), boxes are half-open, x runs right and y down.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Literal

from chestmap.errors import BadBox, BadInput

Fit = Literal["letterbox", "squash"]
Matrix = tuple[float, float, float, float, float, float]
"""(a, b, c, d, e, f): x' = a x + b y + c and y' = d x + e y + f."""


@dataclass(frozen=True)
class Box:
    """One marked region of a finding in image pixels; `score` is absent on a reader's box.

    Examples:
        >>> from chestmap import Box
        >>> Box("Mass", 0, 0, 10, 10).iou(Box("Mass", 0, 0, 10, 5))
        0.5
    """

    finding: str
    x0: float
    y0: float
    x1: float
    y1: float
    score: float | None = None

    def __post_init__(self) -> None:
        if not all(math.isfinite(value) for value in self.corners):
            raise BadBox(f"{self.finding} box {self.corners}: coordinates must be finite numbers")
        if self.x1 <= self.x0 or self.y1 <= self.y0:
            raise BadBox(f"{self.finding} box {self.corners}: no area; expected x0 < x1 and y0 < y1")

    @property
    def corners(self) -> tuple[float, float, float, float]:
        """The four numbers x0, y0, x1, y1, in image pixels."""
        return self.x0, self.y0, self.x1, self.y1

    @property
    def area(self) -> float:
        """The area in square pixels."""
        return (self.x1 - self.x0) * (self.y1 - self.y0)

    def intersection(self, other: Box) -> float:
        """The area that both boxes share, in square pixels."""
        width = min(self.x1, other.x1) - max(self.x0, other.x0)
        height = min(self.y1, other.y1) - max(self.y0, other.y0)
        return max(width, 0.0) * max(height, 0.0)

    def iou(self, other: Box) -> float:
        """Intersection over union, in [0, 1]."""
        shared = self.intersection(other)
        return shared / (self.area + other.area - shared)

    def clipped(self, width: float, height: float) -> Box | None:
        """The part of the box inside an image of this size; None where nothing remains."""
        x0, y0 = max(self.x0, 0.0), max(self.y0, 0.0)
        x1, y1 = min(self.x1, float(width)), min(self.y1, float(height))
        return replace(self, x0=x0, y0=y0, x1=x1, y1=y1) if x0 < x1 and y0 < y1 else None


def _compose(after: Matrix, before: Matrix) -> Matrix:
    a, b, c, d, e, f = after
    p, q, r, s, t, u = before
    return a * p + b * s, a * q + b * t, a * r + b * u + c, d * p + e * s, d * q + e * t, d * r + e * u + f


def _invert(matrix: Matrix) -> Matrix:
    a, b, c, d, e, f = matrix
    det = a * e - b * d
    return e / det, -b / det, (b * f - c * e) / det, -d / det, a / det, (c * d - a * f) / det


@dataclass(frozen=True)
class Frame:
    """Where an image sits on the canvas: an affine map from image pixels to canvas pixels. Sizes are (width, height)."""

    image: tuple[float, float]
    canvas: tuple[int, int]
    matrix: Matrix

    def __post_init__(self) -> None:
        a, b, _, d, e, _ = self.matrix
        if not all(math.isfinite(value) for value in (*self.image, *self.matrix)) or abs(a * e - b * d) < 1e-12:
            raise BadInput(f"frame matrix {self.matrix}: expected six finite numbers of an invertible map")

    @classmethod
    def fit(cls, image: tuple[float, float], canvas: tuple[int, int], how: Fit = "letterbox") -> Frame:
        """`letterbox` keeps the aspect and centers; `squash` fills the canvas."""
        if min(*image, *canvas) <= 0:
            raise BadInput(f"image {image} on canvas {canvas}: sizes must be positive")
        x_scale, y_scale = canvas[0] / image[0], canvas[1] / image[1]
        if how == "letterbox":
            x_scale = y_scale = min(x_scale, y_scale)
        x_offset, y_offset = (canvas[0] - image[0] * x_scale) / 2, (canvas[1] - image[1] * y_scale) / 2
        return cls(image, canvas, (x_scale, 0.0, x_offset, 0.0, y_scale, y_offset))

    def then(self, matrix: Matrix) -> Frame:
        """The frame after a further canvas-to-canvas map, as augmentation and alignment make them."""
        return replace(self, matrix=_compose(matrix, self.matrix))

    def flipped(self) -> Frame:
        """The frame of the mirrored canvas."""
        return self.then((-1.0, 0.0, float(self.canvas[0]), 0.0, 1.0, 0.0))

    def resized(self, canvas: tuple[int, int]) -> Frame:
        """The same picture on a canvas of another size, e.g. the grid of a map."""
        x_scale, y_scale = canvas[0] / self.canvas[0], canvas[1] / self.canvas[1]
        return replace(self.then((x_scale, 0.0, 0.0, 0.0, y_scale, 0.0)), canvas=canvas)

    @property
    def inverse(self) -> Matrix:
        """From canvas pixels to image pixels."""
        return _invert(self.matrix)

    @property
    def is_flipped(self) -> bool:
        """Whether left and right are exchanged between image and canvas."""
        a, b, _, d, e, _ = self.matrix
        return a * e - b * d < 0

    def to_canvas(self, boxes: Iterable[Box]) -> tuple[Box, ...]:
        """Boxes from image to canvas; under rotation the upright box around the turned one. Not clipped."""
        return tuple(_moved(box, self.matrix) for box in boxes)

    def to_image(self, boxes: Iterable[Box]) -> tuple[Box, ...]:
        """Boxes from canvas to image pixels. Not clipped."""
        return tuple(_moved(box, self.inverse) for box in boxes)

    def as_list(self) -> list[float]:
        """Ten numbers for a table: image width and height, canvas width and height, the matrix."""
        return [*map(float, self.image), *map(float, self.canvas), *self.matrix]

    @classmethod
    def from_list(cls, numbers: Iterable[float]) -> Frame:
        """Read the ten numbers of `as_list`."""
        values = [float(number) for number in numbers]
        if len(values) != 10:
            raise BadInput(f"frame of {len(values)} numbers: expected 10 (image, canvas, matrix)")
        a, b, c, d, e, f = values[4:]
        return cls((values[0], values[1]), (int(values[2]), int(values[3])), (a, b, c, d, e, f))


def _moved(box: Box, matrix: Matrix) -> Box:
    a, b, c, d, e, f = matrix
    xs = [a * x + b * y + c for x in (box.x0, box.x1) for y in (box.y0, box.y1)]
    ys = [d * x + e * y + f for x in (box.x0, box.x1) for y in (box.y0, box.y1)]
    return replace(box, x0=min(xs), y0=min(ys), x1=max(xs), y1=max(ys))
