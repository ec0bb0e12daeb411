"""CAM: localize by the class maps of a classifier. Wang et al., "ChestX-ray8: Hospital-scale Chest X-ray Database and Benchmarks on
Weakly-Supervised Classification and Localization of Common Thorax Diseases", CVPR 2017 (arXiv 1705.02315); maps as in Zhou et
al., CVPR 2016. The baseline of every other method: HAM's rows RN50-32-GAP, RN50-8-GAP and RN50-8-LSE are settings of it.

| paper | here |
|---|---|
| 4.1 backbone without its classifier | `nn.backbone.Backbone` |
| 4.1 global pooling (max, average, LSE of eq. 2) | `nn.pooling`; `pcam` is Ye et al., arXiv 2005.14480 |
| 4.1 weighted cross entropy W-CEL, eq. 1 | `loss = "balanced"`, `nn.losses.balanced_bce` |
| 4.1 heat map from the prediction layer's weights | `nn.cam.class_maps` |
| 4.2 boxes at levels 60 and 180 of 255 | `own_rule = "wang"`, the lower of the two as a mask |

Differs from the paper:
- no transition layer between the backbone and the pooling: features go to it directly, as in HAM's rows;
- negative evidence is cut off the maps (HAM eq. 1); the paper scales signed maps to [0, 255];
- one mask at the lower level; of the paper's boxes at both levels the upper ones lie within it;
- plain cross entropy unless asked otherwise, as in HAM's rows.
"""

from typing import Annotated, Literal

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn

from chestmap.nn.backbone import Backbone, BackboneSettings
from chestmap.nn.cam import class_maps, full_precision, level_where
from chestmap.nn.losses import balanced_bce, known_bce
from chestmap.nn.pooling import Pooling, pooled_logits
from chestmap.predictions.folder import OwnRule
from chestmap.settings import Settings
from chestmap.tensors import Batch, Output
from chestmap.training import Data, Method, Run, Schedule, Task
from chestmap.types import Findings

OWN_LEVELS = {"ham": level_where(0.999), "wang": 60 / 255}
LOSSES = {"plain": known_bce, "balanced": balanced_bce}
SCHEDULE = Schedule.model_validate(
    {
        "epochs": 20,
        "batch_size": 24,
        "learning_rate": 2e-5,
        "weight_decay": 1e-4,
        "decay": "step",
        "every": 10,
        "factor": 0.1,
    }
)  # HAM's, so that its rows compare


class CamSettings(Settings):
    """The paper found r = 10 best for LSE; HAM uses 6."""

    name: Literal["cam"] = "cam"
    backbone: BackboneSettings = BackboneSettings(name="resnet50.tv_in1k")
    pooling: Pooling = "lse"
    r: Annotated[float, Field(gt=0)] = 6.0
    loss: Literal["plain", "balanced"] = "plain"
    own_rule: Literal["ham", "wang"] = "ham"
    classify: Schedule = SCHEDULE


class Cam(nn.Module):
    """A backbone, pooling and a linear head; the weights of the head also make the maps."""

    def __init__(self, settings: CamSettings, findings: int) -> None:
        super().__init__()
        self.pooling: Pooling = settings.pooling
        self.r = settings.r
        self.backbone = Backbone(settings.backbone)
        self.head = nn.Linear(self.backbone.channels, findings)

    def forward(self, images: Float[Tensor, "batch 1 height width"]) -> Output:
        """Logits [batch, finding] and class maps at the backbone's stride."""
        return self.read(self.features(images))

    def features(self, images: Float[Tensor, "batch 1 height width"]) -> Float[Tensor, "batch channel h w"]:
        """The backbone's last maps, [batch, channel, h, w]."""
        return self.backbone(images)

    def read(self, features: Float[Tensor, "batch channel h w"]) -> Output:
        """Maps are positive evidence, without the bias; with `pcam` the probabilities that its pooling attends by."""
        logits = pooled_logits(features, self.head, self.pooling, self.r)
        if self.pooling == "pcam":
            signed = class_maps(features, self.head.weight, relu=False)
            return Output(logits, torch.sigmoid(signed + full_precision(self.head.bias)[:, None, None]))
        return Output(logits, class_maps(features, self.head.weight))


class Classify(Task):
    """Learns labels of whole images."""

    def __init__(self, network: Cam, loss: Literal["plain", "balanced"]) -> None:
        super().__init__(network)
        self.loss = LOSSES[loss]

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """The classification loss over known labels."""
        return {"findings": self.loss(self.network(batch.images).logits, batch.labels, batch.whole.labels)}


def build(settings: CamSettings, findings: Findings, canvas: tuple[int, int]) -> Cam:  # noqa: ARG001 -- convolutional
    """Makes the classifier; its canvas may be of any size."""
    return Cam(settings, len(findings))


def recipe(run: Run, data: Data, settings: CamSettings) -> nn.Module:
    """Trains the classifier in the single step `classify`."""
    task = Classify(build(settings, data.findings, data.canvas), settings.loss)
    return run.fit("classify", task, data.train, settings.classify, data.validation).network


METHOD = Method(
    name="cam",
    title="CAM",
    paper="Wang et al., CVPR 2017, arXiv 1705.02315",
    settings=CamSettings,
    build=build,
    recipe=recipe,
    own_rule=lambda settings: OwnRule(OWN_LEVELS[settings.own_rule]),
    tiny={
        "backbone": {"name": "test_resnet", "output_stride": 8},
        "classify": {"epochs": 1, "batch_size": 4, "learning_rate": 1e-4},
    },
)
