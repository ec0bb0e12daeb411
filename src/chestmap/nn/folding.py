"""Batch norm folded into the convolution before it: the same function of an image, with fewer passes over memory.

Which norm follows which convolution is watched while one small image goes through, so any network can be folded, whatever its
modules are called. Only what an evaluating network computes is kept: a folded network can't be trained.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

SIDE = 64
"""Of the image that is watched, in pixels: which layer follows which does not depend on it."""


class _Watched(TorchFunctionMode):
    """Who makes and who reads each tensor; tensors are kept, so that no identity is used twice."""

    def __init__(self) -> None:
        super().__init__()
        self.convolved: dict[int, list[Tensor]] = {}  # outputs by the identity of the weight
        self.normed: dict[int, list[Tensor]] = {}  # inputs by the identity of the running mean
        self.readers: dict[int, int] = {}
        self.kept: list[Any] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = dict(kwargs or {})
        result = func(*args, **given)
        if not _tensors(result):
            return result  # a shape or a type was asked for
        inputs = _tensors([args, given])
        self.kept.append((inputs, result))
        for tensor in inputs:
            self.readers[id(tensor)] = self.readers.get(id(tensor), 0) + 1
        if len(args) > 1 and (func is torch.conv2d or func is functional.conv2d):
            self.convolved.setdefault(id(args[1]), []).append(result)
        elif len(args) > 1 and func is functional.batch_norm:
            self.normed.setdefault(id(args[1]), []).append(args[0])
        return result


def _tensors(value: Any) -> list[Tensor]:
    if isinstance(value, Tensor):
        return [value]
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple) else ()
    return [tensor for part in parts for tensor in _tensors(part)]


def folded(network: nn.Module) -> nn.Module:
    """A copy in which every batch norm that alone reads a convolution's output is part of that convolution.

    Computed in fp64 and rounded once; a norm after anything else (before the convolutions of a DenseNet, say) stays.
    """
    network = copy.deepcopy(network).eval().requires_grad_(requires_grad=False)
    device = next(network.parameters()).device
    with torch.inference_mode(), _Watched() as seen:
        network(torch.rand(1, 1, SIDE, SIDE, device=device))
    pairs = _pairs(network, seen)
    for conv, norm in pairs:
        _fold(conv, norm)
    _replace(network, {norm for _, norm in pairs})
    return network


def _pairs(network: nn.Module, seen: _Watched) -> list[tuple[nn.Conv2d, nn.BatchNorm2d]]:
    """Pairs each convolution with the batch norm that alone reads it; where another module reads it too, it stays as it is."""
    conv_of = {id(one.weight): one for one in network.modules() if type(one) is nn.Conv2d}
    norm_of = {id(one.running_mean): one for one in network.modules() if isinstance(one, nn.BatchNorm2d)}
    made_by = {id(output): weight for weight, outputs in seen.convolved.items() for output in outputs}
    pairs = []
    for mean, inputs in seen.normed.items():
        makers = {made_by.get(id(one), 0) for one in inputs}
        weight = makers.pop()
        outputs = seen.convolved.get(weight, [])
        alone = not makers and len(outputs) == len(inputs) and all(seen.readers[id(output)] == 1 for output in outputs)
        if alone and weight in conv_of and mean in norm_of and seen.readers[weight] == len(outputs):
            pairs.append((conv_of[weight], norm_of[mean]))
    return pairs


def _fold(conv: nn.Conv2d, norm: nn.BatchNorm2d) -> None:
    """Moves a batch norm into the convolution before it, in double precision."""
    assert norm.running_mean is not None
    assert norm.running_var is not None
    factor = (norm.running_var.double() + norm.eps).rsqrt()
    shift = -norm.running_mean.double() * factor
    if norm.affine:
        shift = shift * norm.weight.double() + norm.bias.double()
        factor = factor * norm.weight.double()
    if conv.bias is not None:
        shift = shift + conv.bias.double() * factor
    kind = conv.weight.dtype
    conv.weight = nn.Parameter((conv.weight.double() * factor[:, None, None, None]).to(kind), requires_grad=False)
    conv.bias = nn.Parameter(shift.to(kind), requires_grad=False)


def _replace(network: nn.Module, norms: set[nn.BatchNorm2d]) -> None:
    for parent in list(network.modules()):
        for name, child in parent.named_children():
            if child in norms:  # timm's norms hold an activation, too
                rest = [getattr(child, part) for part in ("drop", "act") if hasattr(child, part)]
                setattr(parent, name, nn.Sequential(*rest) if rest else nn.Identity())
