"""Alignment to an anchor image: a network finds scale, shift and angle; images are warped by them, and maps come back.

Liu 2019 ("Align, Attend and Locate", eq. 1 and 2) and Kim 2020 (disease masks, eq. 6 to 9) share it; each has its own anchor
and losses. `theta` is the sampling matrix of eq. 1: from a place on the aligned canvas to the place on the input to look up,
both with the canvas reaching from -1 to 1 (`align_corners=False`).
"""

import math
from collections.abc import Sequence
from dataclasses import fields, replace
from typing import Annotated, Literal

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from chestmap.geometry import Matrix
from chestmap.nn.backbone import Backbone, BackboneSettings
from chestmap.nn.cam import full_precision, without_autocast
from chestmap.settings import Settings
from chestmap.tensors import Output
from chestmap.types import Frame

Images = Float[Tensor, "batch 1 height width"]
Theta = Float[Tensor, "batch 2 3"]
Form = Literal["mean", "printed"]
MAP_STRIDE = 8
"""Maps come back from a turned canvas on cells of at most so many pixels."""


class AlignerSettings(Settings):
    """Limits keep the map invertible and the chest on the canvas; the papers' five parameters are unbounded."""

    backbone: BackboneSettings = BackboneSettings(name="resnet18.tv_in1k")
    most_scale: Annotated[float, Field(gt=1)] = 1.6  # and at least its inverse
    most_shift: Annotated[float, Field(gt=0, le=1)] = 0.3  # share of the canvas
    most_degrees: Annotated[float, Field(gt=0, le=90)] = 30.0


class Aligner(nn.Module):
    """s_x, s_y, t_x, t_y and the angle of each image; starts as the identity."""

    def __init__(self, settings: AlignerSettings) -> None:
        super().__init__()
        self.backbone = Backbone(settings.backbone)
        self.head = nn.Linear(self.backbone.channels, 5)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)
        self.limits = (math.log(settings.most_scale), 2 * settings.most_shift, math.radians(settings.most_degrees))

    def forward(self, images: Images) -> Theta:
        """From images to sampling matrices [batch, 2, 3], as `affine_grid` takes them. A new aligner gives the identity."""
        vector = full_precision(self.backbone(images)).mean((-2, -1))
        with without_autocast(images):
            numbers = torch.tanh(self.head(vector.to(self.head.weight.dtype)))
        scale, shift, angle = self.limits
        ratio = images.shape[-2] / images.shape[-1]
        return sampling_matrices((scale * numbers[:, :2]).exp(), shift * numbers[:, 2:4], angle * numbers[:, 4], ratio)


def sampling_matrices(
    scale: Float[Tensor, "batch 2"], shift: Float[Tensor, "batch 2"], angle: Float[Tensor, "batch"], ratio: float = 1.0
) -> Theta:
    """The matrix of eq. 1 (CIA-Net) and eq. 6 (disease masks); `ratio` is height / width, so that angles stay angles."""
    cosine, sine = angle.cos(), angle.sin()
    first = torch.stack([scale[:, 0] * cosine, -scale[:, 1] * sine * ratio, shift[:, 0]], dim=1)
    second = torch.stack([scale[:, 0] * sine / ratio, scale[:, 1] * cosine, shift[:, 1]], dim=1)
    return torch.stack([first, second], dim=1)


def aligned(images: Images, theta: Theta) -> Images:
    """Bilinear in fp32; zeros where an image does not reach."""
    return _sampled(images, theta, (images.shape[-1], images.shape[-2]), "zeros")


def inverted(theta: Theta) -> Theta:
    """Inverts sampling matrices, so that maps on the warped canvas return to the image."""
    a, b, d, e = theta[:, 0, 0], theta[:, 0, 1], theta[:, 1, 0], theta[:, 1, 1]
    turn = torch.stack([e, -b, -d, a], dim=1).reshape(-1, 2, 2) / (a * e - b * d)[:, None, None]
    return torch.cat([turn, -turn @ theta[:, :, 2:]], dim=2)


def maps_back(
    maps: Float[Tensor, "batch channel h w"], theta: Theta, size: tuple[int, int]
) -> Float[Tensor, "batch channel height width"]:
    """Maps on the aligned canvas brought to the input canvas, on a grid of `size` = (width, height).

    Border cells extend to the edge of the aligned canvas; beyond it nothing was seen: zero.
    """
    back = inverted(theta)
    grid = functional.affine_grid(full_precision(back), [maps.shape[0], 1, size[1], size[0]], align_corners=False)
    return _sampled(maps, back, size, "border") * (grid.abs() <= 1).all(-1)[:, None]


def _sampled(pictures: Tensor, theta: Theta, size: tuple[int, int], outside: Literal["zeros", "border"]) -> Tensor:
    pictures = full_precision(pictures)
    with without_autocast(pictures):
        shape = [*pictures.shape[:2], size[1], size[0]]
        grid = functional.affine_grid(theta.to(pictures.dtype), shape, align_corners=False)
        return functional.grid_sample(pictures, grid, mode="bilinear", padding_mode=outside, align_corners=False)


def matrices(theta: Theta, canvas: tuple[int, int]) -> list[Matrix]:
    """From canvas pixels to pixels of the aligned canvas, one for each image; what `Frame.then` takes."""
    return [_in_pixels(row, *canvas) for row in inverted(theta.detach().double()).cpu().tolist()]


def _in_pixels(rows: Sequence[Sequence[float]], width: int, height: int) -> Matrix:
    (a, b, c), (d, e, f) = rows
    b, d = b * width / height, d * height / width
    x = (c + 1) * width / 2 - a * width / 2 - b * height / 2
    y = (f + 1) * height / 2 - d * width / 2 - e * height / 2
    return a, b, x, d, e, y


def aligned_frames(frames: Sequence[Frame], theta: Theta) -> tuple[Frame, ...]:
    """Frames that end on the aligned canvas, so that boxes follow."""
    steps = matrices(theta, frames[0].canvas) if frames else []
    return tuple(frame.then(matrix) for frame, matrix in zip(frames, steps, strict=True))


class Aligned(nn.Module):
    """Any network on aligned images. What it returns lies on the canvas it was given: every map is warped back.

    An output's further fields follow by their axes: four are a map, anything else is left as it is.
    """

    def __init__(self, network: nn.Module, aligner: Aligner) -> None:
        super().__init__()
        self.network, self.aligner = network, aligner

    def forward(self, images: Images) -> Output:
        """Warps images, runs the network, and warps every map of its output back; logits stay."""
        theta = self.aligner(images)
        output: Output = self.network(aligned(images, theta))
        size = map_size(output.maps, images)
        maps = {
            field.name: maps_back(value, theta, size)
            for field in fields(output)
            if isinstance(value := getattr(output, field.name), Tensor) and value.ndim == 4
        }
        return replace(output, **maps)


def map_size(maps: Tensor, images: Tensor) -> tuple[int, int]:
    """(width, height) of maps on the input canvas: cells of `MAP_STRIDE` pixels, or finer where the maps are."""
    height, width = images.shape[-2:]
    return max(maps.shape[-1], math.ceil(width / MAP_STRIDE)), max(maps.shape[-2], math.ceil(height / MAP_STRIDE))


def blurred(images: Images, pool: int) -> Images:
    """B(G(·)) of eq. 6 (disease masks): means over `pool` x `pool` pixels, brought back to size bilinearly; 1 changes nothing.

    An anchor is a mean of many images; smoothing what is compared with it keeps detail that it can't have out of the loss.
    """
    if pool == 1:
        return images
    height, width = images.shape[-2:]
    means = functional.adaptive_avg_pool2d(images, (max(1, round(height / pool)), max(1, round(width / pool))))
    return functional.interpolate(means, (height, width), mode="bilinear", align_corners=False)


def perceptual_loss(
    seen: Sequence[Float[Tensor, "batch _channel _h _w"]], wanted: Sequence[Float[Tensor, "_ _channel _h _w"]], form: Form
) -> Float[Tensor, ""]:
    """Eq. 2 (CIA-Net), eq. 7 (disease masks): distance of features, summed over stages, the mean over images.

    `printed` is ||difference||_2 / (C H W); `mean` squares the norm, as the feature reconstruction loss of Johnson 2016 does,
    from which both papers take it. `wanted` holds the anchor's features, one for all images.
    """
    total = full_precision(seen[0]).new_zeros(())
    for one, other in zip(seen, wanted, strict=True):
        difference = (full_precision(one) - full_precision(other)).flatten(1)
        length = difference.square().sum(1) if form == "mean" else torch.linalg.vector_norm(difference, dim=1)
        total = total + length.mean() / difference.shape[1]
    return total


def euclidean_loss(images: Images, anchor: Float[Tensor, "_ 1 height width"], form: Form) -> Float[Tensor, ""]:
    """Eq. 8 (disease masks), the consistency loss of CIA-Net: distance of each pixel to the anchor's, the mean over images.

    `printed` sums over pixels; `mean` takes their mean, so that neither the loss nor the step depends on the canvas.
    """
    distance = (full_precision(images) - full_precision(anchor)).abs()
    return distance.mean() if form == "mean" else distance.sum((-3, -2, -1)).mean()
