"""Drawing in patient millimeters on a square float or 8-bit layer.

x runs to the image's right (the patient's left), y down from the first thoracic vertebra, z forward. Shapes are filled with
antialiasing on 8-bit layers, which OpenCV does fast, and become thickness in millimeters only when layers are added up.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from functools import cached_property

import cv2
import numpy as np
from jaxtyping import Float32, UInt8

Layer = UInt8[np.ndarray, "h w"]
Field = Float32[np.ndarray, "h w"]
Points = np.ndarray
"""[n, 2] in millimeters."""

_SHIFT = 4  # OpenCV's fixed point: 1/16 pixel


def stream(*keys: int | str) -> np.random.Generator:
    """Random numbers that depend on the keys alone, so that no part of a drawing disturbs another."""
    return np.random.default_rng([zlib.crc32(key.encode()) if isinstance(key, str) else key for key in keys])


def smooth_step(values: np.ndarray, low: float, high: float) -> np.ndarray:
    """0 below `low`, 1 above `high`, an S between them."""
    t = np.clip((values - low) * (1.0 / (high - low)), 0.0, 1.0)
    return t * t * (3.0 - 2.0 * t)


def spline(points: object, count: int = 48, *, closed: bool = False) -> Points:
    """A Catmull-Rom curve: it goes through the points, `count` places evenly over the spans between them."""
    p = np.asarray(points, dtype=np.float64)
    n = len(p)
    p = np.concatenate([p[-1:], p, p[:2]]) if closed else np.concatenate([2 * p[:1] - p[1:2], p, 2 * p[-1:] - p[-2:-1]])
    spans = n if closed else n - 1
    at = np.linspace(0, spans, count, endpoint=not closed)
    start = np.minimum(at.astype(int), spans - 1)
    t = (at - start)[:, None]
    a, b, c, d = p[start], p[start + 1], p[start + 2], p[start + 3]
    return b + 0.5 * t * (c - a + t * (2 * a - 5 * b + 4 * c - d + t * (3 * (b - c) + d - a)))


def ribbon(center: Points, half_width: float | np.ndarray) -> Points:
    """The outline of a strip around a curve [..., n, 2]; many at once where there are leading axes."""
    along = np.empty_like(center)
    along[..., 1:-1, :] = center[..., 2:, :] - center[..., :-2, :]
    along[..., 0, :] = center[..., 1, :] - center[..., 0, :]
    along[..., -1, :] = center[..., -1, :] - center[..., -2, :]
    scale = half_width / (np.sqrt(along[..., 0] ** 2 + along[..., 1] ** 2) + 1e-9)
    offset = np.empty_like(center)
    offset[..., 0] = -along[..., 1] * scale
    offset[..., 1] = along[..., 0] * scale
    return np.concatenate([center + offset, (center - offset)[..., ::-1, :]], axis=-2)


def ellipse(center: tuple[float, float], radii: tuple[float, float], degrees: float = 0.0, count: int = 32) -> Points:
    """A closed outline; `degrees` turn it clockwise on the picture."""
    angle = np.linspace(0, 2 * np.pi, count, endpoint=False)
    x, y = radii[0] * np.cos(angle), radii[1] * np.sin(angle)
    c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    return np.stack([center[0] + c * x - s * y, center[1] + s * x + c * y], 1)


@dataclass(frozen=True, eq=False)
class Raster:
    """A square of `side` pixels and the affine map (2 x 3) from millimeters to pixels."""

    side: int
    matrix: np.ndarray

    @cached_property
    def scale(self) -> float:
        """Pixels per millimeter, the geometric mean of both directions."""
        return float(np.sqrt(abs(np.linalg.det(self.matrix[:, :2]))))

    @cached_property
    def grid(self) -> tuple[Field, Field]:
        """Millimeter coordinates of every pixel's center."""
        inverse = cv2.invertAffineTransform(self.matrix).astype(np.float32)
        at = np.arange(self.side, dtype=np.float32) + np.float32(0.5)
        x, y = at[None, :], at[:, None]
        return (
            inverse[0, 0] * x + inverse[0, 1] * y + inverse[0, 2],
            inverse[1, 0] * x + inverse[1, 1] * y + inverse[1, 2],
        )

    def layer(self) -> Layer:
        """An empty 8-bit picture to fill shapes into."""
        return np.zeros((self.side, self.side), np.uint8)

    def to_pixels(self, points: Points) -> np.ndarray:
        """Continuous pixel coordinates: pixel i covers [i, i + 1)."""
        return np.asarray(points) @ self.matrix[:, :2].T + self.matrix[:, 2]

    def _fixed(self, points: Points) -> np.ndarray:
        """OpenCV's integers; its pixel centers are whole numbers."""
        return np.rint((self.to_pixels(points) - 0.5) * (1 << _SHIFT)).astype(np.int32)

    def fill(self, layer: Layer, points: Points, value: float = 255) -> None:
        """Overwrites the polygon with `value`; the blended edge adds about half a pixel all around."""
        cv2.fillPoly(layer, [self._fixed(points)], float(value), cv2.LINE_AA, _SHIFT)

    def line(self, layer: Layer, points: Points, width: float, value: float = 255) -> None:
        """A curve of `width` millimeters; thinner than a pixel it is drawn fainter instead."""
        pixels = width * self.scale
        faint = min(1.0, max(pixels, 0.05))
        thickness = max(1, round(pixels))
        cv2.polylines(layer, [self._fixed(points)], isClosed=False, color=float(value * faint), thickness=thickness,
                      lineType=cv2.LINE_AA, shift=_SHIFT)  # fmt: skip

    def lines(self, layer: Layer, paths: Points, widths: np.ndarray, values: np.ndarray) -> None:
        """Many curves [n, k, 2] at once, the brightest last; widths and values are rounded to a few steps for speed."""
        pixels = np.maximum(widths * self.scale, 0.05)
        thickness = np.maximum(np.rint(pixels), 1).astype(np.int64)
        step = np.rint(np.minimum(values * np.minimum(pixels / thickness, 1.3) / 8, 31)).astype(np.int64)
        group = step * 64 + thickness
        order = np.argsort(group, kind="stable")
        order = order[step[order] > 0]
        group, fixed = group[order], self._fixed(paths[order])
        starts = np.flatnonzero(np.diff(group, prepend=-1))
        for start, stop in zip(starts, [*starts[1:], len(group)], strict=True):
            value, wide = divmod(int(group[start]), 64)
            cv2.polylines(layer, list(fixed[start:stop]), isClosed=False, color=value * 8.0, thickness=wide,
                          lineType=cv2.LINE_AA, shift=_SHIFT)  # fmt: skip

    def polygon(self, points: Points) -> Layer:
        """The shape alone on an empty layer."""
        layer = self.layer()
        self.fill(layer, points)
        return layer

    def blur(self, image: np.ndarray, millimeters: float) -> Field:
        """Gaussian blur; wide ones are made on a smaller grid, which nobody can see."""
        sigma = millimeters * self.scale
        image = np.asarray(image, np.float32)
        if sigma < 0.3:
            return image
        shrink = int(min(sigma / 3, self.side / 32))
        if shrink < 2:
            return cv2.GaussianBlur(image, (0, 0), sigma, borderType=cv2.BORDER_REPLICATE)
        side = -(-self.side // shrink)
        small = cv2.resize(image, (side, side), interpolation=cv2.INTER_AREA)
        small = cv2.GaussianBlur(small, (0, 0), sigma / shrink, borderType=cv2.BORDER_REPLICATE)
        return cv2.resize(small, (self.side, self.side), interpolation=cv2.INTER_CUBIC)

    def bulge(self, mask: Layer, radius: float) -> Field:
        """0 at the mask's border rising like a quarter circle to 1 at `radius` millimeters inside: the chord of a round
        body.
        """
        depth = cv2.distanceTransform((mask > 20).view(np.uint8), cv2.DIST_L2, 3)
        t = np.minimum(depth * np.float32(1 / (radius * self.scale)), 1.0)
        return np.sqrt(t * (2.0 - t)) * (mask * np.float32(1 / 255))

    def noise(self, random: np.random.Generator, grain: float) -> Field:
        """Smooth noise of unit variance with lumps of `grain` millimeters; the same whatever the side."""
        count = max(3, round(460 / grain))
        coarse = random.standard_normal((count, count), dtype=np.float32)
        way = cv2.INTER_CUBIC if count < self.side else cv2.INTER_AREA
        return cv2.resize(coarse, (self.side, self.side), interpolation=way) * np.float32(1.25)
