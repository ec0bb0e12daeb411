"""Teaches a network what a larger one answered: the table `[around.teacher]` of a config.

The teacher's answers are read from a predictions folder, so it runs once, whatever the number of epochs, and may be any model.
Scores are matched at a temperature (Hinton, Vinyals, Dean 2015, arXiv 1503.02531), maps by their squared difference.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from typing import Annotated

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from chestmap.errors import BadInput
from chestmap.nn.cam import full_precision, normalized
from chestmap.nn.losses import known_bce
from chestmap.nn.process_sums import shared_count
from chestmap.predictions.folder import Predictions, open_predictions
from chestmap.settings import Settings
from chestmap.storage.results_folder import HEADER
from chestmap.tensors import Batch
from chestmap.training.optimization.schedule import Schedule
from chestmap.training.task import Task
from chestmap.types import Findings, Frame

Weight = Annotated[float, Field(ge=0)]
Labels = Float[Tensor, "batch finding"]
Among = Float[Tensor, "_ finding"]
Maps = Float[Tensor, "batch finding h w"]
NEAR = 1e-6
"""Distance that a teacher's score keeps from 0 and 1: beyond it float32 has no logit."""
SCHEDULE = Schedule(
    epochs=10, batch_size=24, optimizer="adamw", learning_rate=3e-4, weight_decay=0.05, warmup=0.5, decay="cosine", clip=5.0
)


class TeacherAround(Settings):
    """A weight of 0 leaves a term out. `labels` weighs the reader's own labels."""

    predictions: str  # folder of the teacher's answers for the training images, of `chestmap predict`
    temperature: Annotated[float, Field(gt=0)] = 2.0
    scores: Weight = 1.0
    maps: Weight = 1.0
    labels: Weight = 1.0
    schedule: Schedule = SCHEDULE

    @property
    def identity(self) -> dict[str, object]:
        """What a step depends on: the numbers, and which answers they are, wherever these lie."""
        try:
            content = (Path(self.predictions) / HEADER).read_bytes()
        except OSError:
            raise BadInput(
                f"around.teacher.predictions: {self.predictions} holds no {HEADER}; run `chestmap predict TEACHER --out {self.predictions}`"
            ) from None
        return {**self.model_dump(mode="json", exclude={"predictions", "schedule"}), "answers": sha256(content).hexdigest()}


@dataclass(frozen=True, eq=False)
class Answers:
    """The teacher's scores and maps by image, in the student's order of findings."""

    predictions: Predictions
    findings: Findings

    @cached_property
    def _rows(self) -> dict[str, int]:
        return {name: row for row, name in enumerate(self.predictions.image_ids)}

    @cached_property
    def _columns(self) -> list[int]:
        return [self.predictions.findings.index(name) for name in self.findings]

    def check(self, ids: Sequence[str]) -> None:
        """Refuses answers that lack a finding or an image of the training."""
        where = self.predictions.folder
        if missing := [name for name in self.findings if name not in self.predictions.findings]:
            raise BadInput(f"around.teacher: {where} says nothing of {', '.join(missing)}; take a teacher that knows them")
        if absent := [one for one in ids if one not in self._rows]:
            raise BadInput(
                f"around.teacher: {where} lacks {len(absent):,} of {len(ids):,} training images, the first {absent[0]}; "
                "predict them with `chestmap predict TEACHER --source …`"
            )

    def scores(self, ids: Sequence[str]) -> Labels:
        """Scores in [0, 1]."""
        rows = [self._rows[one] for one in ids]
        return torch.from_numpy(self.predictions.scores[rows][:, self._columns])

    def maps(self, ids: Sequence[str], frames: Sequence[Frame], grid: tuple[int, int]) -> Maps:
        """Maps where each image lies now, scaled to [0, 1], on a grid of (width, height) cells; borders go on outside."""
        found = []
        for one, frame in zip(ids, frames, strict=True):
            answer = self.predictions[self._rows[one]]
            maps = torch.from_numpy(answer.maps[self._columns].astype("float32"))
            places = cell_places(frame.resized(grid), answer.frame.resized((maps.shape[2], maps.shape[1])))
            found.append(functional.grid_sample(maps[None], places[None], padding_mode="border", align_corners=False)[0])
        return normalized(torch.stack(found))


def cell_places(to: Frame, of: Frame) -> Float[Tensor, "h w 2"]:
    """For each cell of `to`, where its center lies on the canvas of `of`, from -1 to 1 over its sides."""
    (width, height), (a, b, c, d, e, f) = to.canvas, to.inverse
    x, y = torch.arange(width) + 0.5, (torch.arange(height) + 0.5)[:, None]
    across, down = a * x + b * y + c, d * x + e * y + f  # image pixels
    across, down = across * (of.image[0] / to.image[0]), down * (of.image[1] / to.image[1])
    a, b, c, d, e, f = of.matrix
    return torch.stack(
        [2 * (a * across + b * down + c) / of.canvas[0] - 1, 2 * (d * across + e * down + f) / of.canvas[1] - 1], dim=-1
    )


def score_loss(logits: Labels, taught: Labels, temperature: float, among: Among | None = None) -> Float[Tensor, ""]:
    """Binary cross entropy with the teacher's scores, both at a temperature, times its square; the mean over all pairs."""
    logits = full_precision(logits) / temperature
    aim = torch.sigmoid(torch.logit(taught.to(logits).clamp(NEAR, 1 - NEAR)) / temperature)
    total = functional.binary_cross_entropy_with_logits(logits, aim, reduction="sum")
    count = torch.tensor((taught if among is None else among).numel(), device=logits.device)
    return temperature**2 * total / shared_count(count)


def map_loss(maps: Maps, taught: Maps, scores: Labels, among: Among | None = None) -> Float[Tensor, ""]:
    """Squared difference of maps scaled to [0, 1]; a pair counts by the teacher's score, so absent findings have little part."""
    apart = (normalized(maps) - taught.to(maps.device)).square().mean((-2, -1))
    weights = scores.to(apart)
    count = (scores if among is None else among).sum().to(apart)
    return (weights * apart).sum() / shared_count(count, least=1e-3)


class Distill(Task):
    """Learns the teacher's scores and maps, and the reader's labels."""

    def __init__(self, network: nn.Module, answers: Answers, settings: TeacherAround) -> None:
        super().__init__(network)
        self.answers, self.settings = answers, settings
        self.weights = {"findings": settings.labels, "scores": settings.scores, "maps": settings.maps}

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """The named losses: findings by labels, scores and maps by the teacher."""
        seen, whole = self.network(batch.images), batch.whole
        taught, among = self.answers.scores(batch.ids), self.answers.scores(whole.ids)
        terms: dict[str, Tensor] = {}
        if self.settings.labels:
            terms["findings"] = known_bce(seen.logits, batch.labels, whole.labels)
        if self.settings.scores:
            terms["scores"] = score_loss(seen.logits, taught, self.settings.temperature, among)
        if self.settings.maps:
            grid = seen.maps.shape[-1], seen.maps.shape[-2]
            terms["maps"] = map_loss(seen.maps, self.answers.maps(batch.ids, batch.frames, grid), taught, among)
        return self.weighted(terms)


def answers_of(settings: TeacherAround, findings: Findings, ids: Sequence[str]) -> Answers:
    """Opens the folder, and checks it against the training."""
    answers = Answers(open_predictions(Path(settings.predictions)), findings)
    answers.check(ids)
    return answers
