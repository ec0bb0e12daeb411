"""Calibrates a trained model on validation images: scores, operating points, and where each finding's map is cut.

All three are those of `evaluation`, so that what a model does is what was scored; a finding with few images or boxes keeps its
scores, or the method's own rule.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from jaxtyping import Float, Int
from pydantic import Field
from scipy.special import expit, logit

from chestmap.datasets.source import Source
from chestmap.datasets.split import VALIDATES_ON_TEST, Split
from chestmap.errors import BadInput, Refused
from chestmap.evaluation.evaluated_set import matched
from chestmap.evaluation.maps.passes import look_at_pairs
from chestmap.evaluation.maps.thresholds import ThresholdSearch, thresholds_of
from chestmap.evaluation.settings import EvaluationSettings
from chestmap.evaluation.statistics.auc import known_pairs
from chestmap.evaluation.statistics.calibration import NEAREST, Calibration, fit_calibration, reliability
from chestmap.evaluation.statistics.operating_points import Aim, OperatingPoint, choose_point
from chestmap.evaluation.truth import Alignment, Truth, aligned
from chestmap.models.cards.card import write_card
from chestmap.models.folder import read_about, write_about
from chestmap.models.leakage import images_for
from chestmap.predictions.folder import OwnRule, Predictions
from chestmap.settings import Settings
from chestmap.version import __version__

LEAST = 1e-30
"""Of a score before its logit is taken: float32 distinguishes small ones, but none from 1 that is nearer than `NEAREST`."""


class CalibrateSettings(Settings):
    """How calibration, operating points and levels of maps are chosen."""

    kind: Literal["platt", "temperature"] = "platt"
    aim: Aim = "youden"
    target: float = Field(default=0.95, gt=0, le=1)  # of sensitivity, or of specificity
    least: int = Field(default=10, ge=1)  # validation images with the finding, without it, and with a box of it


@dataclass(frozen=True, kw_only=True)
class FindingCalibration:
    """Of one finding; None where there were too few images or boxes, or where no finite calibration is best.

    `slope` and `offset` are of the network's logit, `point` is on the calibrated score, `level` on the map scaled to [0, 1].
    `error` is the expected calibration error before and after, `met` the share of boxes met with IoU >= 0.3, on these images.
    """

    finding: str
    images: tuple[int, int]  # with and without
    boxed: int = 0
    slope: float | None = None
    offset: float = 0.0
    error: tuple[float, float] | None = None
    point: OperatingPoint | None = None
    level: float | None = None
    met: float | None = None

    def as_json(self) -> dict[str, Any]:
        """What a reader of model.json wants to know besides the numbers that are applied."""
        told: dict[str, Any] = {"with": self.images[0], "without": self.images[1], "boxed": self.boxed}
        if self.error:
            told["ece"] = list(self.error)
        if self.point:
            told |= {"sensitivity": self.point.sensitivity, "specificity": self.point.specificity}
        return told if self.met is None else told | {"met": self.met}


@dataclass(frozen=True)
class CalibratedModel:
    """Joins what was decided for each finding; `on` names the images, and the way they were used."""

    findings: tuple[FindingCalibration, ...]
    on: Mapping[str, Any]

    def as_json(self) -> dict[str, Any]:
        """The keys of model.json; without them a model is as it was trained."""
        return {
            "calibration": {
                one.finding: {"slope": one.slope, "offset": one.offset} for one in self.findings if one.slope is not None
            },
            "operating_points": {one.finding: one.point.threshold for one in self.findings if one.point},
            "thresholds": {one.finding: one.level for one in self.findings if one.level is not None},
            "calibrated_on": {**self.on, "findings": {one.finding: one.as_json() for one in self.findings}},
        }


def calibrate(
    folder: Path,
    predictions: Predictions,
    source: Source,
    split: Split,
    settings: CalibrateSettings | None = None,
    *,
    part: str = "validation",
) -> CalibratedModel:
    """For a model folder, which stays as it is. Refuses test and training images, another model's predictions, and leaks that
    no name excuses.
    """
    settings = settings or CalibrateSettings()
    if part != "validation":
        why = "the test would no longer be one" if part == "test" else "scores are too sure on what trained the model"
        raise Refused(f"--part {part}: calibration and thresholds come from validation alone; {why}")
    if VALIDATES_ON_TEST in split.name:
        raise Refused(f"split {split.name}: its validation is its test; calibrate on other patients")
    truth, notes = images_for(folder, predictions, source, split, part)
    found = matched(predictions, truth)
    predictions, truth, notes = found.predictions, found.truth, [*notes, *found.notes]
    decided = _decided(predictions, truth, settings)
    if not any(one.slope is not None or one.point or one.level is not None for one in decided):
        raise BadInput(
            f"{folder}: no finding has {settings.least} validation images with it and {settings.least} without, or "
            f"{settings.least} with a box of it; predict more validation images, or allow fewer with --least"
        )
    on = {
        "chestmap": __version__, "source": source.name, "fingerprint": source.fingerprint, "split": split.name,
        "split_fingerprint": split.fingerprint, "part": part, "images": len(truth),
        "patients": int(np.unique(truth.patient).size), **settings.model_dump(), "notes": notes,
    }  # fmt: skip
    return CalibratedModel(tuple(decided), on)


def write_calibration(folder: Path, calibrated: CalibratedModel) -> None:
    """Writes a calibration into model.json, the weights untouched.

    The card comes last, since it reports what model.json holds then.
    """
    about = read_about(folder) | calibrated.as_json()
    write_about(folder, about)
    write_card(folder, about)


def uncalibrated(predictions: Predictions) -> Float[np.ndarray, "image finding"]:
    """The scores as the network gave them, where a calibration was applied when they were predicted."""
    lines = predictions.header.model.get("calibration") or {}
    slope = np.array([lines.get(name, {}).get("slope", 1.0) for name in predictions.findings])
    offset = np.array([lines.get(name, {}).get("offset", 0.0) for name in predictions.findings])
    scores = predictions.scores.astype(np.float64)
    before = expit((logit(np.clip(scores, LEAST, 1 - NEAREST)) - offset) / slope)
    return np.where([name in lines for name in predictions.findings], before, scores)


def recalibrated(predictions: Predictions, about: Mapping[str, Any]) -> Predictions:
    """Gives the predictions the scores that the model of `about` would give now.

    The calibration applied at prediction is undone first. Maps and boxes stay as they are.
    """
    lines, names = about.get("calibration") or {}, predictions.findings.names
    fitted = tuple(name in lines for name in names)
    slope, offset = (tuple(lines.get(name, {}).get(key, 0.0) for name in names) for key in ("slope", "offset"))
    scores = Calibration("platt", slope, offset, fitted).apply(uncalibrated(predictions)).astype(np.float32)
    table = predictions.table.with_columns(**{name: scores[:, column] for column, name in enumerate(names)})
    model = {key: value for key, value in predictions.header.model.items() if key != "calibration"}
    header = replace(predictions.header, model=model | ({"calibration": lines} if lines else {}))
    return replace(predictions, header=header, table=table)


def _decided(predictions: Predictions, truth: Truth, settings: CalibrateSettings) -> list[FindingCalibration]:
    """Decides calibration, operating point and level of each finding that predictions and truth share.

    A calibration that was applied at prediction is undone first, so that this one starts from the logits of the
    network.
    """
    alignment = aligned(predictions, truth)
    scores = uncalibrated(predictions)[alignment.rows][:, alignment.predicted]
    labels = truth.labels[:, alignment.known].astype(np.float64)
    maps = _cut(predictions, truth, alignment, settings.least)
    return [
        replace(_of_scores(name, scores[:, index], labels[:, index], settings), **maps.get(index, {}))
        for index, name in enumerate(alignment.findings)
    ]


def _of_scores(
    finding: str, scores: Float[np.ndarray, "image"], labels: Float[np.ndarray, "image"], settings: CalibrateSettings
) -> FindingCalibration:
    """Calibrates one finding, and chooses its operating point on the calibrated scores.

    Labels of NaN are unknown. With fewer than `settings.least` images of either label, nothing is decided.
    """
    images = int((labels == 1).sum()), int((labels == 0).sum())
    if min(images) < settings.least:
        return FindingCalibration(finding=finding, images=images)
    fit = fit_calibration(scores[:, None], labels[:, None], settings.kind)
    mended = fit.apply(scores[:, None])[:, 0]
    point = choose_point(mended, labels, settings.aim, None if settings.aim == "youden" else settings.target)
    if point is not None:
        point = replace(point, threshold=_between(mended, labels, point.threshold))
    curves = [reliability(values, labels) for values in (scores, mended)]
    error = (curves[0].error, curves[1].error) if curves[0] and curves[1] and fit.fitted[0] else None
    slope = fit.slope[0] if fit.fitted[0] else None
    return FindingCalibration(finding=finding, images=images, slope=slope, offset=fit.offset[0], error=error, point=point)


def _between(scores: Float[np.ndarray, "image"], labels: Float[np.ndarray, "image"], threshold: float) -> float:
    """Halfway to the next score below, so that rounding elsewhere calls no image of these otherwise."""
    values, _ = known_pairs(scores, labels)
    if threshold > values.max():  # nothing here is called present
        return float((values.max() + 1) / 2)
    below = values[values < threshold]
    return float((threshold + below.max()) / 2) if len(below) else threshold / 2


def _cut(predictions: Predictions, truth: Truth, alignment: Alignment, least: int) -> dict[int, dict[str, Any]]:
    """By finding with a box: how many images, and with enough the level at which the largest region meets most boxes.

    Levels are of scaled maps also where the method's own rule takes them as they are: model.json means them so.
    """
    names, how = alignment.findings.names, EvaluationSettings()
    boxed = [{box.finding for box in boxes} for boxes in (truth.boxes.get(one, ()) for one in truth.ids)]
    counts = [sum(name in there for there in boxed) for name in names]
    found: dict[int, dict[str, Any]] = {index: {"boxed": count} for index, count in enumerate(counts) if count}
    if max(counts) < least:
        return found
    own = OwnRule(predictions.header.own_rule.threshold)
    pairs, _ = look_at_pairs(predictions, truth, alignment, how.reading(own))
    columns = ThresholdSearch(how.iou, seed=how.seed).columns(pairs, truth.patient, len(names), pairs)
    best: Int[np.ndarray, "finding"] = columns["largest", "validation"].by_fold[0]
    for index in np.unique(pairs.finding).tolist():
        rows = np.flatnonzero(pairs.finding == index)
        if len(rows) >= least:
            met = float((pairs.best[rows, 0, best[index]] >= 0.3).mean())
            found[index] |= {"level": float(thresholds_of("largest", own.threshold)[best[index]]), "met": met}
    return found
