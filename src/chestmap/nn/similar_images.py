"""Which image resembles which: codes of 16 x 16 grey values, compared by their cosine (Liu 2019, section 4.3.2)."""

import torch
from jaxtyping import Float, Int64, UInt8
from torch import Tensor
from torch.nn import functional

SIDE = 16
CODE = SIDE * SIDE  # bytes of an image's code


def thumbnails(images: Float[Tensor, "batch 1 height width"]) -> UInt8[Tensor, "batch 256"]:
    """The code that partners are searched by: 16 x 16 means in 0 … 255."""
    return (functional.adaptive_avg_pool2d(images.float(), SIDE) * 255).round().to(torch.uint8).flatten(1)


def nearest(
    thumbs: UInt8[Tensor, "image 256"],
    among: UInt8[Tensor, "other 256"],
    own: Int64[Tensor, "image"] | None = None,
    block: int = 2048,
) -> Int64[Tensor, "image"]:
    """The row of `among` with the largest cosine, leaving out row `own` (-1: none); of equal ones (to fp32) the first.

    Exhaustive, in blocks of a matrix product. Sums of 256 products of bytes stay below 2**24, so fp32 holds them exactly,
    whatever their order and also in TF32: the choice is the same on every machine.
    """
    count = thumbs.shape[0]  # unlike len(), it stays open while a graph is traced
    best = torch.full((count,), -1.0, device=among.device)
    rows = torch.zeros(count, dtype=torch.int64, device=among.device)
    space = torch.empty(min(block, count), min(block, len(among)), device=among.device)
    blocks = [slice(0, count)] if count <= block else [slice(first, first + block) for first in range(0, count, block)]
    for start in range(0, len(among), block):
        others = among[start : start + block].float()
        lengths = torch.linalg.vector_norm(others, dim=1).clamp_min(1)
        for here in blocks:
            some = thumbs[here].float()
            products = torch.mm(some, others.T, out=space[: some.shape[0], : len(others)])
            products.div_(lengths)  # the query's own length changes no choice
            if own is not None:
                itself = own[here] - start
                inside = ((itself >= 0) & (itself < len(others))).nonzero()[:, 0]
                products[inside, itself[inside]] = -1.0
            value, row = products.max(1)
            better = value > best[here]
            best[here] = torch.where(better, value, best[here])
            rows[here] = torch.where(better, row + start, rows[here])
    return rows
