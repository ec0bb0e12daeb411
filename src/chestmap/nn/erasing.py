"""Erasing: take away what a map shows most strongly, and see what it shows next (Cai 2018, eq. 7 and 8; after Wei 2017).

A mask is 1 (or True) where evidence counts and 0 where it was erased. Maps and masks are [batch finding h w]; every finding has
its own mask, and all findings are done at once.

Erasing works on class maps alone: at a position, (X ⊙ M) w and M (X w) are the same number, so the erased feature maps, one
for each finding, are never made.
"""

from collections.abc import Sequence

import cv2
import numpy as np
import torch
from jaxtyping import Bool, Float, Shaped
from torch import Tensor
from torch.nn import functional

from chestmap.nn.cam import class_maps, full_precision, is_flat, normalized

LEVEL = 0.5  # of a map normalized to [0, 1]: what reaches it is binarized to 1 (section 3.2)

Maps = Float[Tensor, "*batch h w"]
Masks = Shaped[Tensor, "*batch h w"]


def erase(
    features: Float[Tensor, "batch channel h w"],
    weights: Float[Tensor, "finding channel"],
    mask: Shaped[Tensor, "batch finding h w"],
    level: float = LEVEL,
    *,
    relu: bool = False,
) -> tuple[Float[Tensor, "batch finding h w"], Shaped[Tensor, "batch finding h w"]]:
    """One mining step: H_t = (X ⊙ M_{t-1}) w of eq. 7, signed unless `relu`, and M_t, from which its peak's region is gone.

    `mask` is M_{t-1}, ones at first; M_t has its dtype. Gradients flow through H_t, never through the choice of the region.
    """
    maps = class_maps(features, weights, relu=relu) * mask  # eq. 7
    return maps, without_peak(maps, mask, level)


def without_peak(maps: Maps, mask: Masks, level: float = LEVEL) -> Masks:
    """The mask with 0 in the region of each map's peak; unchanged for a map that is flat or not finite."""
    gone = peak_region(maps, level)
    return mask & ~gone if mask.dtype == torch.bool else mask.masked_fill(gone, 0)


def aggregate(maps: Sequence[Maps] | Shaped[Tensor, "step *batch h w"], masks: Sequence[Masks] | Tensor) -> Maps:
    """H_f of eq. 8 from H_1 … H_T and M_1 … M_T: the mean over steps of H_t, filled where erased with what was seen there before.

    `masks[t]` is the mask after the step that gave `maps[t]`; the last one takes no part and may be left out.

    Where one network gave every H_t from the same features, H_t = M_{t-1} ⊙ H_1 and the sum is H_1 again, whatever the masks:
    steps find something new only where the network learned in between, or where each map is scaled first (`mined`).
    """
    total = filled = torch.zeros_like(maps[0])
    for step in range(len(maps)):
        total = total + maps[step] + filled
        if step + 1 < len(maps):
            filled = filled + maps[step] * (1 - masks[step].to(total.dtype))
    return total / len(maps)


def mined(maps: Maps, steps: int = 3, level: float = LEVEL) -> Float[Tensor, "*batch h w"]:
    """Erasing without learning: finished maps of any network, searched `steps` times; in [0, 1], a flat map stays zero.

    Each step's map is scaled to [0, 1] before eq. 8, so a second region counts although it is weaker than the first.
    """
    maps = full_precision(maps)
    mask, scaled, masks = torch.ones_like(maps, dtype=torch.bool), [], []
    for _ in range(steps):
        seen = maps * mask
        scaled.append(normalized(seen) * mask)
        mask = without_peak(seen, mask, level)
        masks.append(mask)
    return aggregate(scaled, masks)


@torch.no_grad()
def peak_region(maps: Maps, level: float = LEVEL) -> Bool[Tensor, "*batch h w"]:
    """The connected region (8 neighbors) of the map normalized and cut at `level` that holds the greatest value.

    Where several positions share the greatest value, the regions of all of them, so that a mirrored map gives the mirrored
    region; empty for a map that is flat or not finite.
    """
    above = (normalized(maps) >= level) & ~is_flat(maps)[..., None, None]
    peak = above & (maps == maps.amax((-2, -1), keepdim=True))
    traced = torch.compiler.is_exporting() or torch.compiler.is_compiling()
    return _spread(peak, above) if traced else _labeled(peak, above)


def _labeled(seeds: Bool[Tensor, "*batch h w"], mask: Bool[Tensor, "*batch h w"]) -> Bool[Tensor, "*batch h w"]:
    """Regions of the mask that hold a seed. All maps are stacked in one picture, an empty row between them, so
    one call labels them, in time that does not depend on the regions' shape; for a CUDA tensor this copies a few bytes.
    """
    height, width = mask.shape[-2:]
    tall = functional.pad(mask.reshape(-1, height, width), (0, 0, 0, 1)).view(torch.uint8).cpu().numpy()
    count, labels = cv2.connectedComponents(tall.reshape(-1, width), connectivity=8, ltype=cv2.CV_32S)
    labels = np.asarray(labels, dtype=np.int32).reshape(-1, height + 1, width)[:, :height]
    chosen = np.zeros(count, dtype=bool)
    chosen[labels[seeds.reshape(-1, height, width).cpu().numpy()]] = True
    chosen[0] = False
    return torch.from_numpy(chosen[labels]).reshape(mask.shape).to(mask.device)


def _spread(seeds: Bool[Tensor, "*batch h w"], mask: Bool[Tensor, "*batch h w"]) -> Bool[Tensor, "*batch h w"]:
    """The same in tensors alone, for graphs: h + w rounds of growing by one cell, which only a winding region outlasts."""
    grown, inside = seeds.float(), mask.float()
    for _ in range(sum(mask.shape[-2:])):
        grown = functional.max_pool2d(grown, 3, stride=1, padding=1) * inside
    return grown > 0
