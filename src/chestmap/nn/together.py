"""What several processes that train together must add up, so that a batch shared out among them means the same as on one.

Each process averages over its share of a batch, and the gradients of all are averaged. That is the mean over the batch wherever
shares weigh alike; where a loss divides by what it counted (known labels, boxes), or normalizes by statistics, these come from all.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, distributed, nn
from torch.nn import functional

_processes = [1]


@contextmanager
def counting_together(processes: int) -> Iterator[None]:
    """While it lasts, losses are computed by every process at the same time, and `shared_count` adds up over them."""
    _processes.append(processes)
    try:
        yield
    finally:
        _processes.pop()


def shared_count(count: Tensor, least: float = 1) -> Tensor:
    """What a sum over this process's share is divided by, so that the mean over processes is that over the batch.

    Of all processes together at least `least`, divided by their number; `count` carries no gradient.
    """
    if _processes[-1] == 1:
        return count.clamp_min(least)
    total = count.detach().float().clone()
    distributed.all_reduce(total)
    return total.clamp_min(least) / _processes[-1]


@contextmanager
def synchronized_norms(module: nn.Module, still: set[nn.Module]) -> Iterator[None]:
    """While it lasts, batch norms of `module` take their statistics over all processes, except those in `still`.

    The modules stay what they are, with their names and states. Torch's own synchronization serves GPUs alone.
    """
    norms = [one for one in module.modules() if isinstance(one, nn.modules.batchnorm._BatchNorm) and one not in still]
    for norm in norms:
        setattr(norm, "forward", _Forward(norm))  # noqa: B010 -- a method is not typed as one that can be replaced
    try:
        yield
    finally:
        for norm in norms:
            del norm.forward


class _Forward:
    """What stands in for a batch norm's `forward`; also what timm's fused norms do after it."""

    def __init__(self, norm: Any) -> None:
        self.norm = norm
        self.after = [step for step in (getattr(norm, "drop", None), getattr(norm, "act", None)) if step is not None]
        self.on_gpu = nn.SyncBatchNorm(norm.num_features, norm.eps, norm.momentum, norm.affine, norm.track_running_stats)
        for name in ("weight", "bias", "running_mean", "running_var", "num_batches_tracked"):
            setattr(self.on_gpu, name, getattr(norm, name))  # the same tensors

    def __call__(self, features: Tensor) -> Tensor:
        self.on_gpu.train(self.norm.training)
        if features.is_cuda or not (self.norm.training or self.norm.running_mean is None):
            out = self.on_gpu(features) if features.is_cuda else _still(self.norm, features)
        else:
            out = _normalized(self.norm, features)
        for step in self.after:
            out = step(out)
        return out


def _still(norm: Any, features: Tensor) -> Tensor:
    return functional.batch_norm(
        features, norm.running_mean, norm.running_var, norm.weight, norm.bias, training=False, eps=norm.eps
    )


def _normalized(norm: Any, features: Tensor) -> Tensor:
    """Batch norm over the positions of all processes; running statistics move as torch's do, by the unbiased variance."""
    values = features.float()
    axes, shape = [0, *range(2, values.ndim)], [1, -1] + [1] * (values.ndim - 2)
    here = torch.cat([values.sum(axes), values.new_tensor([values.numel() / values.shape[1]])])
    sums = _Sum.apply(here)
    count = sums[-1].detach()
    mean = sums[:-1] / count
    centered = values - mean.view(shape)
    variance = _Sum.apply(centered.square().sum(axes)) / count
    if norm.running_mean is not None:
        norm.num_batches_tracked.add_(1)
        share = norm.momentum if norm.momentum is not None else 1 / float(norm.num_batches_tracked)
        norm.running_mean.lerp_(mean.detach(), share)
        norm.running_var.lerp_(variance.detach() * count / (count - 1).clamp_min(1), share)
    out = centered * torch.rsqrt(variance + norm.eps).view(shape)
    if norm.weight is not None:
        out = out * norm.weight.view(shape) + norm.bias.view(shape)
    return out.to(features.dtype)


class _Sum(torch.autograd.Function):
    """Over all processes, of values and, on the way back, of gradients."""

    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Any:  # noqa: ARG004 -- torch's signature
        total = values.clone()
        distributed.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:  # noqa: ARG004 -- torch's signature
        total = gradients[0].clone()
        distributed.all_reduce(total)
        return total
