"""Objects filled from templates are what highdicom makes, element by element, over many headers and results."""

import copy
from dataclasses import replace

import numpy as np
import pydicom
import pytest
from pydicom.tag import Tag

from chestmap.reports.dicom.capture import capture
from chestmap.reports.dicom.earlier import Earlier
from chestmap.reports.dicom.filled_objects import (
    filled_boxes_report,
    filled_capture,
    filled_presentation,
    filled_scores_report,
)
from chestmap.reports.dicom.finding_marks import MarkedResult
from chestmap.reports.dicom.presentation import presentation
from chestmap.reports.dicom.source_header import referenced
from chestmap.reports.dicom.sr import boxes_report, scored, scores_report
from chestmap.reports.dicom.templates import NOW
from chestmap.vocabulary import CHESTXRAY14
from reports.dicom.conftest import HEIGHT, WIDTH, predicted

HEADERS = {
    "as it is": {},
    "another patient": {"PatientName": "Ng^Ana", "PatientID": "7", "StudyDate": "20240229", "StudyTime": "235959.5", "AccessionNumber": "A1"},
    "little is known": {
        "PatientName": "", "PatientID": "", "PatientSex": "", "PatientBirthDate": "", "StudyDate": "", "StudyTime": "",
        "StudyID": "", "AccessionNumber": "", "ReferringPhysicianName": "", "PatientOrientation": None, "ImagerPixelSpacing": None,
    },
    "other units": {"PatientAge": "041Y", "StudyDescription": "Thorax p.a.", "ImagerPixelSpacing": [0.2, 0.2], "ViewPosition": "AP"},
}  # fmt: skip


def elements(dataset, path=()):
    """Path, type and value of every element; those of the time of making have no value."""
    found = []
    for element in dataset:
        here = (*path, str(element.tag))
        if element.VR == "SQ":
            found.append((here, "SQ", len(element.value)))
            for place, item in enumerate(element.value):
                found += elements(item, (*here, place))
        elif int(element.tag) in NOW:
            found.append((here, element.VR, "now"))
        else:
            value = element.value
            plain = [float(one) for one in value] if element.VR in ("FL", "FD") and np.ndim(value) else str(value or "")
            found.append((here, str(element.VR), plain))
    return found


def same(made, wanted):
    assert elements(made) == elements(wanted)
    length = str(Tag("FileMetaInformationGroupLength"))  # made anew when the file is written
    metas = ([one for one in elements(meta) if one[0] != (length,)] for meta in (made.file_meta, wanted.file_meta))
    assert next(metas) == next(metas)


def results_of(source, about, seed):
    """Random findings, scores and places; some images without any box."""
    random = np.random.default_rng(seed)
    chosen = random.choice(len(CHESTXRAY14), random.integers(0, 6), replace=False)
    found = {}
    for place in chosen:
        x, y = random.uniform(0, 0.6, 2)
        found[CHESTXRAY14.names[place]] = (float(random.uniform(0.3, 1)), (x, y, x + 0.3, y + 0.35))
    prediction = predicted(WIDTH, HEIGHT, found)
    return MarkedResult(reference=referenced(source), source=source, prediction=prediction, about=about)


@pytest.mark.parametrize("header", HEADERS)
@pytest.mark.parametrize("name", ["DX2", "CR1"])
def test_filled_objects_are_those_of_highdicom(name, header, phantoms, about):
    source = pydicom.dcmread(phantoms[name])
    for keyword, value in HEADERS[header].items():
        setattr(source, keyword, value)
    for seed in range(2):  # with five findings and with two
        source.SOPInstanceUID = f"1.2.3.{seed}"
        result = results_of(source, replace(about, calibrated=CHESTXRAY14.names if seed % 2 else ("Effusion",)), seed)
        same(filled_scores_report(result), scores_report(result, scored(result)))
        if result.marks:
            same(filled_boxes_report(result), boxes_report(result))
            same(filled_presentation(result), presentation(result))


def test_a_picture_is_that_of_highdicom(phantoms, about):
    result = results_of(pydicom.dcmread(phantoms["DX2"]), about, 3)
    same(filled_capture(result), capture(result))


def test_a_report_that_replaces_others_names_them(phantoms, about):
    result = results_of(pydicom.dcmread(phantoms["DX2"]), about, 3)
    assert result.marks
    later = replace(result, replaces=(Earlier("1.2.9", "1.2.8", "1.2.840.10008.5.1.4.1.1.88.34"),))
    filled_boxes_report(result)
    same(filled_boxes_report(later), boxes_report(later))
    assert "PredecessorDocumentsSequence" not in filled_boxes_report(result)


def test_nothing_of_one_patient_is_in_the_result_of_the_next(phantoms, about):
    """The second result comes from the template that the first one left."""
    source = pydicom.dcmread(phantoms["DX2"])
    source.PatientName, source.PatientID = "First^Patient", "first-7"
    first = results_of(source, about, 3)
    filled_boxes_report(first)
    other = copy.deepcopy(source)
    other.PatientName, other.PatientID, other.SOPInstanceUID = "Second^Patient", "second-8", "1.2.3.99"
    made = str(filled_boxes_report(results_of(other, about, 3)))
    assert "Second^Patient" in made
    assert "First" not in made
    assert "first-7" not in made
