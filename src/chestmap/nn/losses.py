"""Losses that several papers use."""

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from chestmap.nn.cam import full_precision


def known_bce(logits: Float[Tensor, "batch finding"], labels: Float[Tensor, "batch finding"]) -> Float[Tensor, ""]:
    """Binary cross entropy averaged over the known labels; 0 with a zero gradient where all are unknown (NaN)."""
    known = ~torch.isnan(labels)
    total = functional.binary_cross_entropy_with_logits(
        full_precision(logits)[known], labels.to(full_precision(logits).dtype)[known], reduction="sum"
    )
    return total / known.sum().clamp_min(1)
