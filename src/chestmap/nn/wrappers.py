"""Wraps any network: masks of where findings occur on its features, erasing on its finished maps.

Alignment, the third, is `nn.alignment.Aligned`. The papers that these come from: Kim 2020 (disease masks), Cai 2018 (attention mining).
"""

from dataclasses import replace
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor, nn

from chestmap.nn.boxes import resized
from chestmap.nn.erasing import mined
from chestmap.tensors import Output

Images = Float[Tensor, "batch 1 height width"]
CELL = 8
"""Pixels of a mask's cell."""


@runtime_checkable
class TwoPartNetwork(Protocol):
    """A network in two parts: `forward(images)` is `read(features(images))`."""

    def features(self, images: Images) -> Tensor: ...

    def read(self, features: Tensor) -> Output: ...


class Masked(nn.Module):
    """f' = ψ f + f for each finding (Kim 2020, eq. 4), read by the network's own head; zero masks leave it as it is.

    The head reads once for each finding, so this costs what a head costs times the findings.
    """

    def __init__(self, network: nn.Module, findings: int, canvas: tuple[int, int]) -> None:
        super().__init__()
        self.network = network
        self.register_buffer("masks", torch.zeros(findings, *mask_shape(canvas)))

    def forward(self, images: Images) -> Output:
        """Reads the features once for each finding, under its mask; each finding keeps its own logit and map."""
        assert isinstance(self.network, TwoPartNetwork)
        features = self.network.features(images)
        masks = resized(self.get_buffer("masks"), features.shape[-1], features.shape[-2]).to(features.dtype)
        seen = [self.network.read((1 + mask) * features) for mask in masks]
        logits = torch.stack([one.logits[:, row] for row, one in enumerate(seen)], dim=1)
        return Output(logits, torch.stack([one.maps[:, row] for row, one in enumerate(seen)], dim=1))


def mask_shape(canvas: tuple[int, int]) -> tuple[int, int]:
    """(rows, columns) of masks over a (width, height) canvas."""
    return -(-canvas[1] // CELL), -(-canvas[0] // CELL)


class Mined(nn.Module):
    """Attention mining at prediction: erased and searched again `steps` times (`nn.erasing.mined`); scores stay the network's.

    `rule` repeats both numbers among the weights, so that their hash distinguishes two ways to erase.
    """

    def __init__(self, network: nn.Module, steps: int, level: float) -> None:
        super().__init__()
        self.network, self.steps, self.level = network, steps, level
        self.register_buffer("rule", torch.tensor([float(steps), level]))

    def forward(self, images: Images) -> Output:
        """Runs the network once and erases on its finished maps; logits stay."""
        output: Output = self.network(images)
        return replace(output, maps=mined(output.maps, self.steps, self.level))
