"""Brings maps and boxes onto one surface: image pixels by default, or what a reference uses.

Sampling is at pixel centers; outside the map's own centers its border value goes on (as in torch and OpenCV).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

import cv2
import numpy as np
from jaxtyping import Bool, Float, Float32, UInt8

from chestmap.types import Frame

Resize = Literal["bilinear", "corners", "cubic"]
"""`bilinear` has align_corners=False, `corners` is bilinear with align_corners=True, `cubic` is OpenCV's (a = -0.75)."""

LEVELS = 256
"""Maps are scaled to [0, 256], so the thresholds k / 256 are integers, and comparing with them is exact in float32."""


@dataclass(frozen=True)
class Surface:
    """`image` is image space, squashed to `side` x `side` pixels where given; `canvas` is what the network saw.

    An image with a side longer than `longest` is scored on a smaller picture of the same shape, in the same proportions.
    """

    space: Literal["image", "canvas"] = "image"
    side: int | None = None
    resize: Resize = "bilinear"
    longest: int | None = None

    def size(self, frame: Frame) -> tuple[int, int]:
        """(width, height) in pixels; an image size that is no whole number is rounded."""
        if self.space == "canvas":
            return frame.canvas
        if self.side:
            return self.side, self.side
        shrink = min(1.0, self.longest / max(frame.image)) if self.longest else 1.0
        return max(1, round(frame.image[0] * shrink)), max(1, round(frame.image[1] * shrink))

    def scale(self, frame: Frame) -> tuple[float, float]:
        """Surface pixels for each image pixel; (1, 1) on the canvas, where the frame does it."""
        width, height = self.size(frame)
        return (1.0, 1.0) if self.space == "canvas" else (width / frame.image[0], height / frame.image[1])

    def place(self, boxes: Float[np.ndarray, "box 4"], frame: Frame) -> Float[np.ndarray, "box 4"]:
        """Boxes from image pixels to this surface; under rotation the upright box around the turned one."""
        if self.space == "image":
            return boxes * (self.scale(frame) * 2)
        a, b, c, d, e, f = frame.matrix
        xs = np.stack([a * boxes[:, x] + b * boxes[:, y] + c for x in (0, 2) for y in (1, 3)])
        ys = np.stack([d * boxes[:, x] + e * boxes[:, y] + f for x in (0, 2) for y in (1, 3)])
        return np.stack([xs.min(axis=0), ys.min(axis=0), xs.max(axis=0), ys.max(axis=0)], axis=1)


KEPT = 64


class Workspace:
    """Arrays and samplers used again from map to map, one set for each thread: fresh pages cost more than the arithmetic."""

    def __init__(self) -> None:
        self._flat: dict[tuple[str, str], np.ndarray] = {}
        self.samplers: dict[tuple[Surface, Frame, tuple[int, int]], Sampler] = {}

    def array(self, name: str, shape: tuple[int, ...], dtype: type) -> np.ndarray:
        """Contents are whatever was there; valid until the same name is asked for again."""
        size, key = math.prod(shape), (name, np.dtype(dtype).str)
        if key not in self._flat or self._flat[key].size < size:
            self._flat[key] = np.empty(size, dtype=dtype)
        return self._flat[key][:size].reshape(shape)


@dataclass(frozen=True, eq=False, kw_only=True)
class Sampler:
    """Brings maps of one shape (h, w) onto a surface of (width, height); `matrix` leads from surface to map coordinates.

    Map coordinate i is the center of cell i, surface coordinate i + 0.5 the center of pixel i.
    """

    shape: tuple[int, int]
    size: tuple[int, int]
    matrix: tuple[float, float, float, float, float, float]
    resize: Resize
    work: Workspace = field(repr=False)

    @cached_property
    def _axes(self) -> tuple[np.ndarray, np.ndarray]:
        a, _, c, _, e, f = self.matrix
        return a * (np.arange(self.size[0]) + 0.5) + c, e * (np.arange(self.size[1]) + 0.5) + f

    @cached_property
    def _upright(self) -> bool:
        return abs(self.matrix[1]) < 1e-12 and abs(self.matrix[3]) < 1e-12

    @cached_property
    def _whole(self) -> bool:
        """The surface is the whole map, so OpenCV's resize does it."""
        (height, width), (x, y) = self.shape, self._axes
        plain = [(np.arange(n) + 0.5) * m / n - 0.5 for n, m in zip(self.size, (width, height), strict=True)]
        near = self._upright and np.allclose(x, plain[0], atol=1e-9) and np.allclose(y, plain[1], atol=1e-9)
        return bool(near) and self.resize != "corners"

    @cached_property
    def _steps(self) -> tuple[tuple[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]:
        """For columns and rows: the cell before each pixel, and how far towards the next, in [0, 1]."""
        found = []
        for axis, cells in zip(self._axes, self.shape[::-1], strict=True):
            inside = np.clip(axis, 0, cells - 1)
            before = np.clip(np.floor(inside).astype(np.int64), 0, max(cells - 2, 0))
            found.append((before, (inside - before).astype(np.float32)))
        return found[0], found[1]

    def sample(self, values: Float32[np.ndarray, "h w"]) -> Float32[np.ndarray, "height width"]:
        """The map on the surface; the array is used again by the next call."""
        width, height = self.size
        out = self.work.array("sample", (height, width), np.float32)
        if self._whole:
            how = cv2.INTER_CUBIC if self.resize == "cubic" else cv2.INTER_LINEAR
            return np.asarray(cv2.resize(values, (width, height), dst=out, interpolation=how))
        if not self._upright:
            return self._turned(values, out)
        if self.resize == "cubic":
            x, y = (_cubic(axis, cells) for axis, cells in zip(self._axes, self.shape[::-1], strict=True))
            return np.matmul(y, values @ x.T, out=out)
        (column, right), (row, down) = self._steps
        across = _between(values, column, right)
        if self.shape[0] == 1:
            out[:] = across
            return out
        other = self.work.array("other", (height, width), np.float32)
        np.take(np.diff(across, axis=0), row, axis=0, out=out, mode="clip")
        np.multiply(out, down[:, None], out=out)
        np.take(across, row, axis=0, out=other, mode="clip")
        return np.add(out, other, out=out)

    def _turned(self, values: np.ndarray, out: np.ndarray) -> np.ndarray:
        """Rotated or sheared frames; OpenCV before 5 rounds such coordinates to 1/32 of a cell."""
        a, b, c, d, e, f = self.matrix
        x, y = np.arange(self.size[0]) + 0.5, np.arange(self.size[1])[:, None] + 0.5
        map_x, map_y = (a * x + b * y + c).astype(np.float32), (d * x + e * y + f).astype(np.float32)
        how = cv2.INTER_CUBIC if self.resize == "cubic" else cv2.INTER_LINEAR
        return np.asarray(cv2.remap(values, map_x, map_y, how, dst=out, borderMode=cv2.BORDER_REPLICATE))

    def bounds(
        self, values: Float32[np.ndarray, "map h w"]
    ) -> tuple[Float32[np.ndarray, "map"], Float32[np.ndarray, "map"]]:
        """Least and greatest value of each map over the pixels of the surface.

        Between two cell centers a bilinear map is extreme at the first or last pixel, so only those are computed.
        """
        if self._upright and self.resize != "cubic":
            columns, rows = self._extremes
            across = _between(values, *columns)
            both = _between(across.swapaxes(1, 2), *rows)
            return both.min(axis=(1, 2)), both.max(axis=(1, 2))
        ends = [(sampled.min(), sampled.max()) for sampled in map(self.sample, values)]
        least, most = np.array(ends, dtype=np.float32).reshape(-1, 2).T
        return least, most

    @cached_property
    def _extremes(self) -> tuple[tuple[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]:
        found = []
        for before, share in self._steps:
            change = np.flatnonzero(before[1:] != before[:-1])
            kept = np.unique(np.concatenate([[0, len(before) - 1], change, change + 1]))
            found.append((before[kept], share[kept]))
        return found[0], found[1]

    def levels(self, values: np.ndarray, *, normalize: bool = True, top: float = LEVELS) -> Levels | None:
        """The map on the surface from 0 to `top`: scaled by its own least and greatest value there, or as it is times `top`.

        None for a map without information, everywhere or on the surface.
        """
        cells, known = self.scaled(values[None], np.array([normalize]), top=top)
        return Levels(self.sample(cells[0]), cells[0], self) if known[0] else None

    def scaled(
        self, maps: Float[np.ndarray, "map h w"], normalize: Bool[np.ndarray, "map"], *, top: float
    ) -> tuple[Float32[np.ndarray, "map h w"], Bool[np.ndarray, "map"]]:
        """Maps on their own grid as `levels` scales them, and which of them hold information on the surface."""
        maps = maps.astype(np.promote_types(maps.dtype, np.float32), copy=False)  # numpy is slow in half precision
        least, most = maps.min(axis=(1, 2)), maps.max(axis=(1, 2))
        known = np.isfinite(least) & np.isfinite(most) & (least < most)
        values = (maps if known.all() else np.where(known[:, None, None], maps, 0)).astype(np.float32, copy=False)
        low, high = (one.astype(np.float64) for one in self.bounds(values))
        known &= high > low
        if not normalize.any():
            return values * np.float32(top), known
        factor = top / np.where(known, high - low, 1.0)
        own = ((values.astype(np.float64) - low[:, None, None]) * factor[:, None, None]).astype(np.float32)
        return own if normalize.all() else np.where(normalize[:, None, None], own, values * np.float32(top)), known

    def windows(self, cells: Float32[np.ndarray, "map h w"], levels: Float[np.ndarray, "map"]) -> list[tuple[slice, slice]]:
        """Rows and columns of each map outside of which it cannot reach its level, if bilinear; empty where it nowhere does."""
        if not self._upright or self.resize == "cubic":
            return [(slice(0, self.size[1]), slice(0, self.size[0]))] * len(cells)
        spans = []
        for (before, _), axis in zip(self._steps[::-1], (2, 1), strict=True):
            highest = cells.max(axis=axis)
            near = highest.copy()
            np.maximum(highest[:, :-1], highest[:, 1:], out=near[:, :-1])
            hit = (near >= (levels * (1 - 1e-6))[:, None])[:, before]
            first, after = hit.argmax(axis=1), hit.shape[1] - hit[:, ::-1].argmax(axis=1)
            some = hit.any(axis=1)
            spans.append([slice(int(one), int(end)) for one, end in zip(first * some, after * some, strict=True)])
        return list(zip(spans[0], spans[1], strict=True))


@dataclass(frozen=True, eq=False)
class Levels:
    """A map scaled to levels: on the surface (`pixels`, valid until the workspace samples again) and on its own grid."""

    pixels: Float32[np.ndarray, "height width"]
    cells: Float32[np.ndarray, "h w"]
    made_by: Sampler

    def reaching(self, threshold: float) -> tuple[UInt8[np.ndarray, "y x"], tuple[int, int]]:
        """1 where the map is at least `threshold` (of 1), in a window that holds all such pixels, and the window's (x, y)."""
        level = reached(threshold)
        rows, columns = self.made_by.windows(self.cells[None], np.array([level]))[0]
        return (self.pixels[rows, columns] >= level).view(np.uint8), (columns.start, rows.start)


def is_informative(values: np.ndarray) -> bool:
    """False for a map without information: constant, or with a value that is no finite number."""
    return bool(np.isfinite(values).all() and values.min() < values.max())


def _between(values: np.ndarray, before: np.ndarray, share: np.ndarray) -> np.ndarray:
    """Values between cells of the last axis, at a share of the way from the cell `before` to the next."""
    if values.shape[-1] == 1:
        return np.repeat(values, len(before), axis=-1)
    start = values[..., before]
    return start + share * (values[..., before + 1] - start)


def _cubic(axis: np.ndarray, cells: int) -> Float32[np.ndarray, "pixel cell"]:
    """Weights of each cell for each pixel, border cells repeated."""
    weights = np.zeros((len(axis), cells))
    before = np.floor(axis).astype(np.int64)
    for tap in range(-1, 3):
        t = np.abs(axis - (before + tap))
        near = (1.25 * t - 2.25) * t * t + 1
        far = ((-0.75 * t + 3.75) * t - 6) * t + 3
        cell = np.clip(before + tap, 0, cells - 1)
        np.add.at(weights, (np.arange(len(axis)), cell), np.where(t <= 1, near, np.where(t < 2, far, 0.0)))
    return weights.astype(np.float32)


def sampler(surface: Surface, frame: Frame, shape: tuple[int, int], work: Workspace) -> Sampler:
    """The sampler for maps of `shape` (h, w) in this frame; the workspace keeps the last ones."""
    key = (surface, frame, shape)
    if key not in work.samplers:
        if len(work.samplers) >= KEPT:
            work.samplers.clear()
        work.samplers[key] = _made(surface, frame, shape, work)
    return work.samplers[key]


def _made(surface: Surface, frame: Frame, shape: tuple[int, int], work: Workspace) -> Sampler:
    """The map from pixel centers of the surface to coordinates on the map, in which cell centers are whole numbers."""
    height, width = shape
    if surface.space == "canvas":
        a, b, c, d, e, f = 1.0, 0.0, 0.0, 0.0, 1.0, 0.0
    else:
        x, y = surface.scale(frame)
        a, b, c, d, e, f = frame.matrix
        a, b, d, e = a / x, b / y, d / x, e / y
    canvas_width, canvas_height = frame.canvas
    if surface.resize == "corners":
        x, y = (width - 1) / max(canvas_width - 1, 1), (height - 1) / max(canvas_height - 1, 1)
        matrix = (a * x, b * x, (c - 0.5) * x, d * y, e * y, (f - 0.5) * y)
    else:
        x, y = width / canvas_width, height / canvas_height
        matrix = (a * x, b * x, c * x - 0.5, d * y, e * y, f * y - 0.5)
    return Sampler(shape=shape, size=surface.size(frame), matrix=matrix, resize=surface.resize, work=work)


def reached(threshold: float, top: float = LEVELS) -> np.float32:
    """The least float32 that is not below threshold * top, so that comparing float32 with it equals comparing in float64."""
    exact = threshold * top
    near = np.float32(exact)
    return near if float(near) >= exact else np.nextafter(near, np.float32(np.inf))
