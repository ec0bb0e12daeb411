"""Holds the images that one loader reads, with their labels, boxes and places on the canvas.

Made from a source, its pack and the ids of one part of a split. Recipes read its images through a `Loader`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import cached_property
from hashlib import sha256
from typing import Any

import numpy as np
from jaxtyping import Bool, Float32, Int64

from chestmap.datasets.source import Source
from chestmap.errors import BadInput, BadModel
from chestmap.packs.pack import Pack
from chestmap.types import Box, Findings, Frame


@dataclass(frozen=True, eq=False, kw_only=True)
class Part:
    """Some images of a source with their pixels in a pack; `rows` are rows of the source.

    `through` is what a loader sends every batch through once it is read and augmented, such as an alignment; it returns one of the
    same images. Refused where the pack lacks one of them, or was made in another image space than the source's boxes.
    """

    source: Source
    pack: Pack
    rows: Int64[np.ndarray, "image"]
    name: str = ""
    through: Callable[[Any], Any] | None = None
    views: Any = None  # `packs.views.Views`, kept features that are read in place of pixels; its module needs torch

    def __post_init__(self) -> None:
        if self.pack.source != self.source.name:
            raise BadModel(
                f"{self.pack.folder}: holds images of {self.pack.source}, not of {self.source.name}; pack it elsewhere"
            )
        sizes = self.source.images[self.rows].select("width", "height").to_numpy()
        state = self.pack.state[self.pack_rows]
        packed = np.stack([state["width"], state["height"]], axis=1)
        wrong = np.flatnonzero((~np.isnan(sizes.astype(np.float64)) & (sizes != packed)).any(axis=1))
        if len(wrong):
            raise BadModel(
                f"{self.pack.folder}: {self.ids[wrong[0]]} was packed as {packed[wrong[0]]} pixels, {self.source.name} says "
                f"{sizes[wrong[0]]}; pack the source again"
            )

    def __len__(self) -> int:
        return len(self.rows)

    @classmethod
    def of(cls, source: Source, pack: Pack, ids: Iterable[str], name: str = "") -> Part:
        """The images named, without those that the pack has set aside."""
        return cls(source=source, pack=pack, rows=source.rows(one for one in ids if one not in pack.set_aside), name=name)

    @property
    def findings(self) -> Findings:
        """The findings, in the order of the label columns."""
        return self.source.findings

    @cached_property
    def ids(self) -> tuple[str, ...]:
        """Image ids, in the order of the part's rows."""
        return tuple(self.source.images["image_id"][self.rows].to_list())

    @cached_property
    def pack_rows(self) -> Int64[np.ndarray, "image"]:
        """Row numbers of the images in the pack."""
        return self.pack.rows(self.ids)

    @cached_property
    def labels(self) -> Float32[np.ndarray, "image finding"]:
        """0, 1 or NaN (unknown), rows as `ids`."""
        return self.source.known_labels(self.rows)

    def boxes(self, position: int) -> tuple[Box, ...]:
        """In image pixels."""
        return self.source.boxes.get(self.ids[position], ())

    @cached_property
    def boxed(self) -> Bool[np.ndarray, "image finding"]:
        """True where an image carries a box of the finding."""
        boxed = np.zeros((len(self), len(self.findings)), dtype=bool)
        for position in range(len(self)):
            for box in self.boxes(position):
                boxed[position, self.findings.index(box.finding)] = True
        return boxed

    @cached_property
    def fingerprint(self) -> str:
        """Changes with the source's table, the pack's pixels, the choice and order of images and the walk; not with the name."""
        digest = sha256(f"{self.source.fingerprint}|{self.pack.fingerprint}|".encode())
        if self.pack.walk.changes_order:
            digest.update(f"{self.pack.walk}|".encode())
        if self.views is not None:
            digest.update(f"{self.views.fingerprint}|".encode())
        digest.update("\n".join(self.ids).encode())
        return digest.hexdigest()[:16]

    def select(self, chosen: np.ndarray) -> Part:
        """Fewer images, by a mask over this part or by positions in it."""
        if chosen.dtype == bool and len(chosen) != len(self):
            raise BadInput(f"{self.name}: a mask of {len(chosen)} cannot choose from {len(self)} images")
        return replace(self, rows=self.rows[chosen])

    def base_frame(self, image_id: str) -> Frame:
        """Where the image lies on the canvas before augmentation."""
        return self.pack.frame(self.pack.row_of[image_id])
