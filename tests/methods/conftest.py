"""Small images with bright squares: what a room's task, recipe and masks are tried on."""

import cv2
import numpy as np
import polars as pl
import pytest

from chestmap.datasets.source import COLUMNS, UNKNOWN, Source
from chestmap.packs.augment import AugmentSettings
from chestmap.packs.build import PackSettings, make_pack
from chestmap.packs.loader import Loader, LoaderSettings, Part
from chestmap.types import Box, Findings

FINDINGS = Findings(("Mass", "Nodule", "Effusion"))
SIDE = 64


@pytest.fixture(scope="session")
def part(tmp_path_factory) -> Part:
    """Eight images; the first three carry a box, the fourth a finding without one, one label is unknown."""
    root = tmp_path_factory.mktemp("squares")
    rng, ids, boxes = np.random.default_rng(0), [f"{row:02d}" for row in range(8)], {}
    labels = np.zeros((8, 3), dtype=np.int8)
    for row, image_id in enumerate(ids):
        pixels = rng.integers(0, 60, (SIDE, SIDE), dtype=np.uint8)
        if row < 4:
            x, y, finding = 8 + 8 * row, 12 + 4 * row, row % 2
            pixels[y : y + 16, x : x + 20] += 180
            labels[row, finding] = 1
            if row < 3:
                boxes[image_id] = (Box(FINDINGS.names[finding], x, y, x + 20, y + 16),)
        assert cv2.imwrite(str(root / f"{image_id}.png"), pixels)
    labels[5, 2] = UNKNOWN
    columns = {"image_id": ids, "patient_id": ids, "path": [f"{one}.png" for one in ids], "view": "PA", "sex": ""}
    images = pl.DataFrame(columns | {"age": None, "width": float(SIDE), "height": float(SIDE)}).select(
        pl.col(name).cast(kind) for name, kind in COLUMNS.items()
    )
    source = Source(name="squares", findings=FINDINGS, root=root, images=images, labels=labels, boxes=boxes)
    pack = make_pack(source, root / "pack", PackSettings(width=SIDE, height=SIDE), progress=False, workers=1)
    return Part(source=source, pack=pack, rows=np.arange(8), name="train")


@pytest.fixture
def batch(part):
    return next(Loader(part=part, settings=LoaderSettings(batch_size=8), shuffle=False).epoch(0))


@pytest.fixture
def moved(part):
    """The same images turned, shifted, flipped."""
    augment = AugmentSettings(flip=0.5, translate=0.1, scale=(0.9, 1.1))
    return next(Loader(part=part, settings=LoaderSettings(batch_size=8), shuffle=False, augment=augment, seed=3).epoch(0))
