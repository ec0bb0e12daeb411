"""Refers to objects that an archive already holds: new ones replace them, and a note rejects the wrong ones.

The service knows which objects it sent; it passes them here when a newer model or a reader replaces them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from highdicom import sr
from highdicom.ko import KeyObjectSelection, KeyObjectSelectionDocument
from highdicom.sr import CodedConcept, RelationshipTypeValues
from pydicom.dataset import Dataset
from pydicom.uid import (
    Comprehensive3DSRStorage,
    EnhancedSRStorage,
    ParametricMapStorage,
    SecondaryCaptureImageStorage,
    SegmentationStorage,
)

from chestmap.imaging.dicom_header import quiet
from chestmap.reports.dicom.provenance import PRODUCT, made_uid, printable
from chestmap.reports.dicom.source_header import charset_of, finish, referenced, requests_of
from chestmap.version import __version__

REPORTS = {Comprehensive3DSRStorage, EnhancedSRStorage}
IMAGES = {SecondaryCaptureImageStorage, SegmentationStorage, ParametricMapStorage}
"""By which highdicom tells an image from another object: whether it has rows and columns."""
PERSON = CodedConcept("121006", "DCM", "Person")
DEVICE = CodedConcept("121007", "DCM", "Device")
OF_INTEREST = CodedConcept("113000", "DCM", "Of Interest")
REJECTED = CodedConcept("113001", "DCM", "Rejected for Quality Reasons")
MODIFIER, REASON = CodedConcept("113011", "DCM", "Document Title Modifier"), CodedConcept("111220", "DCM", "Other failure")
"""The modifier is wanted; its context group (CID 7011) has no word for a statement that a reader contradicts."""
NUMBERS = {"verified report": 9011, "rejection note": 9012, "key image": 9013}


@dataclass(frozen=True)
class Earlier:
    """An object of ours that the archive has."""

    instance: str
    series: str
    sop_class: str


def as_dataset(one: Earlier, reference: Dataset) -> Dataset:
    """What highdicom asks of an object that is named."""
    own = {"SOPInstanceUID", "SeriesInstanceUID", "SOPClassUID"}
    own |= set() if one.sop_class in IMAGES else {"Rows", "Columns"}
    made = Dataset()
    made.update({element.tag: element for element in reference if element.keyword not in own})  # shared, so none is changed
    made.SOPInstanceUID, made.SeriesInstanceUID, made.SOPClassUID = one.instance, one.series, one.sop_class
    return made


def predecessors(earlier: Sequence[Earlier], reference: Dataset, own: str) -> list[Dataset] | None:
    """Reports among what came earlier, without the new one itself; None where there is none."""
    return [as_dataset(one, reference) for one in earlier if one.sop_class in REPORTS and one.instance != own] or None


def series_of_reader(title: str, reference: Dataset, *names: str) -> dict[str, Any]:
    """Arguments of highdicom's objects that no model made alone; `names` tell apart the objects of a title.

    A corrected image may be another patient's: its series is another one, although the image has the same identifier.
    """
    return {
        "series_instance_uid": made_uid(
            "series", reference.SOPInstanceUID, title, reference.StudyInstanceUID, str(reference.PatientID)
        ),
        "series_number": NUMBERS[title],
        "sop_instance_uid": made_uid("instance", reference.SOPInstanceUID, title, *names),
        "series_description": f"{PRODUCT} {title}",
        "manufacturer": PRODUCT,
        "manufacturer_model_name": PRODUCT,
        "software_versions": __version__,
        "device_serial_number": "reader",
    }


def key_note(reference: Dataset, name: str, observer: sr.ObserverContext) -> Dataset:
    """A Key Object Selection of the image, by the reader who marked it; `name` tells versions apart."""
    content = KeyObjectSelection(OF_INTEREST, [reference], observer_person_context=observer)
    series = series_of_reader("key image", reference, name)
    made = KeyObjectSelectionDocument(
        [reference], content, instance_number=1, requested_procedures=requests_of(reference), **series
    )
    made.copy_patient_and_study_information(reference)
    return _without_purposes(made)


def key_notes(source: Dataset, earlier: Sequence[Earlier]) -> list[Earlier]:
    """Marks of a key image among what came earlier."""
    series = series_of_reader("key image", source)["series_instance_uid"]
    return [one for one in earlier if one.series == series]


def withdrawal(source: Dataset, rejected: Sequence[Earlier], reason: str) -> Dataset:
    """A note that no reader wrote and no model made: the service rejects objects of an image that another replaced."""
    reference = referenced(source)
    reference.SpecificCharacterSet = charset_of(reference, [])
    about = sr.DeviceObserverIdentifyingAttributes(made_uid("service", __version__), PRODUCT, PRODUCT, PRODUCT)
    with quiet():
        made = rejection_note(reference, rejected, reason, sr.ObserverContext(DEVICE, about))
        finish(made, reference)
    return made


def rejection_note(reference: Dataset, rejected: Sequence[Earlier], reason: str, observer: sr.ObserverContext) -> Dataset:
    """A Key Object Selection as IHE's IOCM profile has it: archives hide what it lists."""
    evidence = [as_dataset(one, reference) for one in rejected]
    context = {f"observer_{'person' if observer.observer_type == PERSON else 'device'}_context": observer}
    content = KeyObjectSelection(REJECTED, evidence, description=printable(reason, 1024), **context)
    content[0].ContentSequence.insert(0, sr.CodeContentItem(MODIFIER, REASON, RelationshipTypeValues.HAS_CONCEPT_MOD))
    series = series_of_reader("rejection note", reference, reason, *(one.instance for one in rejected))
    made = KeyObjectSelectionDocument(
        evidence, content, instance_number=1, requested_procedures=requests_of(reference), **series
    )
    made.copy_patient_and_study_information(reference)
    return _without_purposes(made)


def _without_purposes(made: KeyObjectSelectionDocument) -> Dataset:
    """Where the standard allows no purpose of reference."""
    for item in made.ContentSequence:
        if item.ValueType in {"IMAGE", "COMPOSITE"}:
            del item.ConceptNameCodeSequence
    return made
