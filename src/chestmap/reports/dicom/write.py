"""Writes the DICOM files of one prediction, which join the study of its radiograph.

`chestmap predict --write sr,gsps,sc,seg,pmap` calls `write_dicom` for each image; the service takes `result_objects` and
sends them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from pydicom.dataset import Dataset

from chestmap.imaging.dicom_header import quiet
from chestmap.reports.dicom.earlier import Earlier, rejection_note
from chestmap.reports.dicom.filled_objects import (
    filled_boxes_report,
    filled_capture,
    filled_presentation,
    filled_scores_report,
)
from chestmap.reports.dicom.finding_marks import MarkedResult
from chestmap.reports.dicom.parametric import parametric_map
from chestmap.reports.dicom.provenance import DEFAULT_KINDS, Kind, Provenance, kinds_of
from chestmap.reports.dicom.segmentation import segmentations
from chestmap.reports.dicom.source_header import charset_of, finish, referenced
from chestmap.reports.dicom.sr import observer_of
from chestmap.storage.atomic import replacing
from chestmap.types import Prediction


def write_dicom(
    source: Dataset,
    prediction: Prediction,
    model: Provenance,
    folder: Path,
    kinds: Sequence[Kind] = DEFAULT_KINDS,
    replaces: Sequence[Earlier] = (),
) -> list[Path]:
    """Writes the result objects of one radiograph into `folder`, each atomically; returns the files, in order.

    `source` is the radiograph as `pydicom.dcmread` gives it; its pixels are needed for `sc`, and nothing in it is changed.
    `prediction.boxes` are in image pixels. A file is named by kind and the result's own identifier, such as
    `sr-2.25.1234.dcm`: nothing in it identifies the patient. The same source and model give the same identifiers, so writing or
    sending again is safe. Boxes are given for findings that reach their operating point (`Provenance`); `sr`, `gsps`, `seg`
    and `pmap` are left out where there is none, and `scores` then replaces `sr`. Raises `BadImage` where the header cannot carry results.

    `replaces` are objects of an older version of the model: reports refer to them, and a note rejects them.
    """
    return write_objects(result_objects(source, prediction, model, kinds, replaces), folder)


def write_objects(objects: Iterable[tuple[str, Dataset]], folder: Path) -> list[Path]:
    """All or none."""
    paths = []
    folder.mkdir(parents=True, exist_ok=True)
    for kind, made in list(objects):
        path = folder / f"{kind}-{made.SOPInstanceUID}.dcm"
        with replacing(path) as passing:
            made.save_as(passing, enforce_file_format=True)
        paths.append(path)
    return paths


def result_objects(
    source: Dataset,
    prediction: Prediction,
    model: Provenance,
    kinds: Sequence[Kind] = DEFAULT_KINDS,
    replaces: Sequence[Earlier] = (),
) -> Iterator[tuple[str, Dataset]]:
    """The same as `write_dicom`, in memory, for sending."""
    reference = referenced(source)
    reference.SpecificCharacterSet = charset_of(reference, [*prediction.findings, model.name])
    result = MarkedResult(reference=reference, source=source, prediction=prediction, about=model, replaces=tuple(replaces))
    with quiet():
        for kind in _kinds_to_write(kinds, result):
            for made in _made(kind, result):
                finish(made, reference)
                yield kind, made
        if replaces:
            note = rejection_note(reference, replaces, "Results of a newer version replace them.", observer_of(model))
            finish(note, reference)
            yield "kos", note


def _kinds_to_write(kinds: Sequence[Kind], result: MarkedResult) -> list[Kind]:
    """A finding without a box does not fit the report of boxes; it becomes text, so that it is not lost."""
    asked = list(kinds_of(kinds))
    if "sr" in asked and "scores" not in asked and (result.unboxed or not result.marks):
        asked.insert(asked.index("sr") + 1, "scores")
    return asked


def _made(kind: Kind, result: MarkedResult) -> Iterator[Dataset]:
    match kind:
        case "sr":
            if result.marks:
                yield filled_boxes_report(result)
        case "scores":
            yield filled_scores_report(result)
        case "sc":
            yield filled_capture(result)
        case "gsps":
            if result.marks and result.reference.SamplesPerPixel == 1:  # a gray state may not cover color
                yield filled_presentation(result)
        case "seg":
            yield from segmentations(result)
        case "pmap":
            made = (parametric_map(result, place, finding) for place, finding in enumerate(result.boxed, 1))
            yield from (one for one in made if one is not None)
