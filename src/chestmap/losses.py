"""The losses of the papers on plain tensors, for a training loop of your own.

Logits and labels are [batch finding]; a label is 0, 1 or NaN (unknown). Maps are [batch finding h w], raw and non-negative.

Examples:
    >>> import torch
    >>> from chestmap import losses
    >>> logits, labels = torch.zeros(2, 3), torch.tensor([[1.0, 0.0, float("nan")], [0.0, 1.0, 1.0]])
    >>> positive, maps = torch.rand(2, 1, 8, 8), torch.rand(2, 3, 8, 8)
    >>> loss = losses.known_bce(logits, labels) + losses.bound(positive, maps, labels) + losses.union(positive, maps, labels)
    >>> loss.ndim
    0
    >>> losses.mil(torch.zeros(2, 3, 4, 4), labels) > 0
    tensor(True)
    >>> losses.amse(maps, torch.zeros(2, 3, 16, 16), labels == 1).ndim
    0
    >>> float(losses.preservation([torch.zeros(2, 8, 4, 4)], [torch.zeros(2, 8, 4, 4)]))
    0.0
    >>> features, weights = torch.rand(2, 8, 4, 4), torch.rand(3, 8)
    >>> maps_seen, left = losses.erase(features, weights, torch.ones(2, 3, 4, 4))
    >>> left.shape
    torch.Size([2, 3, 4, 4])
"""

from chestmap.methods.attention_mining import preservation_loss
from chestmap.methods.ham import amse_loss, bound_loss, positive_labels, union_loss
from chestmap.nn.erasing import aggregate, erase
from chestmap.nn.instances import mil_loss
from chestmap.nn.losses import balanced_bce, known_bce

bound = bound_loss
union = union_loss
amse = amse_loss
mil = mil_loss
preservation = preservation_loss

__all__ = [
    "aggregate",
    "amse",
    "balanced_bce",
    "bound",
    "erase",
    "known_bce",
    "mil",
    "positive_labels",
    "preservation",
    "union",
]
