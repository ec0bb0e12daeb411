"""What parts of a batch add up, so that a batch in pieces, or shared out over processes, means the same as a whole one.

Each process averages over its share of a batch, and the gradients of all are averaged. That is the mean over the batch wherever
shares weigh alike; where a loss divides by what it counted (known labels, boxes), or normalizes by statistics, these come from all.
A process may compute its share in pieces; then a loss counts over all of its share, and its terms weigh by the piece's size.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, distributed, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional

_parts = [(1, 1.0)]
"""Processes, and the piece's part of the process's share."""


@contextmanager
def counting_together(processes: int, piece: float = 1.0) -> Iterator[None]:
    """While it lasts, losses are of a piece, computed by every process at the same time; `shared_count` adds up over them."""
    _parts.append((processes, piece))
    try:
        yield
    finally:
        _parts.pop()


def shared_count(count: Tensor, least: float = 1) -> Tensor:
    """What a sum over a piece is divided by, so that the weighted mean over pieces and processes is that over the batch.

    `count` is of all of this process's share and carries no gradient. All processes together count at least `least`.
    """
    processes, piece = _parts[-1]
    if processes == 1:
        return count.clamp_min(least) if piece == 1 else count.clamp_min(least) * piece
    total = count.detach().float().clone()
    distributed.all_reduce(total)
    return total.clamp_min(least) * (piece / processes)


def shared_sum(values: Tensor) -> Tensor:
    """The sum over all processes, for a loss that is not a mean; the gradient is that of this process's part of it."""
    processes = _parts[-1][0]
    if processes == 1:
        return values
    total = values.detach().clone()
    distributed.all_reduce(total)
    return total + processes * (values - values.detach())


def counts_before(count: int, device: torch.device) -> tuple[int, int]:
    """What the processes of lower rank counted, and all processes together."""
    processes = _parts[-1][0]
    if processes == 1:
        return 0, count
    counts, rank = torch.zeros(processes, device=device), distributed.get_rank()
    counts[rank] = count
    distributed.all_reduce(counts)
    every = [int(one) for one in counts.tolist()]
    return sum(every[:rank]), sum(every)


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
    """Replaces a batch norm's `forward`; also what timm's fused norms do after it."""

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
    out, mean, variance, count = _Norm.apply(features.float(), norm.weight, norm.bias, norm.eps)
    if norm.running_mean is not None:
        norm.num_batches_tracked.add_(1)
        share = norm.momentum if norm.momentum is not None else 1 / float(norm.num_batches_tracked)
        norm.running_mean.lerp_(mean, share)
        norm.running_var.lerp_(variance * count / (count - 1).clamp_min(1), share)
    return out.to(features.dtype)


class _Norm(torch.autograd.Function):
    """One message each way: every process's count, means and squares about them, then the sums of gradients that depend on these."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Normalizes by mean and variance of all processes together, weighed by how many values each has."""
        means, variances = torch.batch_norm_update_stats(values, None, None, 0)
        here = torch.cat([means, variances, means.new_tensor([values.numel() / values.shape[1]])])
        gathered = [torch.empty_like(here) for _ in range(distributed.get_world_size())]
        distributed.all_gather(gathered, here)
        means, variances, counts = torch.stack(gathered).split([len(means), len(means), 1], dim=1)
        count = counts.sum()
        mean = (counts * means).sum(0) / count
        variance = (counts * (variances + (means - mean).square())).sum(0) / count
        ctx.save_for_backward(values, weight, mean, variance, count)
        ctx.eps = eps
        out = functional.batch_norm(values, mean, variance, weight, bias, training=False, eps=eps)
        ctx.mark_non_differentiable(mean, variance, count)
        return out, mean, variance, count

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor, *_: Any) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        """With x̂ the normalized values: w/σ · (g − Σg/n − x̂ Σ(g x̂)/n), sums over all processes; of weight and bias this one's."""
        values, weight, mean, variance, count = ctx.saved_tensors
        _, of_weight, of_bias = torch.ops.aten.native_batch_norm_backward(
            gradient, values, weight, mean, variance, None, None, train=False, eps=ctx.eps, output_mask=[False, True, True]
        )
        sums = torch.cat([of_bias, of_weight])
        distributed.all_reduce(sums)
        scale = torch.rsqrt(variance + ctx.eps) * (1 if weight is None else weight)
        shift, slope = (-sums / count).view(2, -1) * scale
        of_values = functional.batch_norm(values, mean, variance, slope, shift, training=False, eps=ctx.eps)
        of_values.addcmul_(gradient, scale.view([1, -1] + [1] * (values.ndim - 2)))
        return of_values, None if weight is None else of_weight, None if weight is None else of_bias, None
