"""Augments a batch: image and `Frame` change together, drawn by a pure function of (seed, epoch, image).

`packs.loader` calls `draw` for each image and `augmented` for the batch. The `Frame` of each image changes along, so boxes
and maps still find their way back. Randomness comes from counters, not from a generator with a state.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b

import numpy as np
import torch
from jaxtyping import Float, UInt64
from pydantic import Field, field_validator
from torch import Tensor
from torch.nn import functional

from chestmap.geometry import Matrix
from chestmap.settings import Settings
from chestmap.types import Frame

Range = tuple[float, float]


class AugmentSettings(Settings):
    """Chances, and ranges drawn from uniformly; the defaults only flip.

    - `translate`: share of the canvas, to either side. `rotate_degrees`: to either side. `scale`: zoom about the center.
    - `inside`: the shift is drawn so that the enlarged picture still covers the canvas: a random crop. HAM's code has
      `scale=(1.0, 1.12), inside=True` (512 px resized to 1.00 … 1.12 times that, 512 px cut out).
    - `crop`: the share of the canvas' area that a random resized crop keeps, `aspect` its width / height, drawn
      logarithmically. AG-CNN has `crop=(0.08, 1.0)`.
    - `brightness`: pixels times 1 ± this. `contrast`: distances from 0.5 times 1 ± this. `gamma`: exponent within
      1 / (1 + this) … 1 + this, drawn logarithmically.
    """

    flip: float = Field(default=0.5, ge=0, le=1)
    translate: float = Field(default=0.0, ge=0, lt=1)
    scale: Range = (1.0, 1.0)
    inside: bool = False
    rotate_degrees: float = Field(default=0.0, ge=0, le=180)
    crop: Range | None = None
    aspect: Range = (3 / 4, 4 / 3)
    brightness: float = Field(default=0.0, ge=0, lt=1)
    contrast: float = Field(default=0.0, ge=0, lt=1)
    gamma: float = Field(default=0.0, ge=0)

    @field_validator("scale", "crop", "aspect")
    @classmethod
    def _ordered(cls, value: Range | None) -> Range | None:
        """Refuses a range that is not two positive, finite numbers, the smaller first."""
        if value is not None and not 0 < value[0] <= value[1] < math.inf:
            raise ValueError(f"{value}: expected two positive numbers, the smaller first")
        return value

    @property
    def only_flips(self) -> bool:
        """Then pixels are moved, not interpolated."""
        return not (self.translate or self.rotate_degrees or self.crop) and self.scale == (1.0, 1.0)

    @property
    def intensities(self) -> bool:
        """Whether gray values change, beyond where they lie."""
        return bool(self.brightness or self.contrast or self.gamma)


@dataclass(frozen=True)
class Change:
    """Describes what is done to one image: `matrix` from canvas to canvas, then its intensities.

    Brightness comes first, then contrast, then gamma; 1 leaves each as it is.
    """

    matrix: Matrix
    brightness: float = 1.0
    contrast: float = 1.0
    gamma: float = 1.0


def draw(settings: AugmentSettings, canvas: tuple[int, int], seed: int, moment: tuple[int, int], image_id: str) -> Change:
    """Draws the change of one image from seed, moment and image id alone.

    `moment` is (epoch, how often the image came before in it), `canvas` is (width, height). Ten numbers are drawn
    whatever is switched on, so that one setting does not shift another's chance. A crop takes the place of zoom, turn
    and shift.
    """
    flip, dx, dy, zoom, turn, area, aspect, bright, contrast, gamma = uniform(seed, moment, image_id, 10)
    width, height = canvas
    zoom = _between(settings.scale, zoom)
    angle = math.radians(settings.rotate_degrees * (2 * turn - 1))
    a, b = zoom * math.cos(angle), zoom * math.sin(angle)
    matrix = about_center((a, -b, b, a), canvas)
    if settings.crop is not None:
        matrix = _crop(canvas, _between(settings.crop, area), _log_between(settings.aspect, aspect), (dx, dy))
    elif settings.inside:
        matrix = _shifted(matrix, (2 * dx - 1) * (zoom - 1) * width / 2, (2 * dy - 1) * (zoom - 1) * height / 2)
    else:
        matrix = _shifted(matrix, (2 * dx - 1) * settings.translate * width, (2 * dy - 1) * settings.translate * height)
    if flip < settings.flip:
        a, b, c, d, e, f = matrix
        matrix = (-a, -b, width - c, d, e, f)
    return Change(
        matrix,
        _between((1 - settings.brightness, 1 + settings.brightness), bright),
        _between((1 - settings.contrast, 1 + settings.contrast), contrast),
        _log_between((1 / (1 + settings.gamma), 1 + settings.gamma), gamma),
    )


def uniform(seed: int, moment: tuple[int, int], image_id: str, count: int) -> list[float]:
    """Numbers in [0, 1) from a counter, so that they depend on nothing else: not on workers, batch or rank."""
    image = int.from_bytes(blake2b(image_id.encode(), digest_size=8).digest(), "little")
    return [int(number >> 11) * 2.0**-53 for number in counted((seed, 0), (*moment, image), count)]


def counted(key: tuple[int, int], counter: tuple[int, int, int], count: int) -> UInt64[np.ndarray, "count"]:
    """Raw numbers of Philox 4x64; the arrays say uint64, for NumPy takes a list with a large number as floats."""
    keys = np.array([key[0] % 2**64, key[1]], dtype=np.uint64)
    return np.random.Philox(key=keys, counter=np.array([0, *counter], dtype=np.uint64)).random_raw(count)


def _between(limits: Range, share: float) -> float:
    """Leads a share in [0, 1) to its place between the limits."""
    return limits[0] + (limits[1] - limits[0]) * share


def _log_between(limits: Range, share: float) -> float:
    """Leads a share to its place between the limits on a logarithmic scale: half and double are equally far from 1."""
    return math.exp(_between((math.log(limits[0]), math.log(limits[1])), share))


def about_center(turn: tuple[float, float, float, float], canvas: tuple[int, int]) -> Matrix:
    """The linear map (a, b, d, e) with the canvas' center held still."""
    a, b, d, e = turn
    x, y = canvas[0] / 2, canvas[1] / 2
    return a, b, x - a * x - b * y, d, e, y - d * x - e * y


def _shifted(matrix: Matrix, x: float, y: float) -> Matrix:
    """Moves the picture by x and y canvas pixels after all that `matrix` does."""
    a, b, c, d, e, f = matrix
    return a, b, c + x, d, e, f + y


def _crop(canvas: tuple[int, int], area: float, aspect: float, place: tuple[float, float]) -> Matrix:
    """A part of the canvas spread over all of it; a side longer than the canvas is cut to it."""
    width, height = canvas
    crop_width = min(width, math.sqrt(area * width * height * aspect))
    crop_height = min(height, math.sqrt(area * width * height / aspect))
    left, top = (width - crop_width) * place[0], (height - crop_height) * place[1]
    x_scale, y_scale = width / crop_width, height / crop_height
    return x_scale, 0.0, -left * x_scale, 0.0, y_scale, -top * y_scale


def augmented(
    images: Float[Tensor, "batch 1 h w"], changes: Sequence[Change], settings: AugmentSettings
) -> Float[Tensor, "batch 1 h w"]:
    """Pixels of the changed images; what comes from outside the canvas is 0."""
    if settings.only_flips:
        pairs = zip(images, changes, strict=True)
        images = torch.stack([image.flip(-1) if change.matrix[0] < 0 else image for image, change in pairs])
    else:
        images = warped(images, [change.matrix for change in changes])
    if not settings.intensities:
        return images
    values = torch.tensor([[change.brightness, change.contrast, change.gamma] for change in changes], dtype=images.dtype)
    brightness, contrast, gamma = values.to(images.device)[:, :, None, None, None].unbind(1)
    images = (images * brightness).sub_(0.5).mul_(contrast).add_(0.5).clamp_(0, 1)
    return images.pow_(gamma) if settings.gamma else images


def warped(images: Float[Tensor, "batch channel h w"], matrices: Sequence[Matrix]) -> Float[Tensor, "batch channel h w"]:
    """Each image under its canvas-to-canvas map: bilinear, zeros outside.

    The grid is summed from its rows and columns: `affine_grid` multiplies matrices for it and takes five times the sampling.
    """
    height, width = images.shape[-2:]
    theta = torch.tensor([_sampling(matrix, width, height) for matrix in matrices], dtype=torch.float64).reshape(-1, 2, 3, 1)
    x = (torch.arange(width, dtype=torch.float64) * 2 + 1) / width - 1  # centers of pixels, the canvas reaching from -1 to 1
    y = (torch.arange(height, dtype=torch.float64) * 2 + 1) / height - 1
    across = (theta[:, :, 0] * x).to(images)
    down = (theta[:, :, 1] * y + theta[:, :, 2]).to(images)
    grid = images.new_empty((len(images), height, width, 2))
    for axis in (0, 1):
        torch.add(across[:, axis, None, :], down[:, axis, :, None], out=grid[..., axis])
    return functional.grid_sample(images, grid, mode="bilinear", padding_mode="zeros", align_corners=False)


def _sampling(matrix: Matrix, width: int, height: int) -> list[list[float]]:
    """From the place on the new canvas to the place to look up, both with the canvas reaching from -1 to 1."""
    a, b, c, d, e, f = Frame((width, height), (width, height), matrix).inverse
    ratio = height / width
    return [
        [a, b * ratio, a + b * ratio + 2 * c / width - 1],
        [d / ratio, e, d / ratio + e + 2 * f / height - 1],
    ]
