"""Maps to masks, regions and boxes, and maps moved between canvas, augmented canvas and image.

All in the continuous pixel convention of `types.py`: a map of h x w cells covers the whole canvas, cell i is [i, i + 1).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

import cv2
import numpy as np
import torch
from jaxtyping import Bool, Float, Shaped
from pydantic import Field
from torch import Tensor
from torch.nn import functional

from chestmap.geometry import Matrix
from chestmap.nn.cam import full_precision, is_flat, normalized
from chestmap.settings import Settings
from chestmap.types import Box, Findings, Frame

Level = Annotated[float, Field(gt=0, le=1)]


class MaskRule(Settings):
    """How a raw map becomes a mask and boxes: levels on the map normalized to [0, 1], `>=`.

    `own` is the paper's rule, `validation` was chosen on boxes of other patients, `oracle` on the test boxes themselves. The
    mask is what reaches the lowest level; with several levels (Wang 2017) every level gives its own boxes.
    """

    name: Literal["own", "validation", "oracle"] = "own"
    levels: tuple[Level, ...] = (0.5,)
    of_finding: Mapping[str, Level] = {}  # where a finding has a level of its own
    keep: Literal["all", "largest"] = "all"
    least_area: Annotated[float, Field(ge=0, lt=1)] = 0.0  # share of the canvas; smaller regions are dropped

    def levels_of(self, finding: str) -> tuple[float, ...]:
        """The levels at which a finding's map is cut: its own where one was chosen."""
        return (self.of_finding[finding],) if finding in self.of_finding else self.levels


@dataclass(frozen=True, eq=False)
class Region:
    """One connected piece of a mask (8 neighbors); corners in cells, half-open."""

    mask: Bool[np.ndarray, "h w"]
    corners: tuple[float, float, float, float]  # x0, y0, x1, y1
    area: int


def masks_at(maps: Shaped[Tensor, "*batch h w"], level: float) -> Bool[Tensor, "*batch h w"]:
    """Where the normalized map is at least `level`; a flat or NaN map gives an empty mask, whatever the level."""
    return (normalized(maps) >= level) & ~is_flat(maps)[..., None, None]


def resized(maps: Float[Tensor, "*batch h w"], width: int, height: int) -> Float[Tensor, "*batch height width"]:
    """Bilinear with `align_corners=False`, as everywhere in chestmap."""
    if maps.shape[-2:] == (height, width):
        return maps
    flat = maps.reshape(-1, 1, *maps.shape[-2:])
    larger = functional.interpolate(flat, (height, width), mode="bilinear", align_corners=False)
    return larger.reshape(*maps.shape[:-2], height, width)


def regions(mask: Bool[np.ndarray, "h w"]) -> tuple[Region, ...]:
    """Connected regions, largest first; of equal ones the upper left."""
    count, numbers, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=8)
    found = []
    for number in range(1, count):
        x, y, width, height, area = map(int, stats[number])
        found.append(Region(numbers == number, (x, y, x + width, y + height), area))
    return tuple(sorted(found, key=lambda region: -region.area))


def boxes_from_maps(
    maps: Float[np.ndarray, "finding h w"],
    scores: Float[np.ndarray, "finding"],
    findings: Findings,
    frame: Frame,
    rule: MaskRule,
) -> tuple[Box, ...]:
    """Boxes in image pixels, clipped to the image, best first within each finding.

    Maps are upsampled to the canvas, cut by the rule, and each kept region gives the box around it. A box's score is the
    finding's score times the region's peak on the normalized map, so the region with the peak carries the finding's score.
    """
    width, height = frame.canvas
    canvas_maps = normalized(resized(torch.from_numpy(np.array(maps, dtype=np.float32)), width, height))
    found: list[Box] = []
    for row, finding in enumerate(findings):
        score, shown = float(scores[row]), canvas_maps[row].numpy()
        of_finding = [
            Box(finding, *region.corners, score * float(shown[region.mask].max()))
            for level in rule.levels_of(finding)
            for region in _kept(regions(shown >= level), rule, width * height)
        ]
        clipped = [inside for box in frame.to_image(of_finding) if (inside := box.clipped(*frame.image))]
        found += sorted(clipped, key=lambda box: -(box.score or 0.0))
    return tuple(found)


def _kept(found: Sequence[Region], rule: MaskRule, canvas_area: int) -> Sequence[Region]:
    large = [region for region in found if region.area >= rule.least_area * canvas_area]
    return large[:1] if rule.keep == "largest" else large


def between(source: Frame, target: Frame) -> Matrix:
    """From the canvas of one frame to the canvas of another frame of the same image: target after the inverse of source.

    A mask stored without augmentation follows an augmented batch by `between(base_frame, frame)`.
    """
    return Frame(target.image, target.canvas, source.inverse).then(target.matrix).matrix


def warp_maps(
    maps: Float[Tensor, "batch finding h w"], matrices: Sequence[Matrix], size: tuple[int, int]
) -> Float[Tensor, "batch finding height width"]:
    """Maps moved by one matrix per image (source pixels to target pixels) onto a target of `size` = (width, height).

    Bilinear at the target's pixel centers. Inside the source the border cells extend to its edge, as in plain upsampling;
    where a target pixel's center falls outside the source there is nothing: zero. From a map to the image itself:
    `warp_maps(maps, [frame.resized((w, h)).inverse], image_size)`.
    """
    maps = full_precision(maps)
    width, height = size
    target = Frame((1.0, 1.0), (1, 1), (1.0, 0.0, 0.0, 0.0, 1.0, 0.0))
    rows = [target.then(matrix).inverse for matrix in matrices]
    back = torch.tensor(rows, dtype=maps.dtype, device=maps.device).reshape(-1, 2, 3)
    x = torch.arange(width, dtype=maps.dtype, device=maps.device) + 0.5
    y = torch.arange(height, dtype=maps.dtype, device=maps.device) + 0.5
    points = torch.stack([*torch.meshgrid(x, y, indexing="xy"), x.new_ones(height, width)], dim=-1)
    source = torch.einsum("bij,hwj->bhwi", back, points)  # x, y in source pixels
    extent = source.new_tensor([maps.shape[-1], maps.shape[-2]])
    inside = ((source >= 0) & (source < extent)).all(-1)
    moved = functional.grid_sample(
        maps, 2 * source / extent - 1, mode="bilinear", padding_mode="border", align_corners=False
    )
    return moved * inside[:, None]
