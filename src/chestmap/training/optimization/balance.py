"""Weighs loss terms in training: warm-up, a limit on a term's share of the gradient, and the log of both.

The gradient of a term is taken at the features that the backbone hands to its heads. A term's share is the norm of its gradient
there over the sum of all terms' norms; terms that come after the limit has been applied are what counts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from lightning_fabric import Fabric
from torch import Tensor

from chestmap.errors import BadSettings, did_you_mean
from chestmap.training.optimization.schedule import Schedule

EVERY = 5  # optimizer steps between two measurements for a limit
MEMORY = 0.9  # of the norms' running means
RAW = "_raw"  # ends the log names of terms before any weight


class Balance:
    """Weighs the loss terms of a step, and measures their shares of the gradient.

    The loop calls `begin` for each optimizer step, `factors`, `measure` and `logged` for each piece of it, and
    `shares` at its end. `norms` are running means over steps in which a term had a gradient; all else is of the
    optimizer step at hand.
    """

    def __init__(
        self, fabric: Fabric, weights: Mapping[str, float], schedule: Schedule, norms: dict[str, float], *, compiled: bool
    ) -> None:
        self.fabric, self.weights, self.schedule, self.norms = fabric, weights, schedule, norms
        self.limits: dict[str, float] = {name: term.most for name, term in schedule.terms.items() if term.most is not None}
        if compiled and self.limits:
            raise BadSettings(
                f"terms.{next(iter(self.limits))}.most: gradients at the features cannot be had of a compiled network; set "
                "run.compile = false, or leave the limit out"
            )
        self.compiled, self.keep = compiled, False
        self.squares: dict[str, Tensor] = {}

    def factors(self, where: str, names: Sequence[str], update: int, updates_per_epoch: int) -> dict[str, float]:
        """What each term is multiplied by in optimizer step `update`.

        A limited term takes no part until its gradient and those of the unlimited terms have been measured.
        """
        for name in self.schedule.terms:
            if name not in names:
                hint = did_you_mean(name, names)
                raise BadSettings(f"{where}: terms.{name}: no loss term of this step ({', '.join(names)}){hint}")
        found = {name: self._grown(name, update, updates_per_epoch) for name in names}
        free = sum(found[name] * self.norms.get(name, 0.0) for name in names if name not in self.limits)
        for name, most in self.limits.items():
            norm = self.norms.get(name, 0.0)
            found[name] = min(found[name], most / (1 - most) * free / norm) if norm else 0.0
        return found

    def _grown(self, name: str, update: int, updates_per_epoch: int) -> float:
        """Gives the factor of a term in its warm-up, counted in epochs: above 0 from the first step, 1 at the end."""
        warmup = self.schedule.terms[name].warmup * updates_per_epoch if name in self.schedule.terms else 0.0
        return min(1.0, (update + 1) / (warmup + 1))

    def begin(self, update: int, *, logged: bool) -> bool:
        """Whether gradients of optimizer step `update` are measured: for a limit, or because the step is logged."""
        self.keep = bool(self.limits) and (update % EVERY == 0 or not all(self.norms.get(name) for name in self.limits))
        return self.keep or (logged and not self.compiled)

    def measure(self, where: str, terms: Mapping[str, Tensor], features: Sequence[Tensor], share: float) -> None:
        """Adds the gradients of a piece, which is `share` of an optimizer step; what the terms were computed from is kept."""
        if self.limits and not features:
            raise BadSettings(
                f"{where}: terms.{next(iter(self.limits))}.most: no features of a backbone learn in this step, so that a share of "
                "their gradient cannot be limited; leave it out"
            )
        for name, value in terms.items() if features and len(terms) > 1 else ():
            square = torch.zeros((), device=value.device)
            if value.requires_grad:
                found = torch.autograd.grad(value, list(features), retain_graph=True, allow_unused=True)
                square = torch.stack([square, *(one.float().square().sum() for one in found if one is not None)]).sum()
            self.squares[name] = self.squares.get(name, 0.0) + square * share**2

    def shares(self, factors: Mapping[str, float]) -> dict[str, float]:
        """Of the measured optimizer step, over all processes, by term."""
        if not self.squares:
            return {}
        names, squares = list(self.squares), torch.stack(list(self.squares.values()))
        if self.fabric.world_size > 1:
            squares = self.fabric.all_reduce(squares / self.fabric.world_size**2, reduce_op="sum")
        assert isinstance(squares, Tensor)
        norms: dict[str, float] = dict(zip(names, squares.sqrt().tolist(), strict=True))
        self.squares.clear()
        for name, norm in norms.items():
            if norm and self.keep:
                before = self.norms.get(name, norm)
                self.norms[name] = MEMORY * before + (1 - MEMORY) * norm
        seen = {name: factors.get(name, 1.0) * norm for name, norm in norms.items()}
        return {f"{name}_share": value / (sum(seen.values()) or 1.0) for name, value in seen.items()}

    def logged(self, terms: Mapping[str, Tensor], factors: Mapping[str, float]) -> dict[str, Tensor]:
        """Each term as it enters the loss, and as `NAME_raw` before any weight; a term without a weight has no raw value."""
        raw = {
            f"{name}{RAW}": value / self.weights.get(name, 1.0)
            for name, value in terms.items()
            if self.weights.get(name, 1.0)
        }
        return {name: factors[name] * value for name, value in terms.items()} | raw
