"""Losses that several papers use.

`among` are the labels of the whole batch, where `labels` are those of a piece of it.
"""

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from chestmap.nn.cam import full_precision
from chestmap.nn.process_sums import shared_count

_FEW = 1e-3  # of labels, soft ones included; with fewer there is nothing to average


def known_bce(
    logits: Float[Tensor, "batch finding"],
    labels: Float[Tensor, "batch finding"],
    among: Float[Tensor, "_ finding"] | None = None,
) -> Float[Tensor, ""]:
    """Binary cross entropy averaged over the known labels; 0 with a zero gradient where all are unknown (NaN)."""
    known = ~torch.isnan(labels)
    total = functional.binary_cross_entropy_with_logits(
        full_precision(logits)[known], labels.to(full_precision(logits).dtype)[known], reduction="sum"
    )
    return total / shared_count((~torch.isnan(labels if among is None else among)).sum())


def balanced_bce(
    logits: Float[Tensor, "batch finding"],
    labels: Float[Tensor, "batch finding"],
    among: Float[Tensor, "_ finding"] | None = None,
) -> Float[Tensor, ""]:
    """W-CEL of Wang 2017: positive and negative labels of the batch weigh the same in sum.

    With their factors (|P| + |N|) / |P| and (|P| + |N|) / |N|, over |P| + |N| terms: the mean over positives plus the mean over
    negatives, of all findings together. A soft label counts as both in its share; unknown labels (NaN) count as neither.
    """
    known = ~torch.isnan(labels)
    scores = full_precision(logits)[known]
    positive = labels[known].to(scores.dtype)
    counted = positive if among is None else among[~torch.isnan(among)].to(scores.dtype)
    terms = functional.softplus(-scores) * positive / shared_count(counted.sum(), _FEW)
    terms = terms + functional.softplus(scores) * (1 - positive) / shared_count((1 - counted).sum(), _FEW)
    return terms.sum()
