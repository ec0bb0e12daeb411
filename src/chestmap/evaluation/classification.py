"""Scores of whole images: ranking, calibration and operating points, by finding and on average."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from jaxtyping import Float, Int

from chestmap.evaluation.auc import average_precision, delong, precision_recall, resampled, roc
from chestmap.evaluation.calibration import Calibration, Kind, brier, fit_calibration, reliability
from chestmap.evaluation.operating_points import Aim, OperatingPoint, choose_point, measure_point
from chestmap.evaluation.resampling import interval, numbered, patient_weights
from chestmap.evaluation.score_columns import Resampling
from chestmap.evaluation.scores import MEAN, Curve, Score, finding_groups, number, thinned

AIMS: tuple[tuple[Aim, float | None], ...] = (("youden", None), ("sensitivity", 0.95), ("specificity", 0.95))


@dataclass(frozen=True)
class Classifying:
    interval: Literal["delong", "logit"] = "delong"
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
    """AUC (DeLong's interval) and average precision (by patient) of each finding, and their means (by patient).

    A finding with one kind of label has no value, and no part in the means.
    """
    weights = patient_weights(int(images.patient.max()) + 1, resampling.resamples, resampling.seed)
    rows, centers, samples = [], [], []
    for finding in range(len(images.names)):
        scores, labels = images.scores[:, finding], images.labels[:, finding]
        auc, precision = delong(scores, labels), average_precision(scores, labels)
        counts, lost = images.counts(finding), (None, None)
        if auc is None or precision is None:
            drawn = np.full((resampling.resamples, 2), np.nan)
        else:
            drawn = np.stack(resampled(scores, labels, images.patient, weights), axis=1)
        low, high = interval(drawn, resampling.confidence)
        ends = lost if auc is None else auc.interval(resampling.confidence, on_logit=how.interval == "logit")
        rows.append(Score("AUC", value=auc.value if auc else None, low=number(ends[0]), high=number(ends[1]), **counts))
        rows.append(Score("AP", value=precision if auc else None, low=number(low[1]), high=number(high[1]), **counts))
        centers.append([np.nan, np.nan] if auc is None or precision is None else [auc.value, precision])
        samples.append(drawn)
    return rows + _means(images.names, np.array(centers), np.stack(samples), rows, resampling)


def _means(
    names: Sequence[str], centers: np.ndarray, samples: np.ndarray, rows: Sequence[Score], how: Resampling
) -> list[Score]:
    """Only resamples in which every averaged finding has a value count, so that the mean is always over the same findings."""
    found = []
    for label, members in finding_groups(names, how.without).items():
        there = [index for index in members if not np.isnan(centers[index, 0])]
        if not there:
            continue
        low, high = interval(samples[there].mean(axis=0), how.confidence)
        for column, measure in enumerate(("AUC", "AP")):
            inside = [rows[2 * index] for index in there]
            support, negatives = sum(row.support for row in inside), sum(row.negatives for row in inside)
            ends = number(low[column]), number(high[column])
            center = float(centers[there, column].mean())
            found.append(Score(measure, label, center, *ends, support, "images", negatives=negatives))
    return found


def calibration_rows(images: Images, how: Classifying, rule: str = "") -> list[Score]:
    """ECE by equal widths and by equal counts, and the Brier score; `rule` says what was done to the scores before."""
    rows = []
    for finding in range(len(images.names)):
        scores, labels = images.scores[:, finding], images.labels[:, finding]
        curves = [reliability(scores, labels, how.bins, binning) for binning in ("width", "mass")]
        counts = images.counts(finding)
        for measure, curve in zip(("ECE", "ECE by equal counts"), curves, strict=True):
            rows.append(Score(measure, value=curve.error if curve else None, rule=rule, **counts))
        rows.append(Score("Brier", value=brier(scores, labels), rule=rule, **counts))
    measures = ("ECE", "ECE by equal counts", "Brier")
    for column, measure in enumerate(measures):
        values = [row.value for row in rows[column :: len(measures)] if row.value is not None]
        if values:
            support = sum(row.support for row in rows[column :: len(measures)])
            rows.append(Score(measure, MEAN, float(np.mean(values)), support=support, unit="images", rule=rule))
    return rows


def point_rows(images: Images, fitted: Fitted) -> list[Score]:
    """Sensitivity and specificity here, at the scores that validation chose; `rule` names the aim."""
    rows = []
    for finding, name in enumerate(images.names):
        for aim, point in fitted.points.get(name, {}).items():
            found = measure_point(images.scores[:, finding], images.labels[:, finding], point)
            for measure in ("sensitivity", "specificity"):
                value = getattr(found, measure) if found else None
                rule = "validation youden" if aim == "youden" else f"validation {aim} {point.target:g}"
                rows.append(Score(measure, value=value, threshold=point.threshold, rule=rule, **images.counts(finding)))
    return rows


def ranking_curves(images: Images, how: Classifying) -> list[Curve]:
    """ROC, precision-recall and reliability of each finding with both kinds of label, thinned to at most 200 points."""
    curves = []
    for finding, name in enumerate(images.names):
        scores, labels = images.scores[:, finding], images.labels[:, finding]
        false, true, _ = roc(scores, labels)
        if not len(false):
            continue
        recall, precision, _ = precision_recall(scores, labels)
        curves += [
            Curve("roc", name, *thinned(false, true)),
            Curve("precision-recall", name, *thinned(recall, precision)),
        ]
        bins = reliability(scores, labels, how.bins)
        if bins is not None:
            parts = (tuple(part.tolist()) for part in (bins.score, bins.share, bins.count))
            x, y, weight = parts
            curves.append(Curve("reliability", name, x, y, weight=weight))
    return curves


def images_of(names: Sequence[str], scores: np.ndarray, labels: np.ndarray, patient: np.ndarray) -> Images:
    return Images(tuple(names), scores.astype(np.float64), labels.astype(np.float64), numbered(patient.tolist()))
