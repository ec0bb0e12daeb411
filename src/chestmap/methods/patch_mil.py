"""Patches as instances: Li et al., "Thoracic Disease Identification and Localization with Limited Supervision", CVPR 2018
(arXiv 1711.06373), as the papers that compare with it describe it: Liu 2019 (the base model of CIA-Net follows it) and HAM.

A grid of patches, each with a probability for each finding. An image shows what at least one of its patches shows (noisy OR),
and where a box is known, the patches it overlaps are taught one by one.

| paper | here |
|---|---|
| features to a grid of P x P patches | `to_grid` |
| recognition network | `PatchMil.recognize` |
| probability of an image, noisy OR of patches squeezed into [0.98, 1] | `log_any`, `InstanceSettings` of `nn.instances` |
| loss of images without boxes | `nn.instances.mil_loss` (Liu 2019, eq. 5) |
| loss of images with boxes, weight λ | `nn.instances.box_loss` (Liu 2019, eq. 4), in `Patches` |
| a patch counts where its probability is at least T | `OWN_RULE`, `whole_cells` |

What those papers leave open, and how it is settled: P is 16, the grid of CIA-Net's base model (a canvas that is not square has P
patches along its shorter side). Features that are coarser than the grid are upsampled bilinearly, finer ones pooled by maxima.
The recognition network has 512 channels and batch norm. A pair of image and finding with a box counts by its patches alone. T
is 0.5. The schedule is that of CIA-Net.

Differs from the paper:
- it squeezes patches into [0.98, 1] where boxes teach them too, and weighs those by λ = 5; here boxes teach the probabilities as
  they are, and λ = 1 weighs an image with boxes as its patches together;
- `instances.form = "plain"` leaves out the squeezing of the noisy OR;
- pixels are normalized by 0.5 and 0.5 also under ImageNet weights (`backbone.mean`, `backbone.std`);
- the loss is divided by the images in the batch;
- the last bias starts where an image has each finding by one in twenty;
- one-channel input, its stem summed from the three of ImageNet: the same function of a grey image.
"""

from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from chestmap.nn.backbone import Backbone, BackboneSettings
from chestmap.nn.boxes import resized
from chestmap.nn.cam import full_precision, without_autocast
from chestmap.nn.instances import Cells, InstanceSettings, cell_targets, limited_loss, log_any
from chestmap.predictions.folder import OwnRule
from chestmap.settings import Settings
from chestmap.tensors import Batch, Output
from chestmap.training import Data, Method, Run, Schedule, Task
from chestmap.types import Findings

OWN_RULE = OwnRule(0.5, normalize=False)

Features = Float[Tensor, "batch channel rows columns"]
SCHEDULE = Schedule.model_validate(
    {
        "epochs": 15,
        "batch_size": 6,
        "optimizer": "sgd",
        "learning_rate": 6e-3,
        "weight_decay": 1e-4 / 6,
        "decay": "step",
        "every": 5,
        "factor": 0.1,
        "augment": False,
    }
)  # CIA-Net's, so that the two compare


class PatchMilSettings(Settings):
    """`sharp` counts when a model predicts: a patch becomes so many equal map cells along each side."""

    name: Literal["patch_mil"] = "patch_mil"
    backbone: BackboneSettings = BackboneSettings(name="resnet50.tv_in1k")
    patches: Annotated[int, Field(ge=1)] = 16  # P
    width: Annotated[int, Field(ge=1)] = 512  # channels of the recognition network
    box_weight: Annotated[float, Field(ge=0)] = 1.0  # λ; 0 leaves boxes out, and boxed images count by their labels
    instances: InstanceSettings = InstanceSettings()
    sharp: Annotated[int, Field(ge=1)] = 8
    attend: Schedule = SCHEDULE


@dataclass(frozen=True, eq=False)
class Patched(Output):
    """`cells` are the logits of the patches."""

    cells: Float[Tensor, "batch finding rows columns"]


class PatchMil(nn.Module):
    """A backbone and a head for each patch; the noisy OR of the patches scores the image."""

    def __init__(self, settings: PatchMilSettings, findings: int, canvas: tuple[int, int]) -> None:
        super().__init__()
        self.grid, self.sharp = grid_of(canvas, settings.patches), settings.sharp
        self.backbone = Backbone(settings.backbone)
        self.recognize = nn.Sequential(
            nn.Conv2d(self.backbone.channels, settings.width, 3, padding=1, bias=False),
            nn.BatchNorm2d(settings.width),
            nn.ReLU(),
        )
        self.head = nn.Conv2d(settings.width, findings, 1)
        start, self.floor = settings.instances.start(self.grid[0] * self.grid[1]), settings.instances.floor
        nn.init.constant_(self.head.bias, start)  # pyright: ignore[reportArgumentType] -- a convolution has one by default

    def forward(self, images: Float[Tensor, "batch 1 height width"]) -> Patched:
        """Cells of a fixed grid, and the image's logit as their noisy OR."""
        return self.read(self.features(images))

    def features(self, images: Float[Tensor, "batch 1 height width"]) -> Features:
        """One vector for each patch."""
        return self.recognize(to_grid(self.backbone(images), self.grid))

    def read(self, features: Features) -> Patched:
        """The logit of an image is that of its noisy OR."""
        features = full_precision(features)
        with without_autocast(features):
            cells = self.head(features)
        present, absent = log_any(cells, self.floor)
        return Patched(present - absent, whole_cells(torch.sigmoid(cells), self.sharp), cells)


def grid_of(canvas: tuple[int, int], patches: int) -> tuple[int, int]:
    """(rows, columns) of square patches on a (width, height) canvas, `patches` of them along its shorter side."""
    width, height = canvas
    return round(patches * height / min(canvas)), round(patches * width / min(canvas))


def to_grid(
    features: Float[Tensor, "batch channel h w"], grid: tuple[int, int]
) -> Float[Tensor, "batch channel rows columns"]:
    """Features on a grid of (rows, columns) patches: upsampled bilinearly where they are coarser, else pooled by maxima."""
    rows, columns = grid
    if features.shape[-2] >= rows and features.shape[-1] >= columns:
        return functional.adaptive_max_pool2d(features, grid)
    return resized(features, columns, rows)


def whole_cells(maps: Cells, times: int) -> Float[Tensor, "batch finding height width"]:
    """Each cell as `times` x `times` equal ones, so that what is cut from an upsampled map is made of whole patches."""
    return maps.repeat_interleave(times, -2).repeat_interleave(times, -1)


class Patches(Task):
    """Boxed pairs of image and finding by their patches, the other known ones by the noisy OR."""

    network: PatchMil

    def __init__(self, network: PatchMil, box_weight: float) -> None:
        super().__init__(network)
        self.box_weight, self.weights = box_weight, {"boxes": box_weight}
        self.maps_are_normalized = OWN_RULE.normalize

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Boxed images label their cells; the others have at least one cell where the finding is present, and none else."""
        cells = self.network(batch.images).cells
        boxes = batch.boxes if self.box_weight else [()] * len(batch)
        targets = cell_targets(boxes, batch.frames, batch.findings, (cells.shape[-1], cells.shape[-2])).to(cells.device)
        images, boxed = limited_loss(cells, targets, batch.labels, self.network.floor)
        return self.weighted({"images": images, "boxes": boxed})


def build(settings: PatchMilSettings, findings: Findings, canvas: tuple[int, int]) -> PatchMil:
    """Makes the network; the canvas fixes the grid of patches."""
    return PatchMil(settings, len(findings), canvas)


def recipe(run: Run, data: Data, settings: PatchMilSettings) -> nn.Module:
    """Trains in the single step `attend`, on labels and boxes together."""
    task = Patches(build(settings, data.findings, data.canvas), settings.box_weight)
    return run.fit("attend", task, data.train, settings.attend, data.validation).network


METHOD = Method(
    name="patch_mil",
    title="Patches as instances",
    paper="Li et al., CVPR 2018, arXiv 1711.06373",
    settings=PatchMilSettings,
    build=build,
    recipe=recipe,
    own_rule=lambda _: OWN_RULE,
    earlier={"instances": {"form": "plain"}},
    tiny={
        "backbone": {"name": "test_resnet"},
        "patches": 4,
        "instances": {"squeezed_to": 0.5},
        "width": 16,
        "sharp": 2,
        "attend": {"epochs": 1, "batch_size": 4, "learning_rate": 1e-4},
    },
)
