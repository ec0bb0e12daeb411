"""Collects what is known of the images that are scored, and who may be scored on what.

Boxes are in image pixels, labels 1, 0 or NaN. A truth never holds a score, so the same truth serves any number of models.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from jaxtyping import Float, Int

from chestmap.datasets.source import UNKNOWN, Source
from chestmap.datasets.split import VALIDATES_ON_TEST, Split
from chestmap.errors import BadInput, Leak
from chestmap.evaluation.statistics.resampling import numbered
from chestmap.predictions.folder import Predictions
from chestmap.types import Box, Findings


@dataclass(frozen=True, eq=False, kw_only=True)
class Truth:
    """Labels are 0, 1 or NaN (unknown, also where a source gives a soft label); boxes are in image pixels, found by image id.

    `sizes` are (width, height) of image space, NaN where the source does not know them.
    """

    name: str
    findings: Findings
    ids: tuple[str, ...]
    patients: tuple[str, ...]
    labels: Float[np.ndarray, "image finding"]
    boxes: Mapping[str, tuple[Box, ...]]
    sizes: Float[np.ndarray, "image 2"]
    fingerprint: str = ""  # of the source

    def __len__(self) -> int:
        return len(self.ids)

    @cached_property
    def patient(self) -> Int[np.ndarray, "image"]:
        """Patients as numbers; an image without a patient is one of its own."""
        return numbered(
            [f"p{patient}" if patient else f"i{image}" for patient, image in zip(self.patients, self.ids, strict=True)]
        )

    @cached_property
    def boxed(self) -> tuple[str, ...]:
        """Findings that carry at least one box here, in the order of the vocabulary."""
        found = {box.finding for image_id in self.ids for box in self.boxes.get(image_id, ())}
        return tuple(name for name in self.findings if name in found)


def truth_of(source: Source, ids: Iterable[str] | None = None) -> Truth:
    """All images of a source, or those named."""
    rows = np.arange(len(source)) if ids is None else source.rows(ids)
    images = source.images[rows]
    labels = source.labels[rows].astype(np.float32)
    labels[labels == UNKNOWN] = np.nan
    sizes = images.select("width", "height").to_numpy().astype(np.float64)
    chosen = tuple(images["image_id"])
    boxes = {image_id: source.boxes[image_id] for image_id in chosen if image_id in source.boxes}
    return Truth(
        name=source.name,
        findings=source.findings,
        ids=chosen,
        patients=tuple(images["patient_id"]),
        labels=labels,
        boxes=boxes,
        sizes=sizes,
        fingerprint=source.fingerprint,
    )


@dataclass(frozen=True, eq=False)
class Alignment:
    """Predictions and truth side by side. `rows[i]` is the prediction of image i of the truth; findings are those both know."""

    rows: Int[np.ndarray, "image"]
    findings: Findings
    predicted: Int[np.ndarray, "finding"]
    known: Int[np.ndarray, "finding"]


def aligned(predictions: Predictions, truth: Truth) -> Alignment:
    """Every image of the truth must have been predicted, once; images beyond are left out, as are findings that only one side has."""
    place = {image_id: row for row, image_id in enumerate(predictions.image_ids)}
    if len(place) < len(predictions):
        seen: set[str] = set()
        twice = [one for one in predictions.image_ids if one in seen or seen.add(one)]
        raise BadInput(
            f"{predictions.folder}: {len(twice)} image ids come more than once, the first is {twice[0]}; predict again, or keep one "
            "row for each image"
        )
    missing = [image_id for image_id in truth.ids if image_id not in place]
    if missing:
        raise BadInput(
            f"{predictions.folder}: {len(missing)} of the {len(truth)} images to score were not predicted, the first is "
            f"{missing[0]}; predict them, or score a part that the predictions cover"
        )
    both = [name for name in predictions.findings if name in truth.findings]
    if not both:
        raise BadInput(
            f"{predictions.folder}: findings {', '.join(predictions.findings)} and those of {truth.name} "
            f"({', '.join(truth.findings)}) have none in common"
        )
    return Alignment(
        np.array([place[image_id] for image_id in truth.ids], dtype=np.int64),
        truth.findings.subset(both),
        np.array([predictions.findings.index(name) for name in both], dtype=np.int64),
        np.array([truth.findings.index(name) for name in both], dtype=np.int64),
    )


def sized(truth: Truth, predictions: Predictions, alignment: Alignment) -> Truth:
    """The truth with the image sizes of the predictions where the source knows none."""
    known = predictions.table.select("width", "height").to_numpy().astype(np.float64)[alignment.rows]
    return replace(truth, sizes=np.where(np.isnan(truth.sizes), known, truth.sizes))


def shared_patients(one: Truth, other: Truth) -> int:
    """Counts patients in both parts; images without a patient never count."""
    return len((set(one.patients) - {""}) & (set(other.patients) - {""}))


def leak_notes(truth: Truth, others: Mapping[str, Truth], split: Split | None) -> Sequence[str]:
    """What the scored part shares with `others` (training, validation), one line each; refused unless the split's name allows it."""
    notes = []
    for part, other in others.items():
        images, patients = len(set(truth.ids) & set(other.ids)), shared_patients(truth, other)
        if not images and not patients:
            continue
        of = len(set(truth.patients) - {""})
        note = f"{images} images and {patients} of the {of} patients that are scored are also in {part}"
        says_so = split is not None and (split.shares_patients or (part == "validation" and VALIDATES_ON_TEST in split.name))
        if not says_so:
            raise Leak(
                f"{truth.name}: {note}; score other patients, or name a split that says it shares them (such as ham-fold-1)"
            )
        notes.append(f"split {split.name if split else ''} leaks: {note}")
    return notes
