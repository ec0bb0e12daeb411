"""Where a finding usually lies, as the mean of the maps of images that surely show it (Kim 2020, eq. 3)."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from chestmap.nn.cam import normalized

Maps = Float[Tensor, "batch finding h w"]
Masks = Float[Tensor, "finding h w"]


def symmetric(maps: Maps, mirrored: Bool[Tensor, "finding"]) -> Maps:
    """The lower case of eq. 3: H(L) + L for the findings that occur on both sides, L for the others."""
    return torch.where(mirrored[:, None, None], maps.flip(-1) + maps, maps)


class MaskMean:
    """The sum and count in eq. 3, batch by batch."""

    def __init__(self, mirrored: Bool[Tensor, "finding"], least_score: float) -> None:
        self.mirrored, self.least_score = mirrored, least_score
        self.total: Tensor | None = None
        self.count = torch.zeros(len(mirrored), dtype=torch.float64)

    def add(self, evidence: Maps, logits: Float[Tensor, "batch finding"]) -> None:
        confident = (torch.sigmoid(logits.double()) >= self.least_score).double()
        added = torch.einsum("bf,bfhw->fhw", confident, normalized(symmetric(evidence.double(), self.mirrored)))
        self.total = added if self.total is None else self.total + added
        self.count += confident.sum(0)

    def masks(self, level: float) -> Masks:
        """T: what lies below `level` of the way from the least to the greatest value is cleared; all zero without an image."""
        assert self.total is not None
        mean = self.total / self.count.clamp_min(1)[:, None, None]
        return torch.where(normalized(mean) >= level, mean, 0.0).float()
