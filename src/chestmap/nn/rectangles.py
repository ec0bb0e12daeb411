"""From cells' chances to the one rectangle that is expected to overlap best with what they cover.

With p the chance that a cell lies in the box, a rectangle R is expected to share sum(p in R) cells with it, and their union is about
|R| + sum(p) - sum(p in R). The rectangle of the greatest quotient is found among all of the grid, by two matrix products.
"""

import torch
from jaxtyping import Float
from torch import Tensor

Cells = Float[Tensor, "batch finding h w"]


def intervals(cells: int) -> Float[Tensor, "interval cells"]:
    """Every run of cells of a line as a row of ones: cells (cells + 1) / 2 of them."""
    starts, ends = torch.triu_indices(cells, cells).unbind(0)
    place = torch.arange(cells)
    return ((place >= starts[:, None]) & (place <= ends[:, None])).float()


def best_rectangle(
    chances: Cells, down: Float[Tensor, "ydown h"], across: Float[Tensor, "xacross w"], sharpness: float = 1.0
) -> Cells:
    """1 inside the rectangle of the greatest expected IoU, 0 outside; `down` and `across` are the grid's `intervals`.

    `sharpness` is an exponent on the chances: above 1 rectangles become smaller.
    """
    p = chances.float().pow(sharpness)
    inside = down @ p @ across.T  # [batch, finding, y, x]
    area = down.sum(1)[:, None] * across.sum(1)
    expected = inside / (area + p.sum((-2, -1), keepdim=True) - inside).clamp_min(1e-6)
    best = expected.flatten(2).argmax(-1)
    rows, columns = best // len(across), best % len(across)
    return down[rows].unsqueeze(-1) * across[columns].unsqueeze(-2)
