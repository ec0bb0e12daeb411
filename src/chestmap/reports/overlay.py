"""Draws one picture for each image: the plain image, then each finding with map, boxes, score and a legend.

`--write overlays`, the service and notebooks draw through `overlay`; `true` boxes come from a dataset, the others from the
model.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageDraw, ImageFont

from chestmap.errors import BadInput
from chestmap.predictions.folder import OwnRule
from chestmap.reports.map_layers import (
    OWN_COLOR,
    TRUE_COLOR,
    colored,
    grey_picture,
    map_on_picture,
    marks_of,
    palette,
    picture_size,
    scaled,
)
from chestmap.reports.number_format import number
from chestmap.storage.atomic import write_bytes
from chestmap.types import Box, Prediction, Radiograph

GROUND, TEXT, SOFT = (20, 23, 26), (232, 236, 239), (163, 173, 181)
MARGIN, HEAD, FOOT = 12, 30, 34


@dataclass(frozen=True)
class OverlayStyle:
    """`longest` is the longer side of each panel in pixels; `most` the findings shown, highest scores first."""

    longest: int = 512
    most: int = 3
    least_score: float = 0.0
    rule: OwnRule = field(default_factory=lambda: OwnRule(0.5))


def overlay(
    radiograph: Radiograph, prediction: Prediction, style: OverlayStyle | None = None, true: Sequence[Box] = ()
) -> UInt8[np.ndarray, "h w 3"]:
    """Panels side by side: the image, then the findings with the highest scores; `true` boxes are in image pixels."""
    style = style or OverlayStyle()
    size = picture_size(prediction.frame.image, style.longest)
    grey = grey_picture(radiograph.pixels, size)
    shown = [
        int(index)
        for index in np.argsort(-prediction.scores, kind="stable")
        if prediction.scores[index] >= style.least_score
    ][: style.most]
    panels = [(Image.fromarray(grey).convert("RGB"), prediction.image_id)]
    for index in shown:
        name = prediction.findings.names[index]
        panels.append(
            (_panel(grey, prediction, index, style, true), f"{name}  {number(float(prediction.scores[index]), 2)}")
        )
    width, height = len(panels) * (size[0] + MARGIN) + MARGIN, HEAD + size[1] + FOOT
    sheet = Image.new("RGB", (width, height), GROUND)
    draw = ImageDraw.Draw(sheet)
    for place, (panel, title) in enumerate(panels):
        left = MARGIN + place * (size[0] + MARGIN)
        sheet.paste(panel, (left, HEAD))
        draw.text((left, 7), _fitting(draw, title, size[0]), TEXT, _font(15))
    _legend(sheet, draw, height - FOOT + 10, ("own box", "true box") if true else ("own box",))
    return np.asarray(sheet).copy()


def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """Pillow's own font: the same letters on every machine."""
    return ImageFont.load_default(size)


def _fitting(draw: ImageDraw.ImageDraw, text: str, width: int) -> str:
    """Cut in the middle where it is wider than the panel: the end of an image id distinguishes the images of a patient."""
    if draw.textlength(text, _font(15)) <= width:
        return text
    kept = len(text)
    while kept > 2 and draw.textlength(f"{text[: kept // 2]}…{text[-(kept // 2) :]}", _font(15)) > width:
        kept -= 1
    return f"{text[: kept // 2]}…{text[-(kept // 2) :]}"


def _panel(
    grey: UInt8[np.ndarray, "h w"], prediction: Prediction, index: int, style: OverlayStyle, true: Sequence[Box]
) -> Image.Image:
    """Boxes are those of the prediction where it has any, else those of the mask by the style's rule."""
    size, name = (grey.shape[1], grey.shape[0]), prediction.findings.names[index]
    panel = Image.fromarray(grey).convert("RGBA")
    values = map_on_picture(prediction.maps[index], prediction.frame, size, normalize=style.rule.normalize)
    if values is not None:
        panel.alpha_composite(Image.fromarray(colored(values)))
    draw = ImageDraw.Draw(panel)
    own = [box for box in scaled(prediction.boxes, prediction.frame.image, size) if box.finding == name]
    corners = [box.corners for box in own]
    if values is not None and not prediction.boxes:
        corners = [tuple(map(float, box)) for box in marks_of(values >= style.rule.threshold).boxes]
    for x0, y0, x1, y1 in corners:
        draw.rectangle((x0, y0, x1 - 1, y1 - 1), outline=OWN_COLOR, width=2)
    for box in scaled(true, prediction.frame.image, size):
        if box.finding == name:
            draw.rectangle((box.x0, box.y0, box.x1 - 1, box.y1 - 1), outline=TRUE_COLOR, width=2)
    return panel.convert("RGB")


def _legend(sheet: Image.Image, draw: ImageDraw.ImageDraw, top: int, boxes: Sequence[str]) -> None:
    """The map's colors and the kinds of box there may be, under the first panel."""
    ramp = palette()[:, :3][np.newaxis].repeat(10, axis=0)
    sheet.paste(Image.fromarray(ramp).resize((90, 10)), (MARGIN, top + 3))
    draw.text((MARGIN + 96, top - 1), "map, low to high", SOFT, _font(13))
    left = MARGIN + 216
    for color, label in zip((OWN_COLOR, TRUE_COLOR), boxes, strict=False):
        draw.rectangle((left, top + 2, left + 18, top + 13), outline=color, width=2)
        draw.text((left + 26, top - 1), label, SOFT, _font(13))
        left += 108


def write_overlay(path: Path, pixels: UInt8[np.ndarray, "h w 3"]) -> Path:
    """Write the PNG atomically."""
    if path.suffix.lower() != ".png":
        raise BadInput(f"{path}: overlays are PNG files; give a name that ends in .png")
    buffer = BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG", compress_level=4)
    write_bytes(path, buffer.getbuffer())
    return path


@dataclass(frozen=True)
class OverlayWriter:
    """A `Writer` of one PNG for each prediction; `radiograph_of` reads the image again, `true_of` gives known boxes."""

    folder: Path
    radiograph_of: Callable[[str], Radiograph]
    style: OverlayStyle = field(default_factory=OverlayStyle)
    true_of: Callable[[str], Sequence[Box]] = lambda _: ()

    def write(self, prediction: Prediction) -> None:
        """Read the image again and write its picture."""
        self.folder.mkdir(parents=True, exist_ok=True)
        sheet = overlay(self.radiograph_of(prediction.image_id), prediction, self.style, self.true_of(prediction.image_id))
        name = prediction.image_id.removesuffix(".png").replace("/", "_")
        write_overlay(self.folder / f"{name}.png", sheet)
