"""Draws a contact sheet: many radiographs in one picture, with captions and boxes."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
from jaxtyping import Shaped, UInt8
from PIL import Image, ImageDraw, ImageFont

from chestmap.errors import BadInput
from chestmap.types import Box

_GAP = 4
_YELLOW = (255, 208, 32)
_GREY = (200, 205, 210)
_GROUND = (18, 20, 23)


def contact_sheet(
    images: Sequence[Shaped[np.ndarray, "..."]],
    captions: Sequence[str] = (),
    boxes: Sequence[Sequence[Box]] = (),
    columns: int = 6,
    cell: int = 200,
) -> UInt8[np.ndarray, "height width 3"]:
    """RGB, row by row, each image fitted into a square of `cell` pixels.

    Images are 8-bit, or floats in [0, 1]; boxes are in the pixels of their image; captions and boxes may be left out.
    """
    if not len(images) or columns < 1 or cell < 16:
        raise BadInput(f"{len(images)} images in {columns} columns of {cell} pixels: expected at least 1, 1 and 16")
    for what, given in (("captions", captions), ("boxes", boxes)):
        if given and len(given) != len(images):
            raise BadInput(f"{len(given)} {what} for {len(images)} images: expected one each, or none")
    line = round(cell * 0.09) + 4 if captions else 0
    rows = -(-len(images) // columns)
    width, height = columns * (cell + _GAP) + _GAP, rows * (cell + line + _GAP) + _GAP
    sheet = Image.new("RGB", (width, height), _GROUND)
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(size=max(8, round(cell * 0.07)))
    for index, image in enumerate(images):
        x, y = _GAP + index % columns * (cell + _GAP), _GAP + index // columns * (cell + line + _GAP)
        small, scale = _fitted(image, cell)
        left, top = x + (cell - small.shape[1]) // 2, y + (cell - small.shape[0]) // 2
        sheet.paste(Image.fromarray(small).convert("RGB"), (left, top))
        for box in boxes[index] if boxes else ():
            corners = [left + box.x0 * scale, top + box.y0 * scale, left + box.x1 * scale - 1, top + box.y1 * scale - 1]
            pen.rectangle([round(value) for value in corners], outline=_YELLOW, width=max(1, cell // 160))
        if captions:
            pen.text((x + 2, y + cell + 1), _cut(captions[index], font, cell - 4), fill=_GREY, font=font)
    return np.asarray(sheet)


def _cut(caption: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: int) -> str:
    if font.getlength(caption) <= width:
        return caption
    while caption and font.getlength(caption + "…") > width:
        caption = caption[:-1]
    return caption + "…"


def _fitted(image: np.ndarray, cell: int) -> tuple[np.ndarray, float]:
    """8-bit grey or RGB with the longer side `cell`, and the scale that took it there."""
    if image.dtype != np.uint8:
        image = (np.clip(np.nan_to_num(image), 0, 1) * 255 + 0.5).astype(np.uint8)
    scale = cell / max(image.shape[:2])
    size = max(1, round(image.shape[1] * scale)), max(1, round(image.shape[0] * scale))
    way = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
    return cv2.resize(image, size, interpolation=way), scale
