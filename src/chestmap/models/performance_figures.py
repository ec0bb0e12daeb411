"""Measures the figures of a model card on images that did not train the model, and keeps them in figures.json.

Measured is what the model gives: calibrated scores, presence from its operating points, and its one box for each finding.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import Field

from chestmap.datasets.source import Source
from chestmap.datasets.split import VALIDATES_ON_TEST, Split
from chestmap.errors import Refused
from chestmap.evaluation.classification import Classifying, Images, calibration_rows, called_rows, images_of, ranking_rows
from chestmap.evaluation.evaluated_set import matched
from chestmap.evaluation.floors import fit_floors, floor_rows
from chestmap.evaluation.measure import Measure
from chestmap.evaluation.rates import Limits
from chestmap.evaluation.score_columns import Block, Resampling, scores_of
from chestmap.evaluation.scores import Evaluation, Score
from chestmap.evaluation.statistics.calibration import reliability
from chestmap.evaluation.subgroups import group_scores, groups_of
from chestmap.evaluation.truth import Alignment, Truth, truth_of
from chestmap.models.calibrate import recalibrated
from chestmap.models.cards.card import FORMAT, Figures, chosen_in
from chestmap.models.folder import read_about
from chestmap.models.largest_box import BoxRule, boxes_of
from chestmap.models.leakage import images_for
from chestmap.predictions.folder import Predictions
from chestmap.settings import Settings
from chestmap.types import Box
from chestmap.version import __version__

LIMITS = (0.1, 0.3, 0.5)
"""T(IoU): the share of boxes met with IoU >= T."""


class FigureSettings(Settings):
    """How the figures of a card are measured."""

    resamples: int = Field(default=1000, ge=1)
    least: int = Field(default=10, ge=1)  # minimum positives and negatives of a group to report it


def measure(
    folder: Path, predictions: Predictions, source: Source, split: Split, settings: FigureSettings | None = None, *,
    part: str = "test",
) -> Figures:  # fmt: skip
    """Of the images of `part` that were predicted. Refuses those that trained or calibrated the model."""
    settings, about = settings or FigureSettings(), read_about(folder)
    on = about.get("calibrated_on")
    if part == "train" or (part == "validation" and on and on["split_fingerprint"] == split.fingerprint):
        raise Refused(f"--part {part}: these images trained or calibrated the model; measure it on test")
    truth, notes = images_for(folder, predictions, source, split, part)
    if part == "validation" or VALIDATES_ON_TEST in split.name:
        notes.append("these images chose the epoch whose weights were kept")
    found = matched(recalibrated(predictions, about), truth)
    predictions, truth, alignment = found.predictions, found.truth, found.alignment
    notes += found.notes
    columns = predictions.scores[alignment.rows][:, alignment.predicted], truth.labels[:, alignment.known]
    images, how = images_of(alignment.findings.names, *columns, truth.patient), Resampling(settings.resamples)
    rows = [*ranking_rows(images, Classifying(), how), *calibration_rows(images, Classifying()), *_present(images, about)]
    training = truth_of(source, split.parts["train"])
    rows += _box_rates(predictions, truth, alignment, about, how, training)
    groups = groups_of(source.images[source.rows(truth.ids)])
    scores = group_scores(images, groups, settings.least, how)
    return {
        "format": FORMAT, "chestmap": __version__, "sha256": about["sha256"], "chosen": chosen_in(about),
        "on": {
            "source": source.name, "fingerprint": source.fingerprint, "split": split.name, "part": part, "images": len(truth),
            "patients": int(np.unique(truth.patient).size), "predictions": predictions.header.data, **settings.model_dump(),
        },
        "notes": notes,
        "scores": [row.as_dict() for row in rows],
        "groups": [one.as_dict() for one in scores],
        "reliability": list(_curves(images)),
    }  # fmt: skip


def of_metrics(folder: Path, evaluation: Evaluation) -> Figures:
    """What metrics.json of `chestmap evaluate` has for a card: no figures by sex, age and view, and boxes as evaluation cuts them.

    Refused where another model, or another split of the source that trained this one, was evaluated.
    """
    about, said = read_about(folder), evaluation.about
    data = about["data"]
    if said["model"].get("sha256") != about["sha256"]:
        raise Refused(
            f"metrics of {evaluation.title}: of other weights than those of {folder}; evaluate this model's predictions"
        )
    theirs = data.get("split_fingerprint", said.get("split_fingerprint"))
    if said["source"] == data["source"] and (said["split"], said.get("split_fingerprint")) != (data["split"], theirs):
        raise Refused(
            f"metrics of {evaluation.title}: of split {said['split'] or 'none'}, but {data['split']} trained {folder}; "
            "evaluate the split that trained it"
        )
    same = (said["model"].get("calibration") or {}) == (about.get("calibration") or {})
    levels = about.get("thresholds") or {}
    rows = [
        row
        for row in evaluation.rows
        if row.measure in (Measure.AUC, Measure.AP) or (same and row.measure == Measure.ECE and not row.rule)
    ]
    for row in evaluation.select(Measure.IOU_MET):
        rule = "validation" if row.finding in levels or (levels and row.is_mean) else "own"
        if row.at in LIMITS and (row.geometry, row.rule) in {("largest", rule), ("", "floor medoid")}:
            rows.append(row)
    curves = [curve.as_dict() for curve in evaluation.curves if same and curve.kind == "reliability"]
    notes = [*evaluation.notes, *([] if same else ["the model was calibrated after these images were predicted"])]
    on = {key: said[key] for key in ("source", "split", "images", "patients")}
    on |= {"part": said.get("part", ""), "fingerprint": said.get("set", {}).get("fingerprint", "")}
    return {
        "format": FORMAT, "chestmap": __version__, "sha256": about["sha256"], "chosen": chosen_in(about),
        "on": on | {"resamples": said["settings"]["resamples"], "least": 0}, "notes": notes,
        "scores": [row.as_dict() for row in rows], "groups": [], "reliability": curves,
    }  # fmt: skip


def _present(images: Images, about: Mapping[str, Any]) -> Iterator[Score]:
    """Sensitivity and specificity at the model's own operating points."""
    for index, name in enumerate(images.names):
        score = (about.get("operating_points") or {}).get(name)
        if score is None:
            continue
        yield from called_rows(images, index, score)


def _box_rates(
    predictions: Predictions, truth: Truth, alignment: Alignment, about: Mapping[str, Any], how: Resampling, training: Truth
) -> list[Score]:
    """Share of (image, finding) with boxes of which the model's box meets one; and of the medoid of the training boxes."""
    rule = BoxRule(predictions.header.own_rule, about.get("thresholds") or {})
    names, rows = list(alignment.findings), []
    for image, image_id in enumerate(truth.ids):
        boxes = [box for box in truth.boxes.get(image_id, ()) if box.finding in names]
        if boxes:
            rows += _overlaps(predictions, int(alignment.rows[image]), boxes, rule, (image, names))
    if not rows:
        return []
    finding, image, overlap = (np.array(column) for column in zip(*rows, strict=True))
    values = (overlap[:, None] >= np.array(LIMITS)).astype(np.float64)
    heads = [{"measure": Measure.IOU_MET, "at": at, "geometry": "largest", "rule": "model"} for at in LIMITS]
    found = scores_of(Block(finding=finding, patient=truth.patient[image], values=values, heads=heads), names, how)
    floors = fit_floors(training) if training.boxes else None
    if floors is None or not floors.boxes:
        return found
    told = floor_rows(floors, truth, Limits(iou=LIMITS), how)
    return found + [row for row in told if row.measure == Measure.IOU_MET and row.rule == "floor medoid"]


def _overlaps(
    predictions: Predictions, row: int, boxes: list[Box], rule: BoxRule, place: tuple[int, list[str]]
) -> Iterator[tuple[int, int, float]]:
    """Finding, image and the greatest IoU of the model's box with one that was drawn; 0 where the map gives none."""
    seen, (image, names) = predictions[row], place
    wanted = seen.findings.subset(dict.fromkeys(box.finding for box in boxes))
    columns = [seen.findings.index(name) for name in wanted]
    given = {box.finding: box for box in boxes_of(wanted, seen.scores[columns], seen.maps[columns], seen.frame, rule)}
    for name in wanted:
        true = [box for box in boxes if box.finding == name]
        yield names.index(name), image, max(given[name].iou(box) for box in true) if name in given else 0.0


def _curves(images: Images) -> Iterator[dict[str, Any]]:
    """Of findings with both kinds of label."""
    for index, name in enumerate(images.names):
        labels = images.labels[:, index]
        found = reliability(images.scores[:, index], labels) if {0.0, 1.0} <= set(labels.tolist()) else None
        if found:
            yield {"finding": name} | {
                axis: values.tolist() for axis, values in zip(("x", "y", "weight"), asdict(found).values(), strict=True)
            }
