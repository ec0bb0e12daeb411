"""A trained run on the validation and test images of its own split: predictions, then scores."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from chestmap.datasets.source import Source
from chestmap.datasets.split import Split, make_split
from chestmap.evaluation.case_list import case_list, write_cases
from chestmap.evaluation.evaluate import EvaluationSettings, Held, evaluate
from chestmap.evaluation.scores import Evaluation
from chestmap.evaluation.truth import truth_of
from chestmap.models.folder import open_model
from chestmap.packs.loader import Part
from chestmap.prediction.from_pack import PredictSettings, predict_part
from chestmap.predictions.folder import OwnRule, Predictions
from chestmap.training.method import Method
from chestmap.training.training_data import DataSettings, open_data


def predict_and_score(
    run: Path,
    data: DataSettings,
    methods: Mapping[str, Method],
    how: tuple[PredictSettings, EvaluationSettings],
    *,
    cut: float | None = None,
    progress: bool = True,
) -> Evaluation:
    """Fills `predictions/` of a finished run, and writes metrics.json and cases.csv there; what is predicted already is kept.

    `cut` replaces the method's own threshold; its scores are not written, as they are not the model's.
    """
    opened = open_data(data, progress=progress)
    source, pack = opened.train.source, opened.train.pack
    split = make_split(source, data.split)
    ids = [image_id for part in (opened.validation, opened.test) if part for image_id in part.ids]
    part = Part.of(source, pack, ids, "images")
    predictions = predict_part(open_model(run / "model", methods), part, run / "predictions", how[0], progress=progress)
    if cut is not None:
        predictions = replace(predictions, header=replace(predictions.header, own_rule=OwnRule(cut)))
    scores = score_split(predictions, source, split, how[1], title=run.name)
    if cut is None:
        scores.write(run / "predictions" / "metrics.json")
        write_cases(run / "predictions" / "cases.csv", case_list(scores))
    return scores


def score_split(
    predictions: Predictions,
    source: Source,
    split: Split | None,
    settings: EvaluationSettings,
    *,
    part: str = "test",
    title: str = "",
) -> Evaluation:
    """The images of the part that were predicted; thresholds and calibration from validation, floors from training.

    Without a split all images that were predicted, and nothing from others.
    """
    predicted = set(predictions.image_ids)
    if split is None:
        return evaluate(
            predictions, truth_of(source, [one for one in source.ids if one in predicted]), settings, title=title
        )
    ids = {
        name: [one for one in split.parts.get(name, ()) if name == "train" or one in predicted]
        for name in (part, "train", "validation")
    }
    training = truth_of(source, ids["train"]) if ids["train"] and part != "train" else None
    validation = (predictions, truth_of(source, ids["validation"])) if ids["validation"] and part != "validation" else None
    return evaluate(predictions, truth_of(source, ids[part]), settings, Held(validation, training, split), title=title)
