"""Wraps alignment, disease masks, a teacher and erasing around a method: the table `[around]` of a config.

The method itself is unchanged. Alignment is learned first; the method then reads aligned batches only. Its network ends up inside
`Aligned`, which brings maps back. Masks come from the trained method's own confident maps; its network is then trained further under them.
A teacher's answers are learned last. Erasing changes finished maps alone, so other numbers need no training. Innermost first:
masks, erasing, alignment.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import cv2
import numpy as np
import torch
from pydantic import Field, field_validator
from torch import Tensor, nn

from chestmap.errors import BadModel
from chestmap.nn.alignment import Aligned, Aligner, aligned, aligned_frames
from chestmap.nn.boxes import resized
from chestmap.nn.erasing import LEVEL
from chestmap.nn.losses import balanced_bce
from chestmap.nn.masks import MaskMean, least_scores, mask_facts, mask_warnings
from chestmap.nn.wrappers import Masked, Mined, TwoPartNetwork
from chestmap.packs.loader import Loader, LoaderSettings, Part
from chestmap.settings import Settings
from chestmap.tensors import Batch
from chestmap.training.alignment_steps import AlignmentSettings, align, tell_warnings
from chestmap.training.distillation import Distill, TeacherAround, answers_of
from chestmap.training.method import Method
from chestmap.training.optimization.schedule import Schedule
from chestmap.training.run import Run
from chestmap.training.task import Task
from chestmap.training.training_data import Data
from chestmap.types import Findings

Share = Annotated[float, Field(ge=0, le=1)]
TINY: Mapping[str, Any] = {
    "alignment": {
        "aligner": {"backbone": {"name": "test_resnet"}},
        "judge": {"name": "test_resnet"},
        "anchor_images": 16,
        "schedule": {"epochs": 1, "batch_size": 4, "batches": 2, "augment": False, "select": "last"},
    },
    "masks": {"least_score": 0.5, "schedule": {"epochs": 1, "batch_size": 4, "augment": False}},
    "erasing": {},
}
"""Settings, as in TOML, with which each of the three takes a second."""


class AlignmentAround(AlignmentSettings):
    """The table `[around.alignment]`."""

    schedule: Schedule = Schedule(epochs=5, batch_size=16, optimizer="sgd", learning_rate=1e-3, augment=False, select="loss")

    @field_validator("schedule")
    @classmethod
    def _has_a_score(cls, schedule: Schedule) -> Schedule:
        """Refuses a schedule that chooses by AUC or IoU, neither of which an alignment has."""
        if schedule.select not in ("loss", "last"):
            raise ValueError(f'select: allowed: loss, last (got "{schedule.select}"); an alignment has no AUC and no maps')
        return schedule


class MasksAround(Settings):
    """Those of `methods.disease_masks`, learned from the method's own maps."""

    least_score: Share = 0.8  # of an image to enter a mask
    least_share: Annotated[float, Field(gt=0, le=1)] | None = None  # of images, those with the highest scores, in its place
    mask_level: Share = 0.5  # of the mask's range; what lies below is cleared
    asymmetric: tuple[str, ...] = ("Cardiomegaly",)  # findings with maps that are not mirrored
    schedule: Schedule = Schedule(epochs=5, batch_size=32, learning_rate=1e-4, augment=False)


class ErasingAround(Settings):
    """The table `[around.erasing]`."""

    steps: Annotated[int, Field(ge=1)] = 3  # T; 1 leaves a map as it is but scales it
    level: Annotated[float, Field(gt=0, le=1)] = (
        LEVEL  # of the map scaled to [0, 1]: the region of its peak above it is erased
    )


class AroundSettings(Settings):
    """What is left out is off; `[around.erasing]` without a key has the defaults."""

    alignment: AlignmentAround | None = None
    masks: MasksAround | None = None
    teacher: TeacherAround | None = None
    erasing: ErasingAround | None = None

    @property
    def named(self) -> list[str]:
        """The wrappers that the config asks for."""
        return [name for name in type(self).model_fields if getattr(self, name) is not None]

    @property
    def of_model(self) -> dict[str, Any]:
        """What the finished network is built from: all but schedules."""
        without = {name: {"schedule"} for name in self.named if name != "teacher"}
        return self.model_dump(mode="json", exclude_none=True, exclude={"teacher": True, **without})

    @property
    def of_steps(self) -> dict[str, Any]:
        """What the steps of a run depend on."""
        tables = {name: table for name, table in self.of_model.items() if name != "erasing"}
        return tables | ({"teacher": self.teacher.identity} if self.teacher else {})


def refusals(method: Method, settings: Any, around: AroundSettings) -> list[str]:
    """One line for each of the three that makes no sense around this method, as `around.NAME: why`."""
    reasons = {name: method.refuses[name] for name in around.named if name in method.refuses}
    if around.erasing and "erasing" not in reasons and not method.own_rule(settings).normalize:
        reasons["erasing"] = "its maps are cut at a fixed value, and erasing scales each map to [0, 1]"
    if around.masks and "masks" not in reasons:
        with torch.device("meta"):
            network = method.build(settings, Findings(("any",)), (64, 64))
        if not isinstance(network, TwoPartNetwork):
            reasons["masks"] = "its network does not say features(images) and read(features) apart"
    return [f"around.{name}: {method.name} does not take it: {why}; leave it out" for name, why in reasons.items()]


def train_around(run: Run, data: Data, method: Method, settings: Any, around: AroundSettings | None) -> nn.Module:
    """Runs the method's recipe with the steps of its wrappers: `anchor`, `align`, `pairs` before, `masks`, `mask`, `distill` after."""
    if around is None:
        return method.recipe(run, data, settings)
    aligner, teacher = None, around.teacher
    answers = answers_of(teacher, data.findings, data.train.ids) if teacher else None  # refused before anything is trained
    if around.alignment:
        aligner = align(run, data, around.alignment, around.alignment.schedule).aligner.eval()
        data = _through(data, AlignedBatches(aligner))
    network = method.recipe(run, data, settings)
    if around.masks:
        masked = Masked(network, len(data.findings), data.canvas).to(run.device)
        place = run.write("masks", partial(_write_masks, network, data.train, around.masks), of=data.train)
        tell_warnings(run, place)
        masked.get_buffer("masks").copy_(_read_masks(place, masked.get_buffer("masks").shape))
        network = run.fit("mask", Mask(masked), data.train, around.masks.schedule, data.validation).network
    if teacher and answers:
        task = Distill(network, answers, teacher)
        task.maps_are_normalized = method.own_rule(settings).normalize
        network = run.fit("distill", task, data.train, teacher.schedule, data.validation).network
    return _wrapped(network, around, aligner)


def build_around(
    method: Method, settings: Any, around: AroundSettings | None, findings: Findings, canvas: tuple[int, int]
) -> nn.Module:
    """The untrained network of the same shape."""
    network = method.build(settings, findings, canvas)
    if around is None:
        return network
    if around.masks:
        network = Masked(network, len(findings), canvas)
    return _wrapped(network, around, Aligner(around.alignment.aligner) if around.alignment else None)


def _wrapped(network: nn.Module, around: AroundSettings, aligner: Aligner | None) -> nn.Module:
    """Puts erasing, then alignment around a network, where the config asks for them."""
    if around.erasing:
        network = Mined(network, around.erasing.steps, around.erasing.level)
    return Aligned(network, aligner) if aligner else network


@dataclass(frozen=True, eq=False)
class AlignedBatches:
    """Images warped by a finished aligner, with frames that end on the aligned canvas, so that boxes and masks follow."""

    aligner: Aligner

    def __call__(self, batch: Batch) -> Batch:
        """Warps a batch on the aligner's device, and gives the images back on the device that they came from."""
        with torch.no_grad():
            images = batch.images.to(next(self.aligner.parameters()).device, non_blocking=True)
            theta = self.aligner(images)
            moved = aligned(images, theta).to(batch.images.device)
        return replace(batch, images=moved, frames=aligned_frames(batch.frames, theta))


def _through(data: Data, change: AlignedBatches) -> Data:
    """Lets the images of every part pass `change` when they are loaded; absent parts stay absent."""
    validation, test = (part and replace(part, through=change) for part in (data.validation, data.test))
    return replace(data, train=replace(data.train, through=change), validation=validation, test=test)


class Mask(Task):
    """Image labels alone, weighted as in Kim 2020, eq. 10."""

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """The classification loss under the masks; boxes take no part."""
        return {"findings": balanced_bce(self.network(batch.images).logits, batch.labels, batch.whole.labels)}


def _write_masks(network: nn.Module, part: Part, settings: MasksAround, folder: Path) -> None:
    """`masks.npy` (float32, finding by row and column), `masks.json` (facts and warnings), a picture of each."""
    asymmetric = {part.findings.resolve(name) for name in settings.asymmetric if name in part.findings}
    least: float | Tensor = settings.least_score
    if settings.least_share:
        least = least_scores(
            torch.cat([torch.sigmoid(logits.double()) for _, logits, _ in _seen(network, part)]), settings.least_share
        )
    mean, places = MaskMean(torch.tensor([name not in asymmetric for name in part.findings]), least), torch.zeros(0)
    for maps, logits, batch in _seen(network, part):
        mean.add(maps, logits)
        marked = batch.masks(maps.shape[-2], maps.shape[-1]).sum(0)
        places = places + marked if len(places) else marked
    found = mean.masks(settings.mask_level)
    masks, facts = found.numpy(), mask_facts(part.findings.names, mean, found, places)
    np.save(folder / "masks.npy", masks)
    asked = f"the highest {settings.least_share:g}" if settings.least_share else f"a score of {settings.least_score:g}"
    about = {"findings": part.findings.names, "warnings": mask_warnings(facts, asked), "masks": facts}
    (folder / "masks.json").write_text(json.dumps(about, indent=1) + "\n")
    for name, mask in zip(part.findings, masks, strict=True):
        cv2.imwrite(str(folder / f"{name.replace(' ', '_').replace('/', '_')}.png"), np.rint(mask * 255).astype(np.uint8))


def _seen(network: nn.Module, part: Part) -> Iterator[tuple[Tensor, Tensor, Batch]]:
    """Maps and logits of every image."""
    network.eval()
    device = next(network.parameters()).device
    for batch in Loader(part=part, settings=LoaderSettings(batch_size=16), shuffle=False).epoch(0):
        with torch.inference_mode():
            output = network(batch.images.to(device))
        yield output.maps.cpu(), output.logits.cpu(), batch


def _read_masks(folder: Path, shape: torch.Size) -> Tensor:
    try:
        masks = np.load(folder / "masks.npy", allow_pickle=False)
    except (OSError, ValueError) as error:
        raise BadModel(f"{folder}: no readable masks ({error}); delete the step's folder to make it anew") from None
    return resized(torch.from_numpy(masks), shape[-1], shape[-2])
