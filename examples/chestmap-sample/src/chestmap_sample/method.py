"""A shallow classifier with class maps: the shortest method that trains, predicts and is scored."""

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from chestmap.nn.losses import known_bce
from chestmap.predictions.folder import OwnRule
from chestmap.settings import Settings
from chestmap.tensors import Batch, Output
from chestmap.training import Data, Method, Run, Schedule, Task
from chestmap.types import Findings


class ShallowSettings(Settings):
    name: Literal["shallow"] = "shallow"
    channels: int = Field(default=16, ge=1)
    learn: Schedule = Schedule(epochs=10, batch_size=16, learning_rate=1e-3)


class Shallow(nn.Module):
    """Two convolutions; a finding's map is its evidence at each position, its logit the mean of that."""

    def __init__(self, settings: ShallowSettings, findings: int) -> None:
        super().__init__()
        channels = settings.channels
        self.body = nn.Sequential(
            nn.Conv2d(1, channels, 7, stride=4, padding=3), nn.ReLU(), nn.Conv2d(channels, channels, 3, padding=1), nn.ReLU()
        )
        self.head = nn.Conv2d(channels, findings, 1)

    def forward(self, images: Tensor) -> Output:
        evidence = self.head(self.body(images))
        return Output(evidence.mean((-2, -1)), evidence.relu())


class Learn(Task):
    def forward(self, batch: Batch) -> dict[str, Tensor]:
        return {"findings": known_bce(self.network(batch.images).logits, batch.labels)}


def build(settings: ShallowSettings, findings: Findings, canvas: tuple[int, int]) -> Shallow:
    return Shallow(settings, len(findings))


def recipe(run: Run, data: Data, settings: ShallowSettings) -> torch.nn.Module:
    task = Learn(build(settings, data.findings, data.canvas))
    return run.fit("learn", task, data.train, settings.learn, data.validation).network


METHOD = Method(
    name="shallow",
    title="Shallow sample",
    paper="none; a sample",
    settings=ShallowSettings,
    build=build,
    recipe=recipe,
    own_rule=lambda settings: OwnRule(0.5),
)
