"""From features to one vector or logit per image.

`mean`, `max` and `lse` pool features and leave the linear layer to follow; `pcam` weighs positions for each finding by the
linear layer's own verdict, so it needs the weights.
"""

import math
from collections.abc import Callable
from typing import Literal

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from chestmap.nn.cam import class_maps, full_precision, without_autocast

Pooling = Literal["mean", "max", "lse", "pcam"]
Features = Float[Tensor, "batch channel h w"]
Pooled = Float[Tensor, "batch channel"]


def mean(features: Features) -> Pooled:
    """The mean over positions, in full precision: what a classifier of pooled features sees."""
    return full_precision(features).mean((-2, -1))


def maximum(features: Features) -> Pooled:
    """The maximum over positions: one strong cell decides."""
    return full_precision(features).amax((-2, -1))


def log_sum_exp(features: Features, r: float = 6.0) -> Pooled:
    """(1 / r) log mean exp(r x), between mean (r near 0) and maximum (r large); Sun 2016, with the r = 6 of HAM.

    In fp32 or fp64, by log-sum-exp with the maximum taken out, so that features of any size are safe.
    """
    scaled = full_precision(features) * r
    return (scaled.logsumexp((-2, -1)) - math.log(scaled[0, 0].numel())) / r


def pcam(
    features: Features, weight: Float[Tensor, "finding channel"], bias: Tensor | None = None
) -> Float[Tensor, "batch finding"]:
    """Logits of probabilistic-CAM pooling (Ye 2020, arXiv 2005.14480).

    Position scores s = w x + b, attention a = sigmoid(s) / sum sigmoid(s), pooled features sum a x, logit w (sum a x) + b. As
    the attention sums to 1 the logit is sum a s, and no pooled features per finding are needed.
    """
    scores = class_maps(features, weight, relu=False)
    if bias is not None:
        scores = scores + full_precision(bias)[:, None, None]
    scores = scores.flatten(2)
    attention = functional.logsigmoid(scores).softmax(-1)  # also where every sigmoid would round to 0
    return (attention * scores).sum(-1)


POOLINGS: dict[str, Callable[[Features], Pooled]] = {"mean": mean, "max": maximum, "lse": log_sum_exp}


def pooled(features: Features, pooling: Pooling, r: float = 6.0) -> Pooled:
    """Features pooled by name; `pcam` has no such vector (it has one for each finding)."""
    return log_sum_exp(features, r) if pooling == "lse" else POOLINGS[pooling](features)


def pooled_logits(features: Features, linear: nn.Linear, pooling: Pooling, r: float = 6.0) -> Float[Tensor, "batch finding"]:
    """Pooling by name, then the linear layer."""
    if pooling == "pcam":
        return pcam(features, linear.weight, linear.bias)
    with without_autocast(features):
        return linear(pooled(features, pooling, r))
