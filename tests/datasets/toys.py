"""Small sources of real files, made on the spot."""

from pathlib import Path

import cv2
import numpy as np
import polars as pl

from chestmap.datasets.source import COLUMNS, Source
from chestmap.types import Findings


def write_png(path: Path, seed: int, size: tuple[int, int] = (40, 48)) -> np.ndarray:
    pixels = np.random.default_rng(seed).integers(0, 256, size, dtype=np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), pixels)
    return pixels


def source_in(root: Path, count: int, name: str = "toy", start: int = 0, space: float | None = None) -> Source:
    ids = [f"{index:05d}" for index in range(start, start + count)]
    for index, image_id in enumerate(ids, start):
        if not (root / f"{image_id}.png").exists():
            write_png(root / f"{image_id}.png", index)
    images = pl.DataFrame(
        {"image_id": ids, "patient_id": ids, "path": [f"{one}.png" for one in ids], "view": "PA", "age": None, "sex": "",
         "width": space, "height": space},
        schema=COLUMNS,
    )  # fmt: skip
    return Source(
        name=name, findings=Findings(("Mass",)), root=root, images=images, labels=np.zeros((count, 1), dtype=np.int8)
    )
