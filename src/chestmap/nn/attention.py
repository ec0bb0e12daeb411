"""Foreground attention: channels weighed by what attended positions hold, then positions (HAM, section III.A and Fig. 3)."""

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

Features = Float[Tensor, "batch channel h w"]
Kind = Literal["channel", "position", "both"]


class ChannelAttention(nn.Module):
    """Squeeze and excitation with a weighted mean as squeeze: positions share a softmax of a 1x1 convolution."""

    def __init__(self, channels: int, reduction: int = 8) -> None:
        super().__init__()
        narrow = max(1, channels // reduction)
        self.position_score = nn.Conv2d(channels, 1, 1, bias=False)
        self.excite = nn.Sequential(
            nn.Linear(channels, narrow, bias=False), nn.ReLU(), nn.Linear(narrow, channels, bias=False), nn.Sigmoid()
        )
        self.project = nn.Conv2d(channels, channels, 1, bias=False)

    def forward(self, features: Features) -> Features:
        """Weighs each channel by what it holds at attended positions."""
        share = self.position_score(features).flatten(1).softmax(-1)
        squeezed = torch.einsum("bcn,bn->bc", features.flatten(2), share.to(features.dtype))
        return self.project(features) * self.excite(squeezed)[:, :, None, None]


class PositionAttention(nn.Module):
    """One map z from the features, gated by its own surroundings: z sigmoid(BN(conv3x3(z)))."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.reduce = nn.Conv2d(channels, 1, 1, bias=False)
        self.gate = nn.Sequential(nn.Conv2d(1, 1, 3, padding=1, bias=False), nn.BatchNorm2d(1), nn.Sigmoid())

    def forward(self, features: Features) -> Float[Tensor, "batch 1 h w"]:
        """One map of where to look, gated by itself."""
        z = self.reduce(features)
        return z * self.gate(z)


class ForegroundAttention(nn.Module):
    """Channel attention feeding position attention; its map is added to every channel of the input.

    The map is scaled by a learned number that starts at 0, so the block starts as the identity. `position` makes the map from
    the input itself; `channel` has no map to add and returns the weighed features, as squeeze and excitation does.
    """

    def __init__(self, channels: int, kind: Kind = "both", reduction: int = 8) -> None:
        super().__init__()
        self.channel = ChannelAttention(channels, reduction) if kind != "position" else nn.Identity()
        self.position = PositionAttention(channels) if kind != "channel" else None
        if self.position is not None:
            self.scale = nn.Parameter(torch.zeros(1))

    def foreground(self, features: Features) -> Float[Tensor, "batch 1 h w"]:
        """The foreground attention map before it is scaled and added."""
        if self.position is None:
            raise ValueError("channel attention alone makes no foreground map; use position or both")
        return self.position(self.channel(features))

    def forward(self, features: Features) -> Features:
        """Adds the attended features to the features; the shape stays."""
        if self.position is None:
            return self.channel(features)
        return features + self.scale * self.foreground(features)
