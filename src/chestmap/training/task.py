"""Joins a network and the named loss terms that it learns by."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

from torch import Tensor, nn

from chestmap.tensors import Batch, Output

Same = TypeVar("Same", bound="Task")  # what the shape checker does not know as Self


class Task(nn.Module):
    """What one step of a recipe trains: `forward` gives the weighted loss terms, the loss is their sum.

    Of a piece of a batch, losses count over `batch.whole`. The keys become log names (`refine/amse`), so they are verbs or the paper's own term. A task holds no optimizer, no device
    and no random state; the loop seeds torch before every batch.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.weights: dict[str, float] = {}
        """Of the terms that the method weighs; a term that is not named here weighs 1."""
        self.maps_are_normalized = True
        """Whether validation brings each map to [0, 1] before cutting it; otherwise it is cut as it is."""
        self.needs_whole = ""
        """Why the loss of a batch cannot be computed in pieces."""
        self._frozen: list[nn.Module] = []

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Gives the named loss terms of a batch, each a scalar. Subclasses implement it; weights come afterwards."""
        raise NotImplementedError(f"{type(self).__name__}.forward: a task says its loss terms")

    def weighted(self, terms: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """What `forward` returns: each term times its weight."""
        return {name: self.weights[name] * value if name in self.weights else value for name, value in terms.items()}

    def predict(self, batch: Batch) -> Output:
        """What validation scores; override where the network takes more than the images."""
        return self.network(batch.images)

    def freeze(self, *parts: nn.Module) -> None:
        """Stop learning in `parts`; their batch norm statistics and dropout are also frozen under `.train()`."""
        for part in parts:
            part.requires_grad_(requires_grad=False)
            part.eval()
            self._frozen.append(part)

    @property
    def still(self) -> set[nn.Module]:
        """All modules of the frozen parts."""
        return {module for part in self._frozen for module in part.modules()}

    def train(self: Same, mode: bool = True) -> Same:  # noqa: FBT001, FBT002 -- torch's own signature
        """Set training mode; frozen parts keep their batch norm still."""
        super().train(mode)
        for part in self._frozen:
            part.eval()
        return self

    def after_step(self) -> None:
        """Called after each optimizer step, e.g. to let a teacher follow its student."""
