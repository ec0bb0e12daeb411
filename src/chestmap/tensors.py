"""The two nouns that hold tensors: what goes into a network and what comes out of it.

Loaders make a `Batch`, networks return an `Output`. Images are [batch, 1, h, w] in [0, 1]; maps are [batch, finding, h, w]
and never negative.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from chestmap.types import Findings, Frame

if TYPE_CHECKING:
    from chestmap.types import Box


@dataclass(frozen=True, eq=False, kw_only=True)
class Batch:
    """Images on the canvas in [0, 1], or what a frozen trunk made of them; labels are 0, 1 or NaN (unknown); boxes are in image pixels, `frames` lead to the canvas."""

    images: Float[Tensor, "batch channel h w"]
    labels: Float[Tensor, "batch finding"]
    frames: tuple[Frame, ...]
    boxes: tuple[tuple[Box, ...], ...]
    ids: tuple[str, ...]
    findings: Findings
    of: Batch | None = None
    """The batch that this one is a piece of."""
    first: int = 0
    """The row of that batch at which the piece begins."""

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def whole(self) -> Batch:
        """The batch that losses count over: itself, unless it is a piece."""
        return self if self.of is None else self.of

    @property
    def is_known(self) -> Bool[Tensor, "batch finding"]:
        """Marks labels that are known; unknown ones are NaN and take no part in a loss."""
        return ~torch.isnan(self.labels)

    @property
    def boxed(self) -> Float[Tensor, "batch finding"]:
        """1 where the image carries a box of the finding."""
        boxed = torch.zeros_like(self.labels)
        for row, boxes in enumerate(self.boxes):
            for box in boxes:
                boxed[row, self.findings.index(box.finding)] = 1.0
        return boxed

    def masks(self, height: int, width: int) -> Float[Tensor, "batch finding height width"]:
        """The union of a finding's boxes on a grid over the canvas: 1 in cells with their center in a box."""
        masks = self.images.new_zeros((len(self), len(self.findings), height, width), dtype=torch.float32)
        for row, (frame, boxes) in enumerate(zip(self.frames, self.boxes, strict=True)):
            for box in frame.resized((width, height)).to_canvas(boxes):
                x0, y0, x1, y1 = (max(0, math.ceil(value - 0.5)) for value in box.corners)
                masks[row, self.findings.index(box.finding), y0:y1, x0:x1] = 1.0
        return masks

    def to(self, device: torch.device | str, *, non_blocking: bool = False) -> Batch:
        """A copy on another device; boxes and frames stay in memory of the CPU."""
        images = self.images.to(device, non_blocking=non_blocking)
        return replace(self, images=images, labels=self.labels.to(device, non_blocking=non_blocking))

    def rows(self, rows: list[int]) -> Batch:
        """These images alone."""
        return replace(
            self,
            images=self.images[rows],
            labels=self.labels[rows],
            frames=tuple(self.frames[row] for row in rows),
            boxes=tuple(self.boxes[row] for row in rows),
            ids=tuple(self.ids[row] for row in rows),
        )

    def pieces(self, most: int | None) -> list[Batch]:
        """In order, of at most so many images each; the whole where there is no limit."""
        if most is None or len(self) <= most:
            return [self]
        cuts = [slice(first, first + most) for first in range(0, len(self), most)]
        return [
            Batch(
                images=self.images[cut],
                labels=self.labels[cut],
                frames=self.frames[cut],
                boxes=self.boxes[cut],
                ids=self.ids[cut],
                findings=self.findings,
                of=self,
                first=cut.start,
            )
            for cut in cuts
        ]

    def pin_memory(self) -> Batch:
        """A copy in pinned memory, as a loader of torch asks for it."""
        return replace(self, images=self.images.pin_memory(), labels=self.labels.pin_memory())


@dataclass(frozen=True, eq=False)
class Output:
    """What every network returns; maps are raw, non-negative and at the network's own grid."""

    logits: Float[Tensor, "batch finding"]
    maps: Float[Tensor, "batch finding h w"]
