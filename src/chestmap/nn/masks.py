"""Where a finding usually lies, as the mean of the maps of images that surely show it (Kim 2020, eq. 3)."""

from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from chestmap.nn.cam import normalized

Maps = Float[Tensor, "batch finding h w"]
Masks = Float[Tensor, "finding h w"]
WIDE = 0.5
"""A mask that covers more of the canvas hardly shows where a finding lies."""


def symmetric(maps: Maps, mirrored: Bool[Tensor, "finding"]) -> Maps:
    """The lower case of eq. 3: H(L) + L for the findings that occur on both sides, L for the others."""
    return torch.where(mirrored[:, None, None], maps.flip(-1) + maps, maps)


class MaskMean:
    """The sum and count in eq. 3, batch by batch; `least_score` is the lowest score of an image that enters, of all findings or of each."""

    def __init__(self, mirrored: Bool[Tensor, "finding"], least_score: float | Float[Tensor, "finding"]) -> None:
        self.mirrored, self.least_score = mirrored, least_score
        self.total: Tensor | None = None
        self.count = torch.zeros(len(mirrored), dtype=torch.float64)

    def add(self, evidence: Maps, logits: Float[Tensor, "batch finding"]) -> None:
        """Adds the normalized maps of images that surely show each finding."""
        confident = (torch.sigmoid(logits.double()) >= self.least_score).double()
        added = torch.einsum("bf,bfhw->fhw", confident, normalized(symmetric(evidence.double(), self.mirrored)))
        self.total = added if self.total is None else self.total + added
        self.count += confident.sum(0)

    def masks(self, level: float) -> Masks:
        """T: what lies below `level` of the way from the least to the greatest value is cleared; all zero without an image."""
        assert self.total is not None
        mean = self.total / self.count.clamp_min(1)[:, None, None]
        return torch.where(normalized(mean) >= level, mean, 0.0).float()


def least_scores(scores: Float[Tensor, "image finding"], share: float) -> Float[Tensor, "finding"]:
    """Of each finding the score that so large a share of the images reaches, and at least one image."""
    images = len(scores)
    kept = max(1, round(share * images))
    return scores.double().sort(0, descending=True).values[kept - 1]


def mask_facts(
    findings: Sequence[str], mean: MaskMean, masks: Masks, places: Masks
) -> dict[str, dict[str, float | int | None]]:
    """By finding: the maps that its mask is the mean of, the share of the canvas that it covers, and how far it agrees with boxes.

    `places` counts boxes by cell; the correlation with them is None where there is no box or no mask. Boxes only judge masks.
    """
    found = {}
    for row, name in enumerate(findings):
        agrees = None
        if places[row].std(unbiased=False) > 0 and masks[row].std(unbiased=False) > 0:
            agrees = round(torch.corrcoef(torch.stack([masks[row].flatten(), places[row].flatten()]))[0, 1].item(), 4)
        cover = round((masks[row] > 0).float().mean().item(), 4)
        found[name] = {"maps": int(mean.count[row]), "cover": cover, "correlation_with_boxes": agrees}
    return found


def mask_warnings(facts: Mapping[str, Mapping[str, float | int | None]], asked: str) -> list[str]:
    """What a person should know of masks that do nothing, or strengthen nearly everything; `asked` names the images that enter."""
    empty = [name for name, fact in facts.items() if not fact["maps"]]
    wide = [name for name, fact in facts.items() if fact["maps"] and (fact["cover"] or 0) > WIDE]
    said = []
    if empty:
        said.append(
            f"no mask for {', '.join(empty)}: no training image reaches {asked}; lower least_score, or set least_share to the share "
            "of images that are to count"
        )
    if wide:
        said.append(f"masks of {', '.join(wide)} cover more than half of the canvas; raise mask_level")
    return said
