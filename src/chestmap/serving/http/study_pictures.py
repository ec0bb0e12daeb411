"""Serves pictures and arrays of one study from the store's files."""

from __future__ import annotations

import io
from pathlib import Path

import cv2
import numpy as np
from jaxtyping import Float16, Float32, UInt8, UInt16
from PIL import Image

from chestmap.reports.overlay import OverlayStyle, overlay
from chestmap.serving.store.database_tables import Result, Study
from chestmap.serving.store.stored_prediction import prediction_of, stored_maps
from chestmap.types import Prediction, Radiograph

LEAST_WIDTH = 64
"""An image this narrow is not halved again."""


def map_bytes(maps: Float16[np.ndarray, "finding h w"]) -> bytes:
    """Each finding's map scaled to its own maximum, 0 … 255; one without information is 0."""
    values = np.nan_to_num(maps.astype(np.float32), nan=0.0, posinf=0.0, neginf=0.0)
    most = values.max(axis=(1, 2), keepdims=True)
    return np.rint(np.where(most > 0, values / np.where(most > 0, most, 1) * 255, 0)).astype(np.uint8).tobytes()


def halves_for(width: int, height: int, stage: tuple[int, int]) -> int:
    """How often the sides may be halved, so that the image, fitted in a stage, still has a pixel for each of the screen's.

    The page chooses its levels by the same rule (`levels.js`).
    """
    scale, halves = min(stage[0] / width, stage[1] / height), 0
    while scale * 2 ** (halves + 1) <= 1 and width > LEAST_WIDTH:
        halves, width = halves + 1, (width + 1) // 2
    return halves


def halved(levels: UInt16[np.ndarray, "h w"], halves: int) -> UInt16[np.ndarray, "y x"]:
    """Each pixel is the mean of the up to four that it covers, rounded half up; an odd last row or column is counted twice."""
    for _ in range(halves):
        height, width = levels.shape
        even = (
            cv2.copyMakeBorder(levels, 0, height % 2, 0, width % 2, cv2.BORDER_REPLICATE)
            if height % 2 or width % 2
            else levels
        )
        levels = cv2.resize(even, (even.shape[1] // 2, even.shape[0] // 2), interpolation=cv2.INTER_AREA)
    return levels


def reduced_levels(study: Study, path: Path, stage: tuple[int, int]) -> bytes | None:
    """The pixels as fine as `stage` can show them; None where that is all of them."""
    width, height = study.image["width"], study.image["height"]
    halves = halves_for(width, height, stage)
    return halved(np.fromfile(path, dtype="<u2").reshape(height, width), halves).tobytes() if halves else None


def stored_grey(study: Study, path: Path, longest: int) -> Float32[np.ndarray, "h w"]:
    """The pixels under their window, no larger than needed."""
    image = study.image
    levels = np.fromfile(path, dtype="<u2").reshape(image["height"], image["width"])
    scale = min(1.0, longest / max(levels.shape))
    size = max(1, round(levels.shape[1] * scale)), max(1, round(levels.shape[0] * scale))
    small = cv2.resize(levels.astype(np.float32), size, interpolation=cv2.INTER_AREA)
    window = image["window"]
    return np.clip((small - window["center"]) / window["width"] + 0.5, 0, 1).astype(np.float32)


def overlay_png(study: Study, result: Result, files: tuple[Path, Path], finding: str = "") -> bytes:
    """The image next to the findings with the highest scores, or next to one of them; `files` are its pixels and maps."""
    pixels, maps = files
    style = OverlayStyle(most=1 if finding else 3)
    radiograph = Radiograph(pixels=stored_grey(study, pixels, style.longest), image_id=study.id)
    sheet = overlay(radiograph, _chosen(study, result, stored_maps(maps), finding), style)
    return _png(sheet)


def _chosen(study: Study, result: Result, maps: Float16[np.ndarray, "finding h w"], finding: str) -> Prediction:
    """A prediction of one finding, or of all."""
    names = list(result.maps["order"])
    rows = [names.index(finding)] if finding else list(range(len(names)))
    grid = {**result.maps, "order": [names[row] for row in rows]}
    return prediction_of(study.name, [result.findings[row] for row in rows], grid, maps[rows])


def _png(pixels: UInt8[np.ndarray, "h w 3"]) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG", compress_level=4)
    return buffer.getvalue()
