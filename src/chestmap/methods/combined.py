"""Combines a classifier and a map of boxes in one network, of parts that the other methods measure one by one.

| part | from | here |
|---|---|---|
| stages joined on one fine grid | Lin et al., CVPR 2017 | `nn.trunk.Pyramid`, `backbone.pyramid` |
| the classifier: log-sum-exp next to the mean | HAM, Wang 2017 | `Combined.read` |
| cells that say whether they lie in the box | Li et al., CVPR 2018 | `Combined.head`, `cell_loss` |
| films without boxes: an absent finding has no cells | Li et al., CVPR 2018 | `absent_weight` |
| where boxes of a finding lie in training | the floor of every table | `place_prior`, `Combined.place` |
| one rectangle from the cells' chances | | `nn.rectangles`, `decode = "rectangle"` |
| several networks, and mirrored films | | `members`, `mirror` |

Cells are learned on boxed pairs of image and finding alone, so they say where a finding is if it is there; whether it is there is the
classifier's business. A map is three quarters the rectangle and one quarter the chances, so that half of its range is the rectangle's outline
and its peak the most certain cell inside.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from chestmap.nn.backbone import Backbone, BackboneSettings
from chestmap.nn.boxes import resized
from chestmap.nn.cam import full_precision, normalized, without_autocast
from chestmap.nn.losses import known_bce
from chestmap.nn.pooling import log_sum_exp, mean
from chestmap.nn.process_sums import shared_count
from chestmap.nn.rectangles import best_rectangle, intervals
from chestmap.packs.loader import Part
from chestmap.predictions.folder import OwnRule
from chestmap.settings import Settings
from chestmap.tensors import Batch, Output
from chestmap.training import Data, Method, Run, Schedule, Task
from chestmap.types import Findings

Weight = Annotated[float, Field(ge=0)]
Cells = Float[Tensor, "batch finding h w"]
Labels = Float[Tensor, "batch finding"]
Among = Float[Tensor, "_ finding"]
OWN_RULE = OwnRule(0.5)
SCHEDULE = Schedule(
    epochs=12,
    batch_size=24,
    optimizer="adamw",
    learning_rate=6e-4,
    weight_decay=0.05,
    warmup=0.5,
    decay="cosine",
    clip=5.0,
    ema=0.99,
    boxed_share=0.5,
    select="last",
)


class CombinedSettings(Settings):
    """A weight of 0 leaves a term out. `mirror`, `sharpness` and `decode` count when a model predicts."""

    name: Literal["combined"] = "combined"
    backbone: BackboneSettings = BackboneSettings(
        name="tf_efficientnet_lite0", weights="package:efficientnet-lite0", stages=(2, 3, 4), frozen=2, pyramid=96
    )
    width: Annotated[int, Field(ge=8)] = 96  # channels of the features that cells are read from
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.1
    r: Annotated[float, Field(gt=0)] = 6.0
    cell_weight: Weight = 1.0
    overlap_weight: Weight = 0.0  # of 1 - soft IoU of the cells with the box
    absent_weight: Weight = 0.0
    place_prior: bool = True
    decode: Literal["cells", "rectangle"] = "rectangle"
    sharpness: Annotated[float, Field(gt=0)] = 1.0
    mirror: bool = False  # whether the mirrored film is looked at, too; it needs images, not kept features
    members: Annotated[int, Field(ge=1)] = 1  # networks that learn from other seeds and speak together
    learn: Schedule = SCHEDULE


@dataclass(frozen=True, eq=False)
class CellOutputs(Output):
    """`cells` are logits: of lying in the box, given that the finding is there."""

    cells: Cells


class Member(nn.Module):
    """One network: the joined stages, the classifier, and the cells."""

    def __init__(self, settings: CombinedSettings, findings: int, canvas: tuple[int, int]) -> None:
        super().__init__()
        self.r = settings.r
        self.backbone = Backbone(settings.backbone)
        joined, deep = self.backbone.channels, self.backbone.channels_of[settings.backbone.stages[-1]]
        self.dropout = nn.Dropout(settings.dropout)
        self.classifier = nn.Linear(joined + deep, findings)
        self.recognize = nn.Sequential(
            nn.Conv2d(joined, settings.width, 3, padding=1, bias=False), nn.BatchNorm2d(settings.width), nn.ReLU()
        )
        self.cells = nn.Conv2d(settings.width, findings, 1)
        rows, columns = -(-canvas[1] // self.backbone.stride), -(-canvas[0] // self.backbone.stride)
        self.place = nn.Parameter(torch.zeros(findings, rows, columns))

    def forward(self, images: Float[Tensor, "batch _pixels height width"]) -> CellOutputs:
        """Gives image logits from pooled features, and cells from the joined maps plus the learned place prior."""
        maps = self.backbone.stages(images)
        joined = self.backbone.joined(maps)
        vector = torch.cat([log_sum_exp(joined, self.r), mean(maps[-1])], dim=1)
        features = full_precision(self.recognize(joined))
        with without_autocast(features):
            cells = self.cells(features)
            place = resized(self.place[None], cells.shape[-1], cells.shape[-2])[
                0
            ]  # of another canvas than it was learned on
            cells = cells + place
            return CellOutputs(self.classifier(self.dropout(vector)), torch.sigmoid(cells), cells)


class Combined(nn.Module):
    """The members together, and what their cells say as maps."""

    def __init__(self, members: Sequence[Member], settings: CombinedSettings) -> None:
        super().__init__()
        self.members, self.settings = nn.ModuleList(members), settings

    def forward(self, images: Float[Tensor, "batch _pixels height width"]) -> Output:
        """Averages members, and mirrored images where `mirror` asks for it; maps show the best rectangle."""
        seen = [member(images) for member in self.members]
        logits, chances = [one.logits for one in seen], [one.maps for one in seen]
        if self.settings.mirror:
            seen = [member(images.flip(-1)) for member in self.members]
            logits += [one.logits for one in seen]
            chances += [one.maps.flip(-1) for one in seen]
        return Output(torch.stack(logits).mean(0), self.shown(torch.stack(chances).mean(0)))

    def shown(self, chances: Cells) -> Cells:
        """The map: chances, or the best rectangle raised above them."""
        if self.settings.decode == "cells":
            return chances
        down, across = (intervals(cells).to(chances) for cells in chances.shape[-2:])
        box = best_rectangle(chances, down, across, self.settings.sharpness)
        return 0.75 * box + 0.25 * normalized(chances)


def cell_loss(cells: Cells, masks: Cells, boxed: Labels, among: Among | None = None) -> Float[Tensor, ""]:
    """Cross entropy of the cells of boxed pairs, where pairs with small boxes count as much as those with large ones.

    Of a piece of a batch, here and below, `among` are the whole batch's.
    """
    marked = boxed == 1
    found = functional.binary_cross_entropy_with_logits(cells[marked], masks[marked], reduction="none").mean((-2, -1))
    share = masks[marked].mean((-2, -1)).clamp(0.01, 0.5)
    entropy = -(share * share.log() + (1 - share) * torch.log1p(-share))  # of cells that know the box's size alone
    return (found / entropy).sum() / shared_count((marked if among is None else among == 1).sum())


def overlap_loss(cells: Cells, masks: Cells, boxed: Labels, among: Among | None = None) -> Float[Tensor, ""]:
    """1 - the soft IoU of boxed pairs."""
    marked = boxed == 1
    p, truth = torch.sigmoid(cells[marked]), masks[marked]
    shared = (p * truth).sum((-2, -1))
    iou = shared / (p.sum((-2, -1)) + truth.sum((-2, -1)) - shared).clamp_min(1e-6)
    return (1 - iou).sum() / shared_count((marked if among is None else among == 1).sum())


def absent_loss(cells: Cells, labels: Labels, among: Among | None = None) -> Float[Tensor, ""]:
    """What cells say of findings that are known to be absent, where they should say nothing."""
    absent = labels == 0
    return functional.softplus(cells[absent]).mean((-2, -1)).sum() / shared_count(
        (absent if among is None else among == 0).sum()
    )


class Learn(Task):
    """Learns labels of images, and boxes by their cells."""

    network: Member

    def __init__(self, network: Member, settings: CombinedSettings) -> None:
        super().__init__(network)
        self.settings = settings
        self.weights = {
            "cells": settings.cell_weight,
            "overlap": settings.overlap_weight,
            "absent": settings.absent_weight,
        }

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """The named losses: findings of images, cells and overlap of boxed images, absent findings."""
        seen, labels = self.network(batch.images), batch.whole.labels
        terms = {"findings": known_bce(seen.logits, batch.labels, labels)}
        grid = seen.cells.shape[-1], seen.cells.shape[-2]
        masks, boxed = covered(batch, grid)
        among = boxed if batch.of is None else covered(batch.of, grid)[1]
        if self.weights["cells"]:
            terms["cells"] = cell_loss(seen.cells, masks, boxed, among)
        if self.weights["overlap"]:
            terms["overlap"] = overlap_loss(seen.cells, masks, boxed, among)
        if self.weights["absent"]:
            terms["absent"] = absent_loss(seen.cells, batch.labels, labels)
        return self.weighted(terms)


def covered(batch: Batch, grid: tuple[int, int]) -> tuple[Cells, Labels]:
    """The shares of cells, and 1 where a finding has a box on the canvas."""
    masks = shares(batch, grid)
    return masks, batch.boxed * (masks.amax((-2, -1)) > 0)


def shares(batch: Batch, grid: tuple[int, int], finer: int = 4) -> Cells:
    """How much of each cell the union of a finding's boxes covers."""
    return functional.avg_pool2d(batch.masks(grid[1] * finer, grid[0] * finer), finer)


def start_place(member: Member, part: Part, smooth: int = 3) -> None:
    """Sets the place prior to the log odds of how often each cell lies in a box of the training part."""
    findings, rows, columns = member.place.shape
    sums, counts = torch.zeros(findings, rows, columns), torch.zeros(findings, 1, 1)
    for position in torch.from_numpy(part.boxed.any(1)).nonzero().flatten().tolist():
        frame = part.base_frame(part.ids[position])
        batch = Batch(
            images=torch.zeros(1, 1, 1, 1),
            labels=torch.zeros(1, findings),
            frames=(frame,),
            boxes=(part.boxes(position),),
            ids=("",),
            findings=part.findings,
        )
        sums += shares(batch, (columns, rows))[0]
        counts += batch.boxed[0][:, None, None]
    every = (sums.sum(0) + 0.1) / (counts.sum() + 1)  # of all findings, for those without boxes
    chance = (sums + 4 * every) / (counts + 4)
    chance = functional.avg_pool2d(chance[None], smooth, 1, smooth // 2, count_include_pad=False)[0]
    with torch.no_grad():
        member.place.copy_(torch.logit(chance.clamp(0.002, 0.998)))


def build(settings: CombinedSettings, findings: Findings, canvas: tuple[int, int]) -> Combined:
    """Makes as many members as the settings ask for; the canvas fixes the size of the place prior."""
    return Combined([Member(settings, len(findings), canvas) for _ in range(settings.members)], settings)


def recipe(run: Run, data: Data, settings: CombinedSettings) -> nn.Module:
    """Trains the members one after another, each from its own seed; the place prior starts from the training boxes."""
    members = []
    for number in range(settings.members):
        member = Member(settings, len(data.findings), data.canvas)
        if settings.place_prior:
            start_place(member, data.train)
        name = "learn" if settings.members == 1 else f"learn{number + 1}"
        members.append(run.fit(name, Learn(member, settings), data.train, settings.learn, data.validation).network)
    return Combined(members, settings)


METHOD = Method(
    name="combined",
    title="Combined",
    paper="this project",
    settings=CombinedSettings,
    build=build,
    recipe=recipe,
    own_rule=lambda _: OWN_RULE,
    tiny={
        "backbone": {"name": "test_resnet", "weights": "none", "pyramid": 16, "frozen": 0},
        "width": 16,
        "learn": {"epochs": 1, "batch_size": 4, "learning_rate": 1e-4, "warmup": 0.0, "boxed_share": None},
    },
)
