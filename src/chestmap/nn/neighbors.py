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
    lengths = among.float().square().sum(1).sqrt().clamp_min(1)
    space = torch.empty(min(block, len(thumbs)), min(block, len(among)), device=among.device)
    chosen = []
    for first in range(0, len(thumbs), block):
        queries = thumbs[first : first + block].float()
        best = queries.new_full((len(queries),), -1.0)
        rows = torch.zeros(len(queries), dtype=torch.int64, device=queries.device)
        for start in range(0, len(among), block):
            others = among[start : start + block].float()
            products = torch.mm(queries, others.T, out=space[: len(queries), : len(others)])
            products.div_(lengths[start : start + block])  # the query's own length changes no choice
            if own is not None:
                here = own[first : first + block] - start
                inside = ((here >= 0) & (here < len(others))).nonzero()[:, 0]
                products[inside, here[inside]] = -1.0
            value, row = products.max(1)
            better = value > best
            best, rows = torch.where(better, value, best), torch.where(better, row + start, rows)
        chosen.append(rows)
    return torch.cat(chosen)
