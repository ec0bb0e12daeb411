"""The entry: one predictions folder against the truth, by one protocol, with floors and the presets asked for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from pydantic import Field

from chestmap.data.predictions import Predictions
from chestmap.data.split import Split
from chestmap.evaluation.blocks import Resampling
from chestmap.evaluation.calibration import Kind
from chestmap.evaluation.classification import (
    Classifying,
    Fitted,
    Images,
    calibration_rows,
    fit_on_validation,
    images_of,
    point_rows,
    ranking_curves,
    ranking_rows,
)
from chestmap.evaluation.comparison import Cases, cases_of
from chestmap.evaluation.detection import afp_rows, froc_rows, pointing_rows, searched_rows
from chestmap.evaluation.floors import ceiling_rows, fit_floors, floor_rows
from chestmap.evaluation.localization import Localized, Pass, localize
from chestmap.evaluation.protocols import PRESETS, PresetName
from chestmap.evaluation.rates import Limits, Localization, accuracy_curves, rate_rows, threshold_curves
from chestmap.evaluation.scores import Curve, Evaluation, Score
from chestmap.evaluation.surface import Surface
from chestmap.evaluation.thresholds import columns_by_rule, fixed_rules, thresholds_of
from chestmap.evaluation.truth import Alignment, Truth, aligned, leak_notes, sized
from chestmap.settings import Settings


class EvaluationSettings(Settings):
    """Defaults are the protocol of `research/`: see docs/how-to/evaluate. Rates are in [0, 1]."""

    iou: tuple[float, ...] = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7)
    ior: tuple[float, ...] = (0.1, 0.25, 0.5, 0.75, 0.9)  # also those of T(IoGT)
    strict: bool = False  # more than T instead of at least T
    resamples: int = Field(default=1000, ge=1)  # of patients
    confidence: float = Field(default=0.95, gt=0, lt=1)
    interval: str = Field(default="delong", pattern="^(delong|logit)$")  # of AUC
    seed: int = 0
    without: tuple[str, ...] = ("Cardiomegaly",)  # a further mean leaves each of these out
    presets: tuple[PresetName, ...] = ()
    calibration: Kind = "platt"
    bins: int = Field(default=15, ge=2)
    met: float = Field(default=0.3, gt=0, le=1)  # IoU with which a detection meets a box, for FROC
    negatives: int = Field(default=2000, ge=0)  # images without a finding whose maps are read for AFP and FROC, by finding
    longest: int = Field(
        default=1024, ge=32
    )  # pixels of the longer side on which maps are cut; larger images are scored smaller
    workers: int = Field(default=2, ge=1)
    chunk: int = Field(default=64, ge=1)  # images read at a time

    @property
    def limits(self) -> Limits:
        return Limits(self.iou, self.ior, self.strict)

    @property
    def resampling(self) -> Resampling:
        return Resampling(self.resamples, self.confidence, self.seed, self.without)

    @property
    def classifying(self) -> Classifying:
        return Classifying("logit" if self.interval == "logit" else "delong", self.bins, self.calibration)


@dataclass(frozen=True, eq=False)
class Held:
    """What else is known: validation images (thresholds, calibration), training images (floors, leaks), and the split's name.

    `validation` are predictions of the same model; they may be the same folder as those of the test.
    """

    validation: tuple[Predictions, Truth] | None = None
    training: Truth | None = None
    split: Split | None = None

    def others(self) -> dict[str, Truth]:
        found = {"training": self.training, "validation": self.validation[1] if self.validation else None}
        return {part: truth for part, truth in found.items() if truth is not None}


def evaluate(
    predictions: Predictions,
    truth: Truth,
    settings: EvaluationSettings | None = None,
    held: Held | None = None,
    title: str = "",
) -> Evaluation:
    """All scores of `truth`'s images. Raises `Leak` where they share patients with `held` and the split does not say so."""
    settings, held = settings or EvaluationSettings(), held or Held()
    notes = list(leak_notes(truth, held.others(), held.split))
    alignment = aligned(predictions, truth)
    truth = sized(truth, predictions, alignment)
    images = _images(predictions, truth, alignment)
    rows, curves = ranking_rows(images, settings.classifying, settings.resampling), []
    rows += calibration_rows(images, settings.classifying)
    curves += ranking_curves(images, settings.classifying)
    fitted = _fitted(alignment, held, settings)
    if fitted is not None:
        mended = images_of(images.names, fitted.calibration.apply(images.scores), images.labels, images.patient)
        rows += calibration_rows(mended, settings.classifying, rule=f"{settings.calibration} on validation")
        rows += point_rows(images, fitted)
    localization = _localized(predictions, truth, alignment, held, (settings, fitted))
    if localization is not None:
        found_rows, found_curves = _localization_rows(localization, settings)
        rows, curves = rows + found_rows, curves + found_curves
        rows += _floors(truth, held, settings, notes)
        notes += _remarks(localization, held)
    about = _about(predictions, truth, alignment, held, settings) | ({"fitted": fitted.as_dict()} if fitted else {})
    cases: Cases = cases_of(images, truth, localization)
    name = title or str(predictions.header.model.get("name", predictions.folder.name))
    return Evaluation(name, alignment.findings, tuple(rows), tuple(curves), about, tuple(notes), cases)


def _images(predictions: Predictions, truth: Truth, alignment: Alignment) -> Images:
    scores = predictions.scores[alignment.rows][:, alignment.predicted]
    return images_of(alignment.findings.names, scores, truth.labels[:, alignment.known], truth.patient)


def _fitted(alignment: Alignment, held: Held, settings: EvaluationSettings) -> Fitted | None:
    if held.validation is None:
        return None
    predictions, truth = held.validation
    found = aligned(predictions, truth)
    names = [name for name in alignment.findings if name in found.findings]
    columns = [found.findings.index(name) for name in names]
    every = _images(predictions, truth, found)
    if len(names) < len(alignment.findings):
        return None
    chosen = Images(tuple(names), every.scores[:, columns], every.labels[:, columns], every.patient)
    return fit_on_validation(chosen, settings.classifying)


def _localized(
    predictions: Predictions,
    truth: Truth,
    alignment: Alignment,
    held: Held,
    chosen: tuple[EvaluationSettings, Fitted | None],
) -> Localization | None:
    """None where no image carries a box of a predicted finding."""
    settings, fitted = chosen
    names = alignment.findings.names
    if not set(truth.boxed) & set(names):
        return None
    own = predictions.header.own_rule
    how = Pass(Surface(longest=settings.longest), own, {}, settings.met, 0, settings.workers, settings.chunk, settings.seed)
    validation: Localized | None = None
    if held.validation is not None:
        there = aligned(*held.validation)
        if there.findings.names == names:
            validation = localize(*held.validation, there, _with(how, dict.fromkeys(names, (own.threshold,)), 0))
    columns = columns_by_rule(len(names), validation.pairs if validation else None, settings.iou, strict=settings.strict)
    rules = fixed_rules(columns)
    levels = thresholds_of("any", own.threshold)
    cuts = {name: tuple(float(levels[columns["any", rule][index]]) for rule in rules) for index, name in enumerate(names)}
    notes = {name: PRESETS[name].note for name in settings.presets}
    found = localize(predictions, truth, alignment, _with(how, cuts, settings.negatives), notes)
    gates = fitted.gates(names) if fitted else None
    return Localization(found, truth.patient, own.threshold, columns, gates, settings.limits)


def _with(how: Pass, thresholds: dict[str, tuple[float, ...]], negatives: int) -> Pass:
    return Pass(how.surface, how.own, thresholds, how.met, negatives, how.workers, how.chunk, how.seed)


def _localization_rows(loc: Localization, settings: EvaluationSettings) -> tuple[list[Score], list[Curve]]:
    how = settings.resampling
    rows = rate_rows(loc, how) + pointing_rows(loc, how) + searched_rows(loc, how)
    if len(loc.found.absent.finding):
        rows += afp_rows(loc, fixed_rules(loc.columns), how)
    froc, curves = froc_rows(loc, how)
    for preset in settings.presets:
        rows += PRESETS[preset].rows(loc.found.pairs.noted[preset], loc, how)
    return rows + froc, curves + accuracy_curves(loc) + threshold_curves(loc)


def _floors(truth: Truth, held: Held, settings: EvaluationSettings, notes: list[str]) -> list[Score]:
    rows = ceiling_rows(truth, settings.limits, settings.resampling)
    if held.training is None or not held.training.boxed:
        notes.append("no training boxes were given, so the floors that need them (medoid, mean, random) are missing")
        return rows
    return rows + floor_rows(fit_floors(held.training), truth, settings.limits, settings.resampling)


def _remarks(loc: Localization, held: Held) -> list[str]:
    remarks = []
    if held.validation is None:
        remarks.append("no validation images were given: no validation thresholds, calibration, operating points or gates")
    if loc.found.lost:
        remarks.append(f"{loc.found.lost} boxes lie outside their image and are left out")
    return remarks


def _about(
    predictions: Predictions, truth: Truth, alignment: Alignment, held: Held, settings: EvaluationSettings
) -> dict[str, Any]:
    boxes = sum(box.finding in alignment.findings for image in truth.ids for box in truth.boxes.get(image, ()))
    return {
        "source": truth.name,
        "images": len(truth),
        "patients": int(np.unique(truth.patient).size),
        "boxes": boxes,
        "split": held.split.name if held.split else "",
        "split_fingerprint": held.split.fingerprint if held.split else "",
        "validation_images": len(held.validation[1]) if held.validation else 0,
        "training_images": len(held.training) if held.training else 0,
        "predictions": str(predictions.folder),
        "model": dict(predictions.header.model),
        "own_rule": {
            "threshold": predictions.header.own_rule.threshold,
            "normalize": predictions.header.own_rule.normalize,
        },
        "settings": settings.model_dump(mode="json"),
    }
