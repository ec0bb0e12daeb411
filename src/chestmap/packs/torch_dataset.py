"""Gives images of a source to a training loop of one's own, as torch's DataLoader takes them.

For users who train outside of chestmap: `chestmap.Dataset` is this class. Images are letterboxed to a square and lie in [0,
1].
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.utils.data import Dataset as TorchDataset

from chestmap.datasets.source import Source
from chestmap.datasets.split import split_of
from chestmap.errors import BadInput, did_you_mean
from chestmap.packs.build import PackSettings, make_pack, open_pack, pack_place
from chestmap.packs.part import Part

Item = tuple[Float[Tensor, "1 _ _"], Float[Tensor, "_"], Float[Tensor, "_ 5"]]
"""Image, labels and boxes; items of a batch differ in their counts of boxes."""


class Dataset(TorchDataset[Item]):
    """Gives (image, labels, boxes) of each image of a part; all images without a `part`.

    The image is [1, size, size] in [0, 1], letterboxed. Labels are 0, 1 or NaN (unknown). A row of boxes is the number of the finding,
    then x0, y0, x1, y1 in pixels of that image. Images are decoded once, into `cache`; those that cannot be read are left out.

    Examples:
        >>> import chestmap
        >>> source = chestmap.Source.open("folder", "films", labels="labels.csv", boxes="boxes.csv")
        >>> films = chestmap.Dataset(source, part="train", size=32)
        >>> image, labels, boxes = films[0]
        >>> tuple(image.shape), tuple(labels.shape), boxes.shape[1]
        ((1, 32, 32), (3,), 5)
    """

    def __init__(
        self,
        source: Source,
        part: str | None = None,
        *,
        split: str = "patients",
        size: int = 256,
        cache: str | Path = "chestmap-cache",
    ) -> None:
        self.source, self.settings = source, PackSettings(width=size, height=size)
        self.folder = pack_place(Path(cache), source, self.settings)
        pack = make_pack(source, self.folder, self.settings, progress=False)
        self.ids = Part.of(source, pack, _ids(source, part, split)).ids

    @cached_property
    def _part(self) -> Part:
        return Part.of(self.source, open_pack(self.folder, self.source, self.settings), self.ids)

    def __getstate__(self) -> dict[str, Any]:
        """Without pixels: a worker opens the pack itself."""
        return {key: value for key, value in vars(self).items() if key != "_part"}

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, position: int) -> Item:
        part = self._part
        row = part.pack_rows[[position]]
        image = torch.from_numpy(part.pack.pixels(row)[0].copy())[None].float() / 255
        boxes = part.pack.frame(row[0]).to_canvas(part.boxes(position))
        rows = [[float(part.findings.index(box.finding)), *box.corners] for box in boxes]
        return image, torch.from_numpy(part.labels[position].copy()), torch.tensor(rows).reshape(-1, 5)

    @staticmethod
    def collate(items: Sequence[Item]) -> tuple[Tensor, Tensor, list[Tensor]]:
        """Stacks images and labels of a batch; boxes stay a list. For `DataLoader(films, collate_fn=films.collate)`."""
        images, labels, boxes = zip(*items, strict=True)
        return torch.stack(images), torch.stack(labels), list(boxes)


def _ids(source: Source, part: str | None, split: str) -> Sequence[str]:
    if part is None:
        return source.ids
    parts = split_of(source, split).parts
    if part not in parts:
        raise BadInput(f"part {part!r}: allowed: {', '.join(parts)}{did_you_mean(part, parts)}")
    return parts[part]
