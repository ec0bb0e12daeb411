"""Evaluates a predictions folder against the truth, by one protocol, with floors and the presets asked for.

`api.scoring` and `reproduction.score_run` call `evaluate`. It takes maps from an open predictions folder, reads each once,
and gives an `Evaluation`. It draws no picture and writes no file.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from chestmap.evaluation.classification import (
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
from chestmap.evaluation.detection import afp_rows, cuts, froc_rows, pointing_rows, searched_rows
from chestmap.evaluation.evaluated_set import check_space, matched, set_of
from chestmap.evaluation.floors import Floors, ceiling_rows, fit_floors, floor_rows
from chestmap.evaluation.maps.passes import (
    AbsentPairs,
    BoxedPairs,
    RankedPairs,
    look_at_absent,
    look_at_pairs,
    look_at_ranked,
)
from chestmap.evaluation.maps.thresholds import ThresholdSearch, fixed_rules
from chestmap.evaluation.presets.protocols import PRESETS, preset_notes
from chestmap.evaluation.presets.rodeo import rodeo_of
from chestmap.evaluation.ranked_boxes import box_floor_rows, box_rows
from chestmap.evaluation.rates import Localization, accuracy_curves, rate_rows, threshold_curves
from chestmap.evaluation.reader_agreement import reader_rows
from chestmap.evaluation.scores import Curve, Evaluation, Score
from chestmap.evaluation.settings import EvaluationContext, EvaluationSettings
from chestmap.evaluation.truth import Alignment, Truth, aligned, leak_notes
from chestmap.predictions.folder import Predictions


def evaluate(
    predictions: Predictions,
    truth: Truth,
    settings: EvaluationSettings | None = None,
    held: EvaluationContext | None = None,
    title: str = "",
) -> Evaluation:
    """All scores of `truth`'s images. Raises `Leak` where they share patients with `held` and the split does not say so."""
    settings, held = settings or EvaluationSettings(), held or EvaluationContext()
    notes = [*held.notes, *leak_notes(truth, held.others(), held.split)]
    found = matched(predictions, truth)
    evaluated = set_of(truth).part_of(held.split, held.part)
    predictions, truth, alignment = found.predictions, found.truth, found.alignment
    notes += found.notes
    if held.validation is not None:
        there = matched(*held.validation)
        held = replace(held, validation=(there.predictions, there.truth))
    images = _images(predictions, truth, alignment)
    rows, curves = ranking_rows(images, settings.classifying, settings.resampling), []
    rows += calibration_rows(images, settings.classifying)
    curves += ranking_curves(images, settings.classifying)
    fitted = _fitted(alignment, held, settings)
    if fitted is not None:
        mended = images_of(images.names, fitted.calibration.apply(images.scores), images.labels, images.patient)
        rows += calibration_rows(mended, settings.classifying, rule=f"{settings.calibration} on validation")
        rows += point_rows(images, fitted, settings.confidence)
    localization = _localized(predictions, truth, alignment, held, (settings, fitted))
    if localization is not None:
        absent = _absent(predictions, truth, alignment, localization, settings)
        ranked = _ranked(predictions, truth, alignment, localization, settings) if len(absent.finding) else None
        found_rows, found_curves = _localization_rows(localization, absent, settings)
        rows, curves = rows + found_rows, curves + found_curves
        floors = fit_floors(held.training) if held.training else None
        rows += _floors(truth, floors, settings, notes)
        if "rodeo" in settings.presets:
            how = settings.reading(predictions.header.own_rule), floors, settings.resampling
            rows += rodeo_of(predictions, truth, alignment, localization, how)
        rows += _agreement_rows(truth, held, localization, settings)
        if ranked is not None:
            rows += box_rows(localization, ranked, absent, fixed_rules(localization.columns)[-1], settings.resampling)
            if floors is not None and floors.boxes:
                rows += box_floor_rows(localization, ranked, absent, floors, truth, settings.resampling)
        notes += [*_remarks(localization, held), *preset_notes(settings.presets, truth.name, localization.names)]
    about = (
        _about(predictions, truth, alignment, held, settings)
        | {"set": evaluated.as_dict()}
        | ({"fitted": fitted.as_dict()} if fitted else {})
    )
    cases: Cases = cases_of(images, truth, localization)
    name = title or str(predictions.header.model.get("name", predictions.folder.name))
    return Evaluation(
        title=name,
        findings=alignment.findings,
        rows=tuple(rows),
        curves=tuple(curves),
        about=about,
        notes=tuple(notes),
        cases=cases,
    )


def _agreement_rows(
    truth: Truth, held: EvaluationContext, localization: Localization, settings: EvaluationSettings
) -> list[Score]:
    """How well readers agree with each other on these images; none where one reader drew all boxes."""
    readings = {one: held.readings[one] for one in truth.ids if one in held.readings}
    if not readings:
        return []
    patients = dict(zip(truth.ids, truth.patients, strict=True))
    return reader_rows(readings, patients, localization.names, settings.limits, settings.resampling)


def _images(predictions: Predictions, truth: Truth, alignment: Alignment) -> Images:
    scores = predictions.scores[alignment.rows][:, alignment.predicted]
    return images_of(alignment.findings.names, scores, truth.labels[:, alignment.known], truth.patient)


def _fitted(alignment: Alignment, held: EvaluationContext, settings: EvaluationSettings) -> Fitted | None:
    """None without validation images, or where their predictions lack a finding that is scored."""
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
    held: EvaluationContext,
    chosen: tuple[EvaluationSettings, Fitted | None],
) -> Localization | None:
    """None where no image carries a box of a predicted finding."""
    settings, fitted = chosen
    names = alignment.findings.names
    if not set(truth.boxed) & set(names):
        return None
    how, own = settings.reading(predictions.header.own_rule), predictions.header.own_rule
    validation: BoxedPairs | None = None
    if held.validation is not None:
        there = aligned(*held.validation)
        if there.findings.names == names:
            validation, _ = look_at_pairs(*held.validation, there, how)
    notes = {name: PRESETS[name].note for name in settings.presets if name in PRESETS}
    pairs, lost = look_at_pairs(predictions, truth, alignment, how, notes)
    check_space(len(pairs.box_pair) + lost, lost, predictions)
    search = ThresholdSearch(settings.iou, settings.strict, seed=settings.seed)
    columns = search.columns(pairs, truth.patient, len(names), validation)
    gates = fitted.gates(names) if fitted else None
    return Localization(
        names=names,
        pairs=pairs,
        patient=truth.patient,
        own=own.threshold,
        columns=columns,
        gates=gates,
        limits=settings.limits,
        lost=lost,
    )


def _absent(
    predictions: Predictions, truth: Truth, alignment: Alignment, loc: Localization, settings: EvaluationSettings
) -> AbsentPairs:
    rules = fixed_rules(loc.columns)
    how = settings.reading(predictions.header.own_rule)
    return look_at_absent(predictions, truth, alignment, how, cuts(loc, rules))


def _ranked(
    predictions: Predictions, truth: Truth, alignment: Alignment, loc: Localization, settings: EvaluationSettings
) -> RankedPairs:
    rules = fixed_rules(loc.columns)
    return look_at_ranked(predictions, truth, alignment, settings.reading(predictions.header.own_rule), cuts(loc, rules))


def _localization_rows(
    loc: Localization, absent: AbsentPairs, settings: EvaluationSettings
) -> tuple[list[Score], list[Curve]]:
    how, rules = settings.resampling, fixed_rules(loc.columns)
    rows = rate_rows(loc, how) + pointing_rows(loc, how) + searched_rows(loc, how)
    curves = accuracy_curves(loc) + threshold_curves(loc)
    if len(absent.finding):
        rows += afp_rows(loc, absent, rules, how)
        froc, found = froc_rows(loc, absent, rules[-1], how)
        rows, curves = rows + froc, curves + found
    for preset in (name for name in settings.presets if name in PRESETS):
        rows += PRESETS[preset].rows(loc.pairs.noted[preset], loc, how)
    return rows, curves


def _floors(truth: Truth, floors: Floors | None, settings: EvaluationSettings, notes: list[str]) -> list[Score]:
    """The ceiling of grids always, floors where training boxes are known; lists in `notes` what is missing."""
    rows = ceiling_rows(truth, settings.limits, settings.resampling)
    if floors is None or not floors.boxes:
        notes.append(
            "no training boxes in images of known size were given, so the floors medoid, mean and random are missing"
        )
        return rows
    return rows + floor_rows(floors, truth, settings.limits, settings.resampling)


def _remarks(loc: Localization, held: EvaluationContext) -> list[str]:
    """What a reader of the numbers must know about where their thresholds come from."""
    remarks = []
    if held.validation is None:
        remarks.append("no validation images were given: no calibration, operating points or gated scores")
    chosen = loc.columns.get(("any", "validation"))
    if chosen is None:
        remarks.append("too few patients with boxes to choose thresholds on those of others")
    elif len(chosen.by_fold) > 1:
        remarks.append(
            "no validation boxes were given: the validation thresholds of each fifth of the patients are those that are best on "
            "the scored boxes of the other patients"
        )
    if loc.lost:
        remarks.append(f"{loc.lost} boxes lie outside their image and are left out")
    return remarks


def _about(
    predictions: Predictions, truth: Truth, alignment: Alignment, held: EvaluationContext, settings: EvaluationSettings
) -> dict[str, Any]:
    """Of what and with what, enough to repeat the evaluation."""
    boxes = sum(box.finding in alignment.findings for image in truth.ids for box in truth.boxes.get(image, ()))
    return {
        "source": truth.name,
        "images": len(truth),
        "patients": int(np.unique(truth.patient).size),
        "boxes": boxes,
        "split": held.split.name if held.split else "",
        "part": held.part,
        "split_fingerprint": held.split.fingerprint if held.split else "",
        "validation_images": len(held.validation[1]) if held.validation else 0,
        "training_images": len(held.training) if held.training else 0,
        "predictions": str(predictions.folder),
        "model": _without_hashes(predictions.header.model),
        "own_rule": {
            "threshold": predictions.header.own_rule.threshold,
            "normalize": predictions.header.own_rule.normalize,
        },
        "settings": settings.model_dump(mode="json"),
    }


def _without_hashes(model: Mapping[str, Any]) -> dict[str, Any]:
    """What made the predictions, without the hashes of whom it saw: they are long and say nothing to a reader."""
    data = model.get("data")
    kept = {key: value for key, value in data.items() if key != "seen"} if isinstance(data, Mapping) else data
    return dict(model) | ({"data": kept} if data is not None else {})
