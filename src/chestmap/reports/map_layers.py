"""Makes the layers over a picture: a map brought onto it, its colors, the outline and boxes of its mask.

A picture shows the whole image at any size; its pixel i covers the image from i to i + 1 times their quotient.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from io import BytesIO

import cv2
import numpy as np
from jaxtyping import Bool, Float, Float32, UInt8
from PIL import Image

from chestmap.types import Box, Frame

OWN_COLOR = (255, 176, 0)
TRUE_COLOR = (86, 199, 255)
"""Red, green, blue of the model's marks and of a reader's: apart for every kind of color vision, and on grey."""

DENSEST = 0.9
"""Opacity of the map's highest value; the lowest is clear, so that the image stays to be seen."""


def picture_size(image: tuple[float, float], longest: int) -> tuple[int, int]:
    """(width, height) of a picture with `longest` as its longer side."""
    scale = longest / max(image)
    return max(1, round(image[0] * scale)), max(1, round(image[1] * scale))


def map_on_picture(
    values: Float[np.ndarray, "h w"], frame: Frame, size: tuple[int, int], *, normalize: bool = True
) -> Float32[np.ndarray, "height width"] | None:
    """The raw map on a picture of (width, height), bilinear, in [0, 1]: scaled by its ends there, or as it is.

    None for a map without information: constant, or with a value that is no number.
    """
    rows, columns = values.shape
    cells = values.astype(np.float32)
    x = ((np.arange(size[0]) + 0.5) * frame.image[0] / size[0]).astype(np.float32)
    y = ((np.arange(size[1]) + 0.5) * frame.image[1] / size[1]).astype(np.float32)[:, None]
    a, b, c, d, e, f = frame.matrix
    map_x = (a * x + b * y + c) * (columns / frame.canvas[0]) - 0.5
    map_y = (d * x + e * y + f) * (rows / frame.canvas[1]) - 0.5
    across, down = (np.broadcast_to(one, size[::-1]).astype(np.float32) for one in (map_x, map_y))
    placed = cv2.remap(cells, across, down, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    low, high = float(placed.min()), float(placed.max())
    if not np.isfinite(cells).all() or high <= low:
        return None
    return (placed - low) / (high - low) if normalize else np.clip(placed, 0.0, 1.0)


@cache
def palette() -> UInt8[np.ndarray, "256 4"]:
    """Red, green, blue and opacity for map values 0 … 255: OpenCV's inferno without its ends, so lightness rises steadily."""
    values = np.arange(256, dtype=np.float32)[None]
    colors = cv2.applyColorMap((values * 0.75 + 0.15 * 255).astype(np.uint8), cv2.COLORMAP_INFERNO)[0][:, ::-1]
    opacity = (np.linspace(0.0, 1.0, 256) ** 1.3 * DENSEST * 255).astype(np.uint8)
    return np.concatenate([colors, opacity[:, None]], axis=1)


def colored(values: Float32[np.ndarray, "h w"]) -> UInt8[np.ndarray, "h w 4"]:
    """A map in [0, 1] as red, green, blue and opacity."""
    whole = np.ascontiguousarray(palette()).view(np.uint32)[:, 0]  # all four at once: a tenth of the time
    levels = np.rint(values * 255).astype(np.uint8)
    return whole[levels].view(np.uint8).reshape(*levels.shape, 4)


@dataclass(frozen=True)
class Marks:
    """What a mask leaves on a picture, in its pixels: closed outlines, and the box around each of its regions, largest first."""

    outlines: tuple[tuple[tuple[int, int], ...], ...] = ()
    boxes: tuple[tuple[int, int, int, int], ...] = ()


def marks_of(mask: Bool[np.ndarray, "h w"], least: float = 0.001) -> Marks:
    """Regions below `least` of the picture are left out of the boxes, not of the outlines."""
    binary = mask.astype(np.uint8)
    contours, _ = cv2.findContours(binary, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    smooth = (cv2.approxPolyDP(contour, 0.7, closed=True)[:, 0] for contour in contours)
    outlines = tuple(tuple((int(x), int(y)) for x, y in contour) for contour in smooth if len(contour) > 2)
    _, _, stats, _ = cv2.connectedComponentsWithStats(binary, connectivity=8)
    regions = sorted(stats[1:].tolist(), key=lambda one: -one[4])
    boxes = tuple((x, y, x + width, y + height) for x, y, width, height, area in regions if area >= least * mask.size)
    return Marks(outlines, boxes)


def scaled(boxes: Sequence[Box], image: tuple[float, float], size: tuple[int, int]) -> tuple[Box, ...]:
    """Boxes from image pixels to picture pixels."""
    x, y = size[0] / image[0], size[1] / image[1]
    return tuple(Box(box.finding, box.x0 * x, box.y0 * y, box.x1 * x, box.y1 * y, box.score) for box in boxes)


def grey_picture(pixels: Float32[np.ndarray, "h w"], size: tuple[int, int]) -> UInt8[np.ndarray, "height width"]:
    """Grey in [0, 1] as a picture of (width, height)."""
    shrinks = size[0] <= pixels.shape[1] and size[1] <= pixels.shape[0]
    resized = cv2.resize(pixels, size, interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)
    return np.rint(np.clip(resized, 0.0, 1.0) * 255.0).astype(np.uint8)


def data_uri(pixels: UInt8[np.ndarray, "h w ..."], quality: int) -> str:
    """A picture inside the page, as WebP: grey [h, w], or [h, w, 4] with opacity.

    Pillow's method 2 takes less than half the time of OpenCV's fixed method 4, for 5 % more bytes.
    """
    buffer = BytesIO()
    Image.fromarray(pixels).convert("RGBA" if pixels.ndim == 3 else "RGB").save(buffer, "WEBP", quality=quality, method=2)
    return "data:image/webp;base64," + base64.b64encode(buffer.getvalue()).decode()
