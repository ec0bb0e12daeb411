"""Class maps from linear weights, and what is made of them: normalized maps and soft masks.

Computed in fp32 (fp64 stays fp64) under any autocast: min-max normalization divides by a range, and a slope of 100 turns
the 8 bits of bf16 into steps of 0.1. At 1/8 of the input this costs 0.02 % of a HAM step.
"""

import math
from contextlib import AbstractContextManager, nullcontext

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional

ALPHA, BETA = 100.0, 0.4  # slope and middle of HAM's soft mask, eq. 2
_TINY = 1e-8  # a range below this is no signal


def full_precision(tensor: Tensor) -> Tensor:
    """The tensor in fp32, or in fp64 where it is that already."""
    return tensor if tensor.dtype == torch.float64 else tensor.float()


def without_autocast(tensor: Tensor) -> AbstractContextManager[object]:
    """Where products keep the precision of their operands; the meta device knows no autocast."""
    return nullcontext() if tensor.is_meta else torch.autocast(tensor.device.type, enabled=False)


def class_maps(
    features: Float[Tensor, "batch channel h w"], weight: Float[Tensor, "finding channel"], *, relu: bool = True
) -> Float[Tensor, "batch finding h w"]:
    """CAM: each finding's linear weight applied at every position (HAM eq. 1); without `relu` the signed evidence."""
    features = full_precision(features)
    with without_autocast(features):
        maps = functional.conv2d(features, weight.to(features.dtype)[:, :, None, None])
    return maps.relu() if relu else maps


def is_flat(maps: Float[Tensor, "*batch h w"]) -> Bool[Tensor, "*batch"]:
    """Which maps point nowhere: constant to within rounding, or holding a value that is not finite."""
    low, high = _extremes(full_precision(maps.detach()))
    span = high - low
    signal = (span > _TINY) & (span > 1e-6 * torch.maximum(low.abs(), high.abs())) & torch.isfinite(span)
    return ~signal[..., 0, 0]


def _extremes(maps: Tensor) -> tuple[Tensor, Tensor]:
    return maps.amin((-2, -1), keepdim=True), maps.amax((-2, -1), keepdim=True)


def normalized(maps: Float[Tensor, "*batch h w"]) -> Float[Tensor, "*batch h w"]:
    """Each map brought to [0, 1] by its own minimum and maximum; a flat map gives zeros.

    The gradient flows through the minimum and the maximum as the formula has them (shared where several positions tie), so
    it is the true one: raising the peak lowers every other position. A flat map gets a gradient of zero.
    """
    flat = is_flat(maps)[..., None, None]
    maps = torch.where(flat, 0.0, full_precision(maps))  # first: a NaN would come back through its extremes
    low, high = _extremes(maps)
    return (maps - low) / torch.where(flat, 1.0, high - low)


def soft_mask(maps: Float[Tensor, "*batch h w"], alpha: float = ALPHA, beta: float = BETA) -> Float[Tensor, "*batch h w"]:
    """T(M) of HAM eq. 2: a steep sigmoid of the map normalized to [0, 1]. Near 1 where a map exceeds `beta` of its range."""
    return torch.sigmoid(alpha * (normalized(maps) - beta))


def level_where(value: float, alpha: float = ALPHA, beta: float = BETA) -> float:
    """The height of the normalized map at which T(M) is `value`: cutting T there and cutting the map here is the same."""
    return beta + math.log(value / (1 - value)) / alpha
