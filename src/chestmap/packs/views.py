"""Keeps views: augmentations of every image of a pack, drawn once, and a frozen trunk's features of each.

On disk: `features.bin` (fp16, [row, view, channel, h, w]) and `views.json`, written last. View 0 is the image as it is. An epoch
picks one of the others for each image, so that the trunk is not computed again.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from jaxtyping import Float16, Int64
from pydantic import Field

from chestmap.errors import BadModel
from chestmap.packs.augment import AugmentSettings, draw, uniform
from chestmap.settings import Settings
from chestmap.storage.json_file import read_json
from chestmap.types import Frame


class ViewSettings(Settings):
    """`count` augmented views of each image besides the plain one, drawn with `seed`."""

    count: int = Field(default=8, ge=0)
    seed: int = Field(default=0, ge=0)


@dataclass(frozen=True, eq=False, kw_only=True)
class Views:
    """`fingerprint` is that of the pack, the trunk's weights, the augmentation and the settings together."""

    folder: Path
    settings: ViewSettings
    augment: AugmentSettings
    shape: tuple[int, int, int, int, int]
    fingerprint: str

    @cached_property
    def features(self) -> Float16[np.ndarray, "row view channel h w"]:
        """Kept features, mapped from the file: row, view, channel, h, w."""
        return np.memmap(self.folder / "features.bin", dtype=np.float16, mode="r", shape=self.shape)

    def number(self, seed: int, moment: tuple[int, int], image_id: str) -> int:
        """Which view an image shows in an epoch: a pure function, as the drawing of an augmentation is."""
        count = self.settings.count
        return 1 + int(uniform(seed, moment, image_id, 1)[0] * count) if count else 0

    def frame(self, base: Frame, image_id: str, number: int) -> Frame:
        """Where the image lies on the canvas in a view."""
        if number == 0:
            return base
        return base.then(draw(self.augment, base.canvas, self.settings.seed, (number, 0), image_id).matrix)

    def read(self, rows: Int64[np.ndarray, "image"], numbers: list[int]) -> Float16[np.ndarray, "image channel h w"]:
        """The features of one view for each row, as a copy."""
        return np.asarray(self.features[rows, numbers])


def open_views(folder: Path, fingerprint: str) -> Views | None:
    """What was written with this fingerprint; None where there is nothing whole."""
    try:
        about = read_json(folder / "views.json", "delete the folder to write it again")
        settings, augment = ViewSettings(**about["settings"]), AugmentSettings(**about["augment"])
        first, views, channels, height, width = (int(size) for size in about["shape"])
        found = str(about["fingerprint"])
    except FileNotFoundError:
        return None
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise BadModel(
            f"{folder}: no readable views ({type(error).__name__}); delete the folder to write it again"
        ) from None
    if found != fingerprint:
        return None
    views = Views(
        folder=folder, settings=settings, augment=augment, shape=(first, views, channels, height, width), fingerprint=found
    )
    if (folder / "features.bin").stat().st_size != 2 * int(np.prod(views.shape)):
        raise BadModel(f"{folder}: features.bin is not whole; delete the folder to write it again")
    return views
