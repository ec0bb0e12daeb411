"""Pixels of another height than width are made square at reading: an image space in millimeters is one in which a lung has its shape."""

from dataclasses import replace

import cv2
import numpy as np
from jaxtyping import Float32

from chestmap.imaging.dicom_header import Header
from chestmap.imaging.limits import Limits
from chestmap.imaging.pixel_depth import Depth

KEYWORDS = ("ImagerPixelSpacing", "PixelSpacing", "NominalScannedPixelSpacing", "PixelAspectRatio")
SPACINGS = KEYWORDS[:3]
TOLERANCE = 0.01
"""Ratios nearer to 1 are rounding of a header, and move nothing by a pixel that counts."""


def spacing_of(header: Header) -> tuple[float, float] | None:
    """Row and column spacing in mm at the detector where it is given; zeros, which real files have, are no spacing."""
    for keyword in SPACINGS:
        pair = header.decimals(keyword)
        if len(pair) == 2 and min(pair) > 0:
            return pair[0], pair[1]
    return None


def square_size(header: Header, columns: int, rows: int) -> tuple[int, int]:
    """(width, height) with square pixels as fine as the finer side; (columns, rows) where they are square already."""
    pair = spacing_of(header) or tuple(header.decimals("PixelAspectRatio"))
    if len(pair) != 2 or min(pair) <= 0 or abs(pair[0] / pair[1] - 1) <= TOLERANCE:
        return columns, rows
    finer = min(pair)
    return round(columns * pair[1] / finer), round(rows * pair[0] / finer)


def made_square(
    header: Header, pixels: Float32[np.ndarray, "h w"], limits: Limits
) -> tuple[Float32[np.ndarray, "height width"], tuple[float, float] | None]:
    """Pixels and their spacing. Says so in the header's notes; a size beyond the limits is refused."""
    rows, columns = pixels.shape
    spacing, size = spacing_of(header), square_size(header, columns, rows)
    if size == (columns, rows):
        return pixels, spacing
    limits.check_size(*size)
    header.done.append(f"pixels were not square: {columns} x {rows} resampled to {size[0]} x {size[1]}")
    return _resampled(pixels, size), (min(spacing), min(spacing)) if spacing else None


def square_depth(depth: Depth, size: tuple[int, int]) -> Depth:
    """The levels on (width, height)."""
    if depth.levels.shape == size[::-1]:
        return depth
    levels = np.rint(_resampled(depth.levels.astype(np.float32), size)).astype(np.uint16)
    return replace(depth, levels=levels)


def _resampled(pixels: Float32[np.ndarray, "h w"], size: tuple[int, int]) -> Float32[np.ndarray, "height width"]:
    """Each pixel keeps its place; between them values are interpolated."""
    return cv2.resize(pixels, size, interpolation=cv2.INTER_LINEAR)
