"""Scores whole images: ranking, calibration and operating points, by finding and on average.

Scores are probabilities [image, finding]; labels are 1, 0 or NaN for unknown, and unknown ones never count. Rows have
intervals with the patient as the unit. Operating points come from validation images alone.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from chestmap.evaluation.measure import Measure
from chestmap.evaluation.score_columns import Parts, Resampling, macro, resampled_ends
from chestmap.evaluation.scores import MEAN, Curve, Score, number, thinned
from chestmap.evaluation.statistics.auc import (
    AucInterval,
    average_precision,
    delong,
    known_pairs,
    precision_recall,
    resampled,
    roc,
)
from chestmap.evaluation.statistics.auc_by_patient import PatientAuc, clustered
from chestmap.evaluation.statistics.calibration import Calibration, Kind, brier, fit_calibration, reliability
from chestmap.evaluation.statistics.intervals import patient_means
from chestmap.evaluation.statistics.operating_points import Aim, OperatingPoint, choose_point
from chestmap.evaluation.statistics.resampling import numbered, patient_weights

AIMS: tuple[tuple[Aim, float | None], ...] = (("youden", None), ("sensitivity", 0.95), ("specificity", 0.95))


@dataclass(frozen=True)
class Classifying:
    """How AUC intervals and calibration are computed: the interval's unit, bins of ECE, form of the scaling."""

    interval: AucInterval = "patients"
    bins: int = 15
    calibration: Kind = "platt"


@dataclass(frozen=True, eq=False)
class Images:
    """Scores and labels (NaN: unknown) of the same images and findings; patients are numbers."""

    names: tuple[str, ...]
    scores: Float[np.ndarray, "image finding"]
    labels: Float[np.ndarray, "image finding"]
    patient: Int[np.ndarray, "image"]

    def counts(self, finding: int) -> dict[str, Any]:
        """The columns that every row of a finding has: images with it, without it, and how many patients they have."""
        labels = self.labels[:, finding]
        patients = len(set(self.patient[~np.isnan(labels)].tolist()))
        return {
            "finding": self.names[finding],
            "support": int((labels == 1).sum()),
            "negatives": int((labels == 0).sum()),
            "patients": patients,
            "unit": "images",
        }


@dataclass(frozen=True, eq=False)
class Fitted:
    """What validation images decide. `points` by finding and aim; `calibration` goes into the model folder."""

    calibration: Calibration
    points: dict[str, dict[Aim, OperatingPoint]] = field(default_factory=dict)

    def gates(self, names: Sequence[str]) -> Float[np.ndarray, "finding"]:
        """The score of each finding from which Youden's rule calls it present; NaN where there is none."""
        found = [self.points.get(name, {}).get("youden") for name in names]
        return np.array([point.threshold if point else np.nan for point in found], dtype=np.float64)

    def as_dict(self) -> dict[str, Any]:
        """Plain values for `model.json`, as `chestmap model calibrate` keeps them."""
        points = {name: {aim: point.as_dict() for aim, point in aims.items()} for name, aims in self.points.items()}
        return {"calibration": self.calibration.as_dict(), "operating_points": points}


def fit_on_validation(validation: Images, how: Classifying) -> Fitted:
    """Calibration, and for each finding with both kinds of label the operating points of `AIMS`."""
    points: dict[str, dict[Aim, OperatingPoint]] = {}
    for finding, name in enumerate(validation.names):
        scores, labels = validation.scores[:, finding], validation.labels[:, finding]
        chosen = (choose_point(scores, labels, aim, target) for aim, target in AIMS)
        points[name] = {point.aim: point for point in chosen if point is not None}
    return Fitted(fit_calibration(validation.scores, validation.labels, how.calibration), points)


def ranking_rows(images: Images, how: Classifying, resampling: Resampling) -> list[Score]:
    """AUC and average precision of each finding, and their means, with intervals by patient.

    A finding with one kind of label has no value, and no part in the means.
    """
    total = int(images.patient.max()) + 1
    weights = patient_weights(total, resampling.resamples, resampling.seed)
    rows: list[Score] = []
    parts: tuple[list, list] = [], []
    for finding in range(len(images.names)):
        scores, labels = images.scores[:, finding], images.labels[:, finding]
        found, counts = clustered(scores, labels, images.patient), images.counts(finding)
        if found is None:
            rows += [Score(measure=measure, value=None, **counts) for measure in (Measure.AUC, Measure.AP)]
            continue
        low, high = auc_interval(found, scores, labels, how.interval, resampling.confidence)
        errors = np.pad(found.errors.influence, (0, total - len(found.errors.influence)))
        parts[0].append((found.auc.value, low, high, errors))
        rows.append(Score(measure=Measure.AUC, value=found.auc.value, low=number(low), high=number(high), **counts))
        value = np.array([average_precision(scores, labels)])
        drawn = resampled(scores, labels, images.patient, weights)[1][:, None]
        low, high, errors = resampled_ends(value, drawn, np.bincount(images.patient[labels == 1]), resampling)
        parts[1].append((value[0], low[0], high[0], errors[:, 0]))
        rows.append(Score(measure=Measure.AP, value=number(value[0]), low=number(low[0]), high=number(high[0]), **counts))
    return rows + [
        row
        for measure, part in zip((Measure.AUC, Measure.AP), parts, strict=True)
        for row in _means(measure, part, rows, resampling)
    ]


def auc_interval(
    found: PatientAuc, scores: np.ndarray, labels: np.ndarray, how: AucInterval, confidence: float
) -> tuple[float, float]:
    """By the clustered variance, or by DeLong's where that is asked for by name."""
    auc = found.auc if how == "patients" else delong(scores, labels)
    return auc.interval(confidence, how) if auc else (math.nan, math.nan)


def _means(measure: str, parts: list[tuple], rows: Sequence[Score], how: Resampling) -> list[Score]:
    """The macro means of one measure over the findings that have a value."""
    if not parts:
        return []
    there = [row for row in rows if row.measure == measure and row.value is not None]
    columns = (np.array([np.asarray(one) for one in column])[..., None] for column in zip(*parts, strict=True))
    return [
        replace(row, unit="images")
        for row in macro([{"measure": measure}], [row.finding for row in there], Parts(*columns), how, there)
    ]


def calibration_rows(images: Images, how: Classifying, rule: str = "") -> list[Score]:
    """ECE by equal widths and by equal counts, and the Brier score; `rule` names what was done to the scores before."""
    rows = []
    for finding in range(len(images.names)):
        scores, labels = images.scores[:, finding], images.labels[:, finding]
        curves = [reliability(scores, labels, how.bins, binning) for binning in ("width", "mass")]
        counts = images.counts(finding)
        for measure, curve in zip((Measure.ECE, Measure.ECE_BY_COUNT), curves, strict=True):
            rows.append(Score(measure=measure, value=curve.error if curve else None, rule=rule, **counts))
        rows.append(Score(measure=Measure.BRIER, value=brier(scores, labels), rule=rule, **counts))
    measures = (Measure.ECE, Measure.ECE_BY_COUNT, Measure.BRIER)
    for column, measure in enumerate(measures):
        values = [row.value for row in rows[column :: len(measures)] if row.value is not None]
        if values:
            support = sum(row.support for row in rows[column :: len(measures)])
            rows.append(
                Score(measure=measure, finding=MEAN, value=float(np.mean(values)), support=support, unit="images", rule=rule)
            )
    return rows


def point_rows(images: Images, fitted: Fitted, confidence: float = 0.95) -> list[Score]:
    """Sensitivity and specificity here, at the scores that validation chose; `rule` names the aim."""
    rows = []
    for finding, name in enumerate(images.names):
        for aim, point in fitted.points.get(name, {}).items():
            rule = "validation youden" if aim == "youden" else f"validation {aim} {point.target:g}"
            rows += called_rows(images, finding, point.threshold, confidence, rule)
    return rows


def called_rows(images: Images, finding: int, threshold: float, confidence: float = 0.95, rule: str = "") -> list[Score]:
    """Sensitivity and specificity of one finding at a score, with intervals by patient; no values with one kind of label."""
    values, labels = images.scores[:, finding].astype(np.float64), images.labels[:, finding]
    right = np.stack(
        [np.where(labels == 1, values >= threshold, np.nan), np.where(labels == 0, values < threshold, np.nan)], axis=1
    )
    known_pairs(values, labels)
    both = {0.0, 1.0} <= set(np.unique(labels[~np.isnan(labels)]).tolist())
    found = patient_means(right, images.patient, int(images.patient.max()) + 1, confidence)
    ends = zip((Measure.SENSITIVITY, Measure.SPECIFICITY), found.value, found.low, found.high, strict=True)
    shared = {"threshold": threshold, "rule": rule, **images.counts(finding)}
    return [
        Score(measure=measure, value=number(value), low=number(low), high=number(high), **shared)
        if both
        else Score(measure=measure, value=None, **shared)
        for measure, value, low, high in ends
    ]


def ranking_curves(images: Images, how: Classifying) -> list[Curve]:
    """ROC, precision-recall and reliability of each finding with both kinds of label, thinned to at most 200 points."""
    curves = []
    for finding, name in enumerate(images.names):
        scores, labels = images.scores[:, finding], images.labels[:, finding]
        false, true, _ = roc(scores, labels)
        if not len(false):
            continue
        recall, precision, _ = precision_recall(scores, labels)
        for kind, x, y in (("roc", *thinned(false, true)), ("precision-recall", *thinned(recall, precision))):
            curves.append(Curve(kind=kind, finding=name, x=x, y=y))
        bins = reliability(scores, labels, how.bins)
        if bins is not None:
            parts = (tuple(part.tolist()) for part in (bins.score, bins.share, bins.count))
            x, y, weight = parts
            curves.append(Curve(kind="reliability", finding=name, x=x, y=y, weight=weight))
    return curves


def images_of(names: Sequence[str], scores: np.ndarray, labels: np.ndarray, patient: np.ndarray) -> Images:
    """Bundles scores and labels; NaN labels are unknown, and patients become numbers."""
    return Images(tuple(names), scores.astype(np.float64), labels.astype(np.float64), numbered(patient.tolist()))
