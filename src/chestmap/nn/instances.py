"""Cells as instances: an image shows a finding where at least one cell of a grid does (noisy OR), and boxes label the cells.

Liu 2019 (CIA-Net, eq. 4 and 5) and Li 2018, from whom it takes them, share it. All from logits and in log space: a product over
16,384 cells is neither rounded to 0 nor to 1.
"""

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float, Shaped
from torch import Tensor
from torch.nn import functional

from chestmap.nn.cam import full_precision
from chestmap.nn.process_sums import shared_count
from chestmap.types import Box, Findings, Frame

Cells = Float[Tensor, "batch finding h w"]
Labels = Shaped[Tensor, "batch finding"]  # 0, 1 or NaN


def log_any(logits: Cells) -> tuple[Float[Tensor, "batch finding"], Float[Tensor, "batch finding"]]:
    """log(1 - prod(1 - p)) and log prod(1 - p) over cells; their difference is the image's logit.

    With T = sum softplus(z) the second is -T and the first log(1 - exp(-T)). Where T is small it is log T plus a correction,
    and log T a log-sum-exp of log softplus(z), which is z - exp(z) / 2 where softplus would round to 0.
    """
    z = full_precision(logits).flatten(2)
    terms = functional.softplus(z)
    total = terms.sum(-1)
    deep = z < -15
    low = torch.where(deep, z, -15.0)
    log_total = torch.where(deep, low - low.exp() / 2, torch.where(deep, 1.0, terms).log()).logsumexp(-1)
    small, tiny = total < 1, total < 1e-4
    middle, rest = torch.where(small & ~tiny, total, 0.5), torch.where(tiny, total, 0.0)
    correction = torch.where(tiny, rest * (rest / 24 - 0.5), (-torch.expm1(-middle) / middle).log())
    large = torch.where(small, 1.0, total)  # every branch sees numbers in its domain, or its gradient would be NaN
    return torch.where(small, log_total + correction, torch.log1p(-torch.exp(-large))), -total


def mil_loss(logits: Cells, labels: Labels) -> Float[Tensor, ""]:
    """The mean of eq. 5 over known (image, finding) pairs; 0 with a zero gradient where all labels are unknown (NaN)."""
    return _mil_sum(logits, labels) / shared_count((~torch.isnan(labels)).sum())


def _mil_sum(logits: Cells, labels: Labels) -> Float[Tensor, ""]:
    known = ~torch.isnan(labels)
    present, absent = log_any(logits)
    truth = labels[known].to(present.dtype)
    return -(truth * present[known] + (1 - truth) * absent[known]).sum()


def cell_targets(
    boxes: Sequence[Sequence[Box]], frames: Sequence[Frame], findings: Findings, grid: tuple[int, int]
) -> Float[Tensor, "batch finding h w"]:
    """The y of eq. 4, on a (width, height) grid over the frames' canvas: 1 in cells that a box overlaps, however little."""
    width, height = grid
    targets = torch.zeros(len(frames), len(findings), height, width)
    for row, (frame, of_image) in enumerate(zip(frames, boxes, strict=True)):
        for box in frame.resized(grid).to_canvas(of_image):
            x0, y0, x1, y1 = (
                round(value, 6) for value in box.corners
            )  # a box that ends where a cell begins does not overlap
            rows, columns = (
                slice(max(0, math.floor(y0)), max(0, math.ceil(y1))),
                slice(max(0, math.floor(x0)), max(0, math.ceil(x1))),
            )
            targets[row, findings.index(box.finding), rows, columns] = 1.0
    return targets


def box_loss(logits: Cells, targets: Cells) -> Float[Tensor, "batch finding"]:
    """What eq. 4 sums: binary cross entropy summed over the cells of each image and finding."""
    logits = full_precision(logits)
    return functional.binary_cross_entropy_with_logits(logits, targets.to(logits.dtype), reduction="none").sum((-2, -1))


def limited_loss(cells: Cells, targets: Cells, labels: Labels) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
    """What boxes and images say, each summed and divided by the batch's images: Liu 2019 eq. 6, Li 2018.

    A pair of image and finding with a box on the canvas (`targets` of its cells) counts by eq. 4, every other known one by eq. 5;
    a box that augmentation pushed off the canvas has no part.
    """
    boxed = targets.amax((-2, -1)) > 0
    others = torch.where(boxed, torch.nan, labels)
    return _mil_sum(cells, others) / len(cells), box_loss(cells, targets)[boxed].sum() / len(cells)


def cell_logit(prior: float, cells: int) -> float:
    """The logit of each of so many equal cells that together show a finding with probability `prior`."""
    return math.log(math.expm1(-math.log1p(-prior) / cells))
