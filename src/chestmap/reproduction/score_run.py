"""Predicts and scores a trained run on the validation and test images of its own split.

Predicts validation and test images of a run once and keeps them in `predictions/`. Thresholds and calibration come from
validation alone.
"""

from __future__ import annotations

import shutil
from collections.abc import Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from chestmap.datasets.registry import SOURCES
from chestmap.datasets.source import Source
from chestmap.datasets.split import Split, make_split
from chestmap.errors import BadImage, BadInput
from chestmap.evaluation.case_list import case_list, write_cases
from chestmap.evaluation.evaluate import EvaluationContext, EvaluationSettings, evaluate
from chestmap.evaluation.evaluated_set import check_recorded, ids_of_part, missing_note
from chestmap.evaluation.reader_agreement import Readings
from chestmap.evaluation.scores import Evaluation
from chestmap.evaluation.truth import Truth, truth_of
from chestmap.imaging.size import size_of
from chestmap.models.folder import open_model, read_about, write_about
from chestmap.packs.part import Part
from chestmap.prediction.from_pack import PredictSettings, predict_part
from chestmap.predictions.folder import OwnRule, Predictions
from chestmap.storage.manifest import seal

if TYPE_CHECKING:  # these need torch, and scoring does not
    from chestmap.training.method import Method
    from chestmap.training.training_data import DataSettings


class AnswerSettings(NamedTuple):
    """How a trained network is read: at a cut in place of the method's own threshold, and by which of its answers."""

    cut: float | None = None
    answer: str = ""


AS_IT_IS = AnswerSettings()


def predict_and_score(
    run: Path,
    data: DataSettings,
    methods: Mapping[str, Method],
    how: tuple[PredictSettings, EvaluationSettings],
    reading: AnswerSettings = AS_IT_IS,
    *,
    progress: bool = True,
) -> Evaluation:
    """Fills `predictions/` of a finished run, and writes metrics.json and cases.csv there; what is predicted already is kept.

    Another answer than the model's own has a model and predictions of its own: `model-ANSWER/`, `predictions-ANSWER/`.

    Scores at a cut are not written, as they are not the model's.
    """
    from chestmap.training.training_data import open_data

    cut, answer = reading
    opened = open_data(data, progress=progress)
    source, pack = opened.train.source, opened.train.pack
    split = make_split(source, data.split)
    ids = [image_id for part in (opened.validation, opened.test) if part for image_id in part.ids]
    part = Part.of(source, pack, ids, "images")
    model, place = answering(run, answer), run / f"predictions{answer and f'-{answer}'}"
    predictions = predict_part(open_model(model, methods), part, place, how[0], progress=progress)
    if cut is not None:
        predictions = replace(predictions, header=replace(predictions.header, own_rule=OwnRule(cut)))
    scores = score_split(predictions, source, split, how[1], ScoredPart(title=run.name))
    if cut is None:
        scores.write(place / "metrics.json")
        write_cases(place / "cases.csv", case_list(scores))
    return scores


def answering(run: Path, answer: str) -> Path:
    """The run's model folder, or one with the same weights of which another branch speaks (`answer` of the method's settings)."""
    model, place = run / "model", run / f"model-{answer}"
    if not answer:
        return model
    about = read_about(model)
    if "answer" not in about["settings"]:
        raise BadInput(f"{model}: method {about['method']} has one answer; a table of several branches needs ag_cnn")
    place.mkdir(exist_ok=True)
    shutil.copy(model / "weights.safetensors", place)
    write_about(place, about | {"settings": about["settings"] | {"answer": answer}})
    seal(place)
    return place


@dataclass(frozen=True, kw_only=True)
class ScoredPart:
    """Which part of a split is scored and what the result is called; `only` leaves out images that others lack."""

    part: str = "test"
    title: str = ""
    only: Collection[str] | None = None


def score_split(
    predictions: Predictions,
    source: Source,
    split: Split | None,
    settings: EvaluationSettings,
    chosen: ScoredPart = ScoredPart(),
) -> Evaluation:
    """The images of the part that were predicted; thresholds and calibration from validation, floors from training.

    Without a split all images that were predicted, and nothing from others.
    """
    part, title, only = chosen.part, chosen.title, chosen.only
    recorded = check_recorded(predictions, source)
    predicted = set(predictions.image_ids) if only is None else set(predictions.image_ids) & set(only)
    if split is None:
        ids = [one for one in source.ids if one in predicted]
        notes = recorded + missing_note(ids if only is None else only, ids, "those compared")
        if strange := len(set(predictions.image_ids) - set(source.ids)):
            notes.append(f"{strange:,} predicted images are not in {source.name} and are left out")
        alone = EvaluationContext(notes=tuple(notes), readings=readings_of(source))
        return evaluate(predictions, truth_of(source, ids), settings, alone, title=title)
    wanted = ids_of_part(split, part)
    scored = [one for one in wanted if one in predicted]
    if not scored:
        raise BadInput(
            f"{predictions.folder}: holds none of the {len(wanted):,} images of {part} in split {split.name}; predict that part"
        )
    notes = recorded + missing_note(wanted, scored, f"{part} of split {split.name}")
    if part == "train":
        notes.append("these are training images: the figures say how well they were learned, and nothing of other patients")
    training = floors_of(source, split) if split.parts["train"] and part != "train" else None
    known = set(predictions.image_ids)
    validating = [one for one in split.parts["validation"] if one in known]
    validation = (predictions, truth_of(source, validating)) if validating and part != "validation" else None
    held = EvaluationContext(
        validation=validation, training=training, split=split, part=part, notes=tuple(notes), readings=readings_of(source)
    )
    return evaluate(predictions, truth_of(source, scored), settings, held, title=title)


def floors_of(source: Source, split: Split) -> Truth:
    """The training images; where the source does not know the size of one with boxes, its file does."""
    truth = truth_of(source, split.parts["train"])
    sizes = truth.sizes.copy()
    rows = [row for row in np.flatnonzero(np.isnan(sizes).any(axis=1)).tolist() if truth.ids[row] in truth.boxes]
    paths = source.images["path"][source.rows([truth.ids[row] for row in rows])] if rows else ()
    for row, path in zip(rows, paths, strict=True):
        with suppress(BadImage, OSError):
            sizes[row] = size_of(source.root / path)
    return replace(truth, sizes=sizes)


def readings_of(source: Source) -> Readings:
    """What each reader drew, where the source keeps readers apart: VinDr-CXR, or a folder of several people's reviews."""
    readings = SOURCES[source.name].readings if source.name in SOURCES else None
    return readings(source.root) if readings else {}
