"""From radiograph to canvas, one way for the pack and for prediction.

A network must see the same pixels whether its image came through a pack or straight from a file.
"""

from __future__ import annotations

import cv2
import numpy as np
from jaxtyping import Float32, UInt8
from pydantic import Field

from chestmap.geometry import Fit
from chestmap.settings import Settings
from chestmap.types import Frame, Radiograph


class CanvasSettings(Settings):
    """`letterbox` keeps the aspect, centers and pads with black; `squash` fills the canvas. Sizes in pixels."""

    width: int = Field(default=512, ge=8, le=8192)
    height: int = Field(default=512, ge=8, le=8192)
    fit: Fit = "letterbox"

    @property
    def canvas(self) -> tuple[int, int]:
        """Width and height, in this order."""
        return self.width, self.height


def canvas_frame(size: tuple[float, float], settings: CanvasSettings) -> Frame:
    """Where an image of this (width, height) lies: `Frame.fit` rounded to whole canvas pixels, so that it is exact."""
    exact = Frame.fit(size, settings.canvas, settings.fit)
    width = min(settings.width, max(1, round(size[0] * exact.matrix[0])))
    height = min(settings.height, max(1, round(size[1] * exact.matrix[4])))
    left, top = (settings.width - width) // 2, (settings.height - height) // 2
    return Frame(size, settings.canvas, (width / size[0], 0.0, float(left), 0.0, height / size[1], float(top)))


def on_canvas(radiograph: Radiograph, settings: CanvasSettings) -> tuple[UInt8[np.ndarray, "height width"], Frame]:
    """Pixels in 0 … 255: averaged over areas where they shrink, interpolated where they grow.

    The image's `size` decides where it lies, not the shape of its stored pixels: boxes are given in that space.
    """
    frame = canvas_frame(radiograph.size, settings)
    x_scale, _, left, _, y_scale, top = frame.matrix
    width, height = round(radiograph.size[0] * x_scale), round(radiograph.size[1] * y_scale)
    canvas = np.zeros((settings.height, settings.width), dtype=np.uint8)
    pixels = np.rint(np.clip(resized(radiograph.pixels, width, height), 0.0, 1.0) * 255.0)
    canvas[int(top) : int(top) + height, int(left) : int(left) + width] = pixels.astype(np.uint8)
    return canvas, frame


def resized(pixels: Float32[np.ndarray, "h w"], width: int, height: int) -> Float32[np.ndarray, "height width"]:
    """Each axis by its own rule: OpenCV's area rule would turn to interpolation in both where one of them grows."""
    rows, columns = pixels.shape
    steps = [(width, height)] if (width <= columns) == (height <= rows) else [(width, rows), (width, height)]
    for target in steps:
        shrinks = target[0] <= pixels.shape[1] and target[1] <= pixels.shape[0]
        if target != (pixels.shape[1], pixels.shape[0]):
            pixels = cv2.resize(pixels, target, interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)
    return pixels
