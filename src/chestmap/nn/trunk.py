"""The first stages of a network, which stay as they are, and their maps in one tensor that can be kept.

A frozen trunk gives the same features of an image in every epoch. What is kept of it is read in place of the image.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from chestmap.errors import BadSettings

Maps = Float[Tensor, "batch _channel _h _w"]


@dataclass(frozen=True)
class Trunk:
    """Which of a timm network's outputs stand still: stages `kept`, the last of which is where the rest begins.

    `channels` and `stride` are those of every output by stage, in the network's order.
    """

    kept: tuple[int, ...]
    channels: Mapping[int, int]
    stride: Mapping[int, int]

    @property
    def width(self) -> int:
        """Channels of the tensor that holds all kept maps."""
        return sum(self.channels[stage] * self._fold(stage) ** 2 for stage in self.kept)

    def _fold(self, stage: int) -> int:
        return self.stride[self.kept[-1]] // self.stride[stage]

    def pack(self, maps: list[Maps]) -> Maps:
        """Kept maps in one tensor of the coarsest one's size: cells of a finer map become channels."""
        folds = [self._fold(stage) for stage in self.kept]
        return torch.cat([functional.pixel_unshuffle(one, fold) for one, fold in zip(maps, folds, strict=True)], dim=1)

    def unpack(self, packed: Maps) -> list[Maps]:
        """The kept maps; a tensor that holds still finer ones before them will do."""
        if packed.shape[1] < self.width:
            raise BadSettings(
                f"backbone: kept features of {packed.shape[1]} channels, expected at least {self.width}; write the views again"
            )
        folds = [self._fold(stage) for stage in self.kept]
        widths = [self.channels[stage] * fold**2 for stage, fold in zip(self.kept, folds, strict=True)]
        parts = packed[:, packed.shape[1] - self.width :].split(widths, dim=1)
        return [functional.pixel_shuffle(part, fold) for part, fold in zip(parts, folds, strict=True)]


def in_order(net: Any, name: str) -> list[tuple[nn.Module, bool]]:
    """A timm feature network's modules one after another, each with whether its output is a feature map."""
    if type(net).__name__ == "EfficientNetFeatures" and net.feature_hooks is None:
        ends = net._stage_out_idx
        stem = nn.Sequential(net.conv_stem, net.bn1)
        return [(stem, 0 in ends), *((block, number + 1 in ends) for number, block in enumerate(net.blocks))]
    if type(net).__name__ == "FeatureListNet":
        return [(module, key in net.return_layers) for key, module in net.items()]
    raise BadSettings(
        f"backbone {name}: frozen stages need a network such as resnet, densenet or efficientnet; set frozen to 0"
    )


class Pyramid(nn.Module):
    """Stages joined on the finest one's grid, coarse to fine (Lin et al., CVPR 2017), with one convolution at the end."""

    def __init__(self, channels: list[int], width: int) -> None:
        super().__init__()
        self.narrow = nn.ModuleList([nn.Conv2d(one, width, 1, bias=False) for one in channels])
        self.norms = nn.ModuleList([nn.BatchNorm2d(width) for _ in channels])
        self.join = nn.Sequential(nn.Conv2d(width, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU())

    def forward(self, maps: list[Maps]) -> Maps:
        """Narrows each stage, adds the coarse ones to the finer, and joins them on the finest grid."""
        narrowed = [norm(narrow(one)) for one, narrow, norm in zip(maps, self.narrow, self.norms, strict=True)]
        joined = narrowed[-1]
        for finer in reversed(narrowed[:-1]):
            joined = finer + functional.interpolate(joined, finer.shape[-2:], mode="bilinear", align_corners=False)
        return self.join(functional.relu(joined))
