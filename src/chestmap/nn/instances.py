"""Cells as instances: an image shows a finding where at least one cell of a grid does (noisy OR), and boxes label the cells.

Liu 2019 (CIA-Net, eq. 4 and 5) and Li 2018, from whom it takes them, share it. All from logits and in log space: a product over
16,384 cells is neither rounded to 0 nor to 1.

Li 2018 brings 1 - p into [0.98, 1] before the product, and Liu 2019 uses the loss of that paper. It is a prior on the size of
regions: an image has the finding with 1/2 where the probabilities of its cells sum to 34, of 256 cells a region as large as a box.
Without it 18 cells at 1/2 are certainty, so no cell of a trained network need reach 1/2.
"""

import math
from collections.abc import Sequence
from typing import Annotated, Literal

import torch
from jaxtyping import Float, Shaped
from pydantic import Field
from torch import Tensor
from torch.nn import functional

from chestmap.errors import BadSettings
from chestmap.nn.cam import full_precision
from chestmap.nn.process_sums import shared_count
from chestmap.settings import Settings
from chestmap.types import Box, Findings, Frame

Cells = Float[Tensor, "batch finding h w"]
Labels = Shaped[Tensor, "batch finding"]  # 0, 1 or NaN


class InstanceSettings(Settings):
    """How the probabilities of cells become that of an image."""

    form: Literal["squeezed", "plain"] = "squeezed"  # plain: the noisy OR of eq. 5 as it is printed
    squeezed_to: Annotated[float, Field(gt=0, lt=1)] = 0.98  # the least that 1 - p of a cell counts as in the squeezed form
    prior: Annotated[float, Field(gt=0, lt=0.5)] = 0.05  # an image's probability before training

    @property
    def floor(self) -> float:
        """The least factor that a cell may contribute to the product; 0 for the plain form."""
        return self.squeezed_to if self.form == "squeezed" else 0.0

    def start(self, cells: int) -> float:
        """The logit of every cell before training; refused where so few cells could never show a finding."""
        most = 1 - self.floor**cells
        if most < 0.5:
            raise BadSettings(
                f"method.instances: {cells} cells with 1 - p squeezed to [{self.floor:g}, 1] give an image a probability of at "
                f'most {most:.2f}; use a larger canvas, a smaller stride or more patches, or set instances.form = "plain"'
            )
        return cell_logit(self.prior, cells, self.floor)


def log_any(logits: Cells, floor: float = 0.0) -> tuple[Float[Tensor, "batch finding"], Float[Tensor, "batch finding"]]:
    """log(1 - prod q) and log prod q over cells, with 1 - p brought into q in [floor, 1]; their difference is the image's logit.

    With T = -sum log q the second is -T and the first log(1 - exp(-T)). Where T is small it is log T plus a correction, and
    log T a log-sum-exp of log(-log q).
    """
    terms, logs = (
        _plain(full_precision(logits).flatten(2)) if not floor else _squeezed(full_precision(logits).flatten(2), floor)
    )
    total, log_total = terms.sum(-1), logs.logsumexp(-1)
    small, tiny = total < 1, total < 1e-4
    middle, rest = torch.where(small & ~tiny, total, 0.5), torch.where(tiny, total, 0.0)
    correction = torch.where(tiny, rest * (rest / 24 - 0.5), (-torch.expm1(-middle) / middle).log())
    large = torch.where(small, 1.0, total)  # every branch sees numbers in its domain, or its gradient would be NaN
    return torch.where(small, log_total + correction, torch.log1p(-torch.exp(-large))), -total


def _plain(z: Tensor) -> tuple[Tensor, Tensor]:
    """-log(1 - p) of every cell, softplus(z), and its log, which is z - exp(z) / 2 where softplus would round to 0."""
    terms, deep = functional.softplus(z), z < -15
    low = torch.where(deep, z, -15.0)
    return terms, torch.where(deep, low - low.exp() / 2, torch.where(deep, 1.0, terms).log())


def _squeezed(z: Tensor, floor: float) -> tuple[Tensor, Tensor]:
    """-log(1 - x) of every cell with x = (1 - floor) p, and its log: log x plus a series where x is small."""
    share = (1 - floor) * torch.sigmoid(z)
    above = floor + (1 - floor) * torch.sigmoid(-z)  # 1 - x, exact where x is near 1
    large, tiny = share > 0.5, share < 1e-3
    terms = torch.where(large, -above.log(), -torch.log1p(-torch.where(large, 0.5, share)))
    few, more = torch.where(tiny, share, 0.0), torch.where(tiny, 0.5, share)
    rest = torch.where(tiny, few * (0.5 + few * (5 / 24 + few / 8)), (torch.where(tiny, 1.0, terms) / more).log())
    return terms, math.log1p(-floor) - functional.softplus(-z) + rest


def mil_loss(logits: Cells, labels: Labels, floor: float = 0.0) -> Float[Tensor, ""]:
    """The mean of eq. 5 over known (image, finding) pairs; 0 with a zero gradient where all labels are unknown (NaN)."""
    return _mil_sum(logits, labels, floor) / shared_count((~torch.isnan(labels)).sum())


def _mil_sum(logits: Cells, labels: Labels, floor: float) -> Float[Tensor, ""]:
    known = ~torch.isnan(labels)
    present, absent = log_any(logits, floor)
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


def limited_loss(
    cells: Cells, targets: Cells, labels: Labels, floor: float = 0.0
) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
    """What boxes and images say, each summed and divided by the batch's images: Liu 2019 eq. 6, Li 2018.

    A pair of image and finding with a box on the canvas (`targets` of its cells) counts by eq. 4, every other known one by eq. 5;
    a box that augmentation pushed off the canvas has no part.
    """
    boxed = targets.amax((-2, -1)) > 0
    others = torch.where(boxed, torch.nan, labels)
    return _mil_sum(cells, others, floor) / len(cells), box_loss(cells, targets)[boxed].sum() / len(cells)


def cell_logit(prior: float, cells: int, floor: float = 0.0) -> float:
    """The logit of each of so many equal cells that together show a finding with probability `prior`."""
    share = -math.expm1(math.log1p(-prior) / cells) / (1 - floor)
    return math.log(share) - math.log1p(-share)
