"""Batch norms of two ranks with unequal shares beside torch's own over the whole batch; the ranks are threads that meet."""

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from torch import nn

from chestmap.nn import process_sums as together

SHARES = (2, 3)
SHAPE = (sum(SHARES), 3, 4, 5)
CASES = {"affine": (True, 2.0), "plain": (False, 2.0), "flat": (True, 0.0)}
"""With weights or not, and how far images spread; flat ones have no variance."""


class Meeting:
    """What stands for `torch.distributed` here: ranks hand over tensors and wait for each other."""

    def __init__(self):
        self.barrier, self.here, self.given = threading.Barrier(len(SHARES), timeout=60), threading.local(), {}

    def get_world_size(self):
        return len(SHARES)

    def all_gather(self, gathered, one):
        self.given[self.here.rank] = one.clone()
        self.barrier.wait()
        for rank, place in enumerate(gathered):
            place.copy_(self.given[rank])
        self.barrier.wait()

    def all_reduce(self, one):
        gathered = [torch.empty_like(one) for _ in SHARES]
        self.all_gather(gathered, one)
        one.copy_(sum(gathered))


def network(*, affine: bool) -> nn.Module:
    torch.manual_seed(0)
    norm = nn.BatchNorm2d(3, affine=affine, momentum=None if affine else 0.3)
    if affine:
        nn.init.normal_(norm.weight)
        nn.init.normal_(norm.bias)
    return nn.Sequential(norm, nn.Tanh())


def trained(module: nn.Module, values: torch.Tensor, weights: torch.Tensor) -> dict[str, Any]:
    """After two passes: output, running statistics, and gradients of a sum that weighs every value differently."""
    module(values)
    given = values.clone().requires_grad_()
    out = module(given)
    (out * weights).sum().backward()
    found = {"out": out.detach(), "values": given.grad, **module.state_dict()}
    return found | {f"{name} gradient": one.grad for name, one in module.named_parameters()}


@pytest.mark.parametrize("case", CASES)
def test_two_ranks_make_what_one_makes(monkeypatch, case):
    (affine, spread), meeting = CASES[case], Meeting()
    images, weights = spread * torch.randn(SHAPE) + 7, torch.linspace(-1, 2, sum(SHARES) * 60).view(SHAPE)
    modules = [network(affine=affine) for _ in SHARES]

    def rank(number: int) -> dict[str, Any]:
        meeting.here.rank = number
        with together.synchronized_norms(modules[number], set()):
            return trained(modules[number], images.split(SHARES)[number], weights.split(SHARES)[number])

    monkeypatch.setattr(together, "distributed", meeting)
    with ThreadPoolExecutor(len(SHARES)) as pool:
        parts = list(pool.map(rank, range(len(SHARES))))
    whole = trained(network(affine=affine), images, weights)
    assert len(whole) == (9 if affine else 5)
    for name, value in whole.items():
        if name in {"out", "values"}:
            found = torch.cat([part[name] for part in parts])
        elif name.endswith("gradient"):
            found = sum(part[name] for part in parts)
        else:
            found = parts[1][name]
        near = 1e-4 if spread else 1e-2
        torch.testing.assert_close(found, value, rtol=1e-4, atol=near, msg=lambda said, of=name: f"{of}: {said}")
