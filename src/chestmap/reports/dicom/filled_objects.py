"""Fills report, presentation state and picture of a result from templates. They equal what `sr`, `presentation` and
`capture` build.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from pydicom.dataset import Dataset

from chestmap.reports.dicom.capture import build_capture, describe_capture, drawn
from chestmap.reports.dicom.finding_marks import Mark, MarkedResult, code_of
from chestmap.reports.dicom.presentation import build_state, describe_state, layer_of
from chestmap.reports.dicom.provenance import series_of
from chestmap.reports.dicom.sr import (
    boxes_report,
    call_text,
    number_of,
    research_text,
    scored,
    scores_report,
    scores_text,
)
from chestmap.reports.dicom.templates import (
    KEPT,
    STAND_IN_SCORE,
    Node,
    Template,
    filled,
    finished,
    header_values,
    items_of,
    key_of,
    mark_key,
    mark_values,
    number_values,
    stand_in,
)

MEASUREMENTS = "126010"


def filled_boxes_report(result: MarkedResult) -> Dataset:
    """The template of each finding holds one group; those of the others are added to the first."""
    values = header_values(result, series_of("sr", "boxes", result.about, result.reference.SOPInstanceUID))
    templates = [_boxes_template(result, mark) for mark in result.marks]
    first = result.marks[0]
    made = finished(templates[0], values | mark_values(first) | _number(result, first.finding, first.score))
    groups = next(item for item in made.ContentSequence if _is_measurements(item)).ContentSequence
    for template, mark in zip(templates[1:], result.marks[1:], strict=True):
        measurements = next(node for node in items_of(template.node, "ContentSequence") if _is_measurements(node))
        (group,) = items_of(measurements, "ContentSequence")
        groups.append(filled(group, values | mark_values(mark) | _number(result, mark.finding, mark.score)))
    for group, mark in zip(groups, result.marks, strict=True):
        group.ContentSequence[-1].TextValue = call_text(result.about, mark.finding, mark.score)
    made.ContentSequence[-1].TextValue = research_text(result.about, result.boxed)
    return made


def _number(result: MarkedResult, finding: str, score: float) -> dict[str, Any]:
    return number_values(number_of(result.about, finding, score))


def _boxes_template(result: MarkedResult, mark: Mark) -> Template:
    return KEPT.get(("sr", key_of(result), mark_key(mark)), lambda: boxes_report(stand_in(result, [mark])))


def _is_measurements(item: Dataset | Node) -> bool:
    if isinstance(item, Dataset):
        return item.ConceptNameCodeSequence[0].CodeValue == MEASUREMENTS
    (concept,) = items_of(item, "ConceptNameCodeSequence")
    return any(field.value == MEASUREMENTS for field in concept)


def filled_scores_report(result: MarkedResult) -> Dataset:
    """The template holds all findings by name; here they are in the order of their scores."""
    rows, about = scored(result), result.about
    names = sorted(finding for _, finding in rows)
    codes = tuple((name, str(code_of(name, result.prediction.findings))) for name in names)
    listed = [(STAND_IN_SCORE, name) for name in names]
    template = KEPT.get(("scores", key_of(result), codes), lambda: scores_report(stand_in(result), listed))
    values = header_values(result, series_of("scores", "scores", about, result.reference.SOPInstanceUID))
    made = finished(template, values | number_values(STAND_IN_SCORE))
    section = made.ContentSequence[-1]
    _, *nodes = items_of(items_of(template.node, "ContentSequence")[-1], "ContentSequence")
    numbers, text = dict(zip(names, nodes, strict=True)), section.ContentSequence[0]
    text.TextValue = "\n".join(scores_text(result, rows))
    section.ContentSequence = [text, *(filled(numbers[name], values | _number(result, name, score)) for score, name in rows)]
    return made


def filled_presentation(result: MarkedResult) -> Dataset:
    """Makes a presentation state from templates: one layer for each finding, one outline for each mark."""
    places = {finding: place for place, finding in enumerate(result.boxed, 1)}
    values = header_values(result, series_of("gsps", "boxes", result.about, result.reference.SOPInstanceUID))
    templates = [_state_template(result, mark, places[mark.finding]) for mark in result.marks]
    made = finished(templates[0], values | mark_values(result.marks[0]))
    for template, mark in zip(templates[1:], result.marks[1:], strict=True):
        own = values | mark_values(mark)
        (layer,), (annotation,) = (
            items_of(template.node, name) for name in ("GraphicLayerSequence", "GraphicAnnotationSequence")
        )
        if len(made.GraphicLayerSequence) < places[mark.finding]:
            made.GraphicLayerSequence.append(filled(layer, own))
        made.GraphicAnnotationSequence.append(filled(annotation, own))
    return describe_state(made, result)


def _state_template(result: MarkedResult, mark: Mark, place: int) -> Template:
    key = "gsps", key_of(result), mark_key(mark), place
    return KEPT.get(key, lambda: build_state(stand_in(result, [mark]), {mark.finding: layer_of(place, mark.finding)}))


def filled_capture(result: MarkedResult) -> Dataset:
    """Makes a Secondary Capture from a template and the drawn pixels."""
    key, empty = ("sc", key_of(result)), np.zeros((2, 2, 3), np.uint8)
    template = KEPT.get(key, lambda: build_capture(stand_in(result), empty))
    series = series_of("sc", "picture", result.about, result.reference.SOPInstanceUID)
    made, pixels = finished(template, header_values(result, series)), drawn(result)
    made.Rows, made.Columns = pixels.shape[:2]
    made.PixelData = pixels.tobytes() + bytes(pixels.size % 2)
    return describe_capture(made, result.reference)
