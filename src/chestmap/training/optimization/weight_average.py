"""Averages weights: mean <- d mean + (1 - d) value after every optimizer step, d = min(decay, (1 + n) / (10 + n))."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class Average:
    """Of the trainable parameters; buffers (batch norm statistics) are running averages already and stay the network's own.

    The smaller d of the first steps n = 0, 1 … keeps the random start from weighing on short runs.
    """

    def __init__(self, module: nn.Module, decay: float) -> None:
        self.decay = decay
        self.live = {name: parameter for name, parameter in module.named_parameters() if parameter.requires_grad}
        self.mean = {name: parameter.detach().clone() for name, parameter in self.live.items()}

    @torch.no_grad()
    def update(self, done: int) -> None:
        """After optimizer step number `done`, from 0."""
        decay = min(self.decay, (1 + done) / (10 + done))
        for name, mean in self.mean.items():
            mean.lerp_(self.live[name].detach(), 1 - decay)

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """The network carries the averaged weights while this lasts."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    @torch.no_grad()
    def _swap(self) -> None:
        for name, parameter in self.live.items():
            kept = parameter.detach().clone()
            parameter.copy_(self.mean[name])
            self.mean[name].copy_(kept)

    def state(self) -> dict[str, Tensor]:
        """The averaged weights, for a checkpoint."""
        return self.mean

    def load(self, state: dict[str, Tensor]) -> None:
        """Takes the averaged weights of a checkpoint, in place."""
        for name, mean in self.mean.items():
            mean.copy_(state[name])
