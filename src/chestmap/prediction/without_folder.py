"""Predicts images one after the other and keeps nothing, where `chestmap predict` has no folder."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from chestmap.errors import BadImage, BadInput
from chestmap.imaging.read import ReadSettings
from chestmap.models.predictor import Predictor
from chestmap.prediction.decoding import DecodeSettings, Failed, content, read_input
from chestmap.prediction.inputs import Inputs
from chestmap.prediction.pseudonym import Pseudonyms, own_key
from chestmap.types import Prediction


def predictions_of(
    predictor: Predictor, given: Sequence[str], views: ReadSettings, *, hide: bool = True
) -> Iterator[Prediction | Failed]:
    """Each image in order; `Failed` holds why one cannot be read. Names that repeat words of a patient are hidden."""
    reading = DecodeSettings(predictor.model.canvas, Pseudonyms(own_key() if hide else None), views)
    inputs, count = Inputs(given), 0
    for source in inputs:
        count += 1
        try:
            (found,) = predictor.predict_many([read_input(source, reading, content(source))])
        except BadImage as problem:
            yield Failed(source.name, str(problem).removeprefix(f"{source.name}: "))
        else:
            yield found
    if not count:
        raise BadInput(f"{', '.join(given)}: no PNG, JPEG or DICOM file among {inputs.passed_over} files; name images")


def rows_of(found: Prediction, present_from: dict[str, float]) -> list[dict[str, object]]:
    """A row for each finding, the highest score first; `present` is None where the model has no operating point."""
    boxes = {box.finding: box for box in found.boxes}
    rows = []
    for finding, score in sorted(zip(found.findings, map(float, found.scores), strict=True), key=lambda pair: -pair[1]):
        box = boxes.get(finding)
        present = score >= present_from[finding] if finding in present_from else None
        corners = [round(value, 1) for value in box.corners] if box else None
        rows.append(
            {"image": found.image_id, "finding": finding, "score": round(score, 4), "present": present, "box": corners}
        )
    return rows
