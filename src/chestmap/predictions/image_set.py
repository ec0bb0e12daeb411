"""Describes an evaluated set: its images, patients, boxes and sizes, and digests that distinguish two sets.

`predict` writes it into predictions.json. `evaluate` verifies it, and every metrics.json, table and page carries it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from hashlib import sha256
from typing import Any

import numpy as np
from jaxtyping import Float

from chestmap.datasets.source import Source
from chestmap.datasets.split import Split
from chestmap.errors import BadModel
from chestmap.types import Box

DIGITS = 16


@dataclass(frozen=True, kw_only=True)
class ImageSet:
    """`digest` covers image ids, patients and sizes, `box_digest` the boxes; neither depends on the order of the images.

    `split` and `part` are empty where all images of the source were taken.
    """

    source: str
    fingerprint: str
    split: str
    split_fingerprint: str
    part: str
    images: int
    patients: int
    boxes: int
    digest: str
    box_digest: str

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, stored: Mapping[str, Any], where: object) -> ImageSet:
        """Read what `as_dict` wrote; `where` names the file in an error."""
        try:
            return cls(**stored)
        except TypeError:
            raise BadModel(f"{where}: the record of its images cannot be read ({sorted(stored)}); predict again") from None

    def part_of(self, split: Split | None, part: str) -> ImageSet:
        """The same images under the name of a split's part; no name without a split."""
        if split is None:
            return replace(self, split="", split_fingerprint="", part="")
        return replace(self, split=split.name, split_fingerprint=split.fingerprint, part=part)

    def summary(self) -> str:
        """One line for the foot of a table or page."""
        where = f"{self.source}, {self.part} of split {self.split}" if self.split else f"{self.source}, all images"
        return (
            f"{where}: {self.images:,} images of {self.patients:,} patients, {self.boxes:,} boxes; "
            f"set {self.digest[:8]}-{self.box_digest[:8]}"
        )


def image_set(
    source: tuple[str, str],
    ids: Sequence[str],
    patients: Sequence[str],
    sizes: Float[np.ndarray, "image 2"],
    boxes: Mapping[str, Iterable[Box]],
) -> ImageSet:
    """`source` is its name and fingerprint; `sizes` are (width, height), NaN where the source knows none."""
    lines = [
        f"{one}\t{patient}\t{width:g}\t{height:g}"
        for one, patient, (width, height) in zip(ids, patients, sizes.tolist(), strict=True)
    ]
    drawn = [
        "\t".join([one, box.finding, *(f"{corner:.2f}" for corner in box.corners)])
        for one in ids
        for box in boxes.get(one, ())
    ]
    people = len({patient or f"image {one}" for one, patient in zip(ids, patients, strict=True)})
    return ImageSet(
        source=source[0],
        fingerprint=source[1],
        split="",
        split_fingerprint="",
        part="",
        images=len(ids),
        patients=people,
        boxes=len(drawn),
        digest=_digest(lines),
        box_digest=_digest(drawn),
    )


def image_set_of(source: Source, ids: Iterable[str], split: Split | None = None, part: str = "") -> ImageSet:
    """For `predict`: the images of a dataset that are predicted, under the split's part that names them."""
    chosen = list(ids)
    images = source.images[source.rows(chosen)]
    sizes = images.select("width", "height").to_numpy().astype(np.float64)
    names = source.name, source.fingerprint
    return image_set(names, chosen, images["patient_id"].to_list(), sizes, source.boxes).part_of(split, part)


def _digest(lines: Iterable[str]) -> str:
    return sha256("\n".join(sorted(lines)).encode()).hexdigest()[:DIGITS]
