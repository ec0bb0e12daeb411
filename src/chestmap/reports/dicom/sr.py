"""Writes boxes as Comprehensive 3D SR (TID 1500, named by IHE's AI Results profile), and all scores as text.

Only boxed findings are in the first: OHIF 3.13 fails on a measurement group without a region. Everything else is in
the second, an Enhanced SR by template TID 2000.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from highdicom import ContributingEquipment, sr
from highdicom.coding_schemes import CodingSchemeIdentificationItem
from highdicom.sr import CodedConcept, GraphicTypeValues, RelationshipTypeValues
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset

from chestmap.reports.dicom.earlier import PERSON, predecessors
from chestmap.reports.dicom.finding_marks import LOCAL, Mark, MarkedResult, code_of, printable
from chestmap.reports.dicom.provenance import PRODUCT, Provenance, series_of
from chestmap.reports.dicom.source_header import requests_of
from chestmap.vocabulary import NO_FINDING

CERTAINTY, FINDING = ("111012", "DCM", "Certainty of Finding"), ("121071", "DCM", "Finding")
PERCENT = CodedConcept("%", "UCUM", "Percent")
SCORE, ONE = ("score", LOCAL, "Model score"), CodedConcept("1", "UCUM", "no units")
PROCEDURE = CodedConcept("363679005", "SCT", "Imaging procedure")
"""Of CID 100; its X-ray codes are not in the group that PixelMed's validator knows."""

SCHEMES = [CodingSchemeIdentificationItem(LOCAL, name="chestmap findings", version="1")]
NOT_FOR_DIAGNOSIS = "AI result for research, not for diagnosis."
LENT = {"ImagerPixelSpacing": ("111026", "111066"), "PatientOrientation": ("111044", "111043")}
"""highdicom's image library needs these elements; its entries about a lent one are removed again, by code."""


def boxes_report(result: MarkedResult) -> Dataset:
    """One group for each box: finding, site, region, certainty, algorithm."""
    about = result.about
    algorithm = sr.AlgorithmIdentification(PRODUCT, about.version, [f"model {about.name}", f"sha256 {about.sha256}"])
    groups = [_group(mark, result, algorithm) for mark in result.marks]
    text, document = research_text(about, result.boxed), _document(result, "sr", "boxes")
    return planar_report(result.reference, observer_of(about), groups, text, document)


def planar_report(
    reference: Dataset, observer: sr.ObserverContext, groups: Sequence[Any], text: str, document: dict[str, Any]
) -> Dataset:
    """Measurement groups of an image as a report, whose words come last. `document` holds highdicom's other arguments."""
    library, lent = _for_library(reference)
    person = observer.observer_type == PERSON
    context = sr.ObservationContext(
        observer_person_context=observer if person else None, observer_device_context=None if person else observer
    )
    report = sr.MeasurementReport(
        observation_context=context,
        procedure_reported=PROCEDURE,
        imaging_measurements=groups,
        referenced_images=[library],
    )
    report[0].ContentSequence.append(comment(text))
    made = sr.Comprehensive3DSR(content=report, **document)
    _take_back(made, lent)
    return made


def _for_library(reference: Dataset) -> tuple[Dataset, list[str]]:
    lent = [keyword for keyword in LENT if not reference.get(keyword)]
    library = Dataset()
    library.update(reference)  # copy.copy would share the elements, and lend them to every later object
    if "ImagerPixelSpacing" in lent:
        library["ImagerPixelSpacing"] = DataElement("ImagerPixelSpacing", "DS", [1, 1])
    if "PatientOrientation" in lent:
        library["PatientOrientation"] = DataElement("PatientOrientation", "CS", ["L", "F"])
    return library, lent


def _take_back(made: Dataset, lent: list[str]) -> None:
    """Also names the modality of a secondary capture, which highdicom calls "Other"."""
    false = {code for keyword in lent for code in LENT[keyword]}
    for library in (item for item in made.ContentSequence if item.ConceptNameCodeSequence[0].CodeValue == "111028"):
        for entry in (entry for group in library.ContentSequence for entry in group.ContentSequence):
            kept = [item for item in entry.ContentSequence if item.ConceptNameCodeSequence[0].CodeValue not in false]
            for item in kept:
                if item.ValueType == "CODE" and item.ConceptCodeSequence[0].CodeValue == "OT":
                    item.ConceptCodeSequence = [CodedConcept("CR", "DCM", "Computed Radiography")]
            entry.ContentSequence = kept


def observer_of(about: Provenance) -> sr.ObserverContext:
    """Describes the model as the observing device: name, version and serial number from its hash."""
    return sr.ObserverContext(
        observer_type=CodedConcept("121007", "DCM", "Device"),
        observer_identifying_attributes=sr.DeviceObserverIdentifyingAttributes(
            uid=about.device_uid,
            name=PRODUCT,
            manufacturer_name=PRODUCT,
            model_name=printable(about.name, 64),
            serial_number=about.sha256[:16],
        ),
    )


def research_text(about: Provenance, findings: Sequence[str]) -> str:
    """What every report begins with: what it is for, who made it, and what its numbers are."""
    scale = about.scale([printable(name, 48) for name in findings])
    return f"{NOT_FOR_DIAGNOSIS} {PRODUCT} {about.version}, model {printable(about.name, 48)} {about.sha256[:12]}. {scale}"


def call_text(about: Provenance, finding: str, score: float) -> str:
    """Where the model calls a finding, and how often that was right on validation images."""
    if (point := about.operating_points.get(finding)) is None:
        return f"Shown from a score of {about.shown_from(finding):.2f}, here {score:.2f}; the model has no operating point for it."
    known = [f"{name} {value:.2f}" for name, value in about.measured.get(finding, {}).items()]
    measured = f"; on validation images: {', '.join(known)}" if known else ""
    return f"Called by the model: score {score:.2f}, called from {point:.2f}{measured}. Not verified."


def measure_of(about: Provenance, finding: str, score: float) -> tuple[CodedConcept, float, CodedConcept]:
    """A score's name, number and unit. One that is no probability is no certainty: it has a name and a unit of its own.

    The name repeats the finding, since OHIF shows a measurement's name and not what was found.
    """
    calibrated = finding in set(about.calibrated)
    value, scheme, meaning = CERTAINTY if calibrated else SCORE
    name = CodedConcept(value, scheme, f"{printable(finding, 40)}: {meaning}")
    return name, number_of(about, finding, score), PERCENT if calibrated else ONE


def number_of(about: Provenance, finding: str, score: float) -> float:
    """In percent where it is a probability."""
    kept = min(max(score, 0.0), 1.0)
    return round(100 * kept, 1) if finding in set(about.calibrated) else round(kept, 3)


def comment(text: str) -> sr.TextContentItem:
    """A line of free text in a report."""
    return sr.TextContentItem(CodedConcept("121106", "DCM", "Comment"), text, RelationshipTypeValues.CONTAINS)


def _group(mark: Mark, result: MarkedResult, algorithm: sr.AlgorithmIdentification) -> Any:
    """Presence is for a reader to state."""
    name, number, unit = measure_of(result.about, mark.finding, mark.score)
    measured = sr.Measurement(name=name, value=number, unit=unit, algorithm_id=algorithm)
    said = call_text(result.about, mark.finding, mark.score)
    return planar_group(mark, result.reference, [said], algorithm_id=algorithm, measurements=[measured])


def planar_group(mark: Mark, reference: Dataset, comments: Sequence[str], **more: Any) -> Any:
    """A finding, its site and its region; `more` are highdicom's other arguments."""
    group = sr.PlanarROIMeasurementsAndQualitativeEvaluations(
        tracking_identifier=sr.TrackingIdentifier(uid=mark.uid, identifier=f"{PRODUCT} {printable(mark.finding, 48)}"),
        referenced_region=sr.ImageRegion(
            graphic_type=GraphicTypeValues.POLYLINE,
            graphic_data=mark.outline,
            source_image=sr.SourceImageForRegion.from_source_image(reference),
        ),
        finding_type=mark.code,
        finding_sites=[sr.FindingSite(anatomic_location=mark.site)],
        **more,
    )
    group[0].ContentSequence.extend([comment(one) for one in comments])
    return group


def equipment(about: Provenance) -> ContributingEquipment:
    """IHE AI Results 6.5.3.1; its own purpose code, (1630, 99IHE), is not yet in the context group that tools check."""
    item = ContributingEquipment(
        manufacturer=PRODUCT,
        purpose_of_reference=CodedConcept("109102", "DCM", "Processing Equipment"),
        manufacturer_model_name=printable(about.name, 64),
        software_versions=about.version,
        device_serial_number=about.sha256[:16],
        contribution_description="AI inference",
    )
    item.DeviceUID = about.device_uid
    return item


def _document(result: MarkedResult, kind: Any, title: str) -> dict[str, Any]:
    series = series_of(kind, title, result.about, result.reference.SOPInstanceUID)
    return {
        **series,
        "evidence": [result.reference],
        "is_complete": True,
        "is_final": False,  # a reader's report is final; `verified` makes it
        "is_verified": False,
        "contributing_equipment": [equipment(result.about)],
        "coding_schemes": SCHEMES,
        "requested_procedures": requests_of(result.reference),
        "previous_versions": predecessors(result.replaces, result.reference, series["sop_instance_uid"]),
    }


def scored(result: MarkedResult) -> list[tuple[float, str]]:
    """Scores and findings, highest first."""
    rows = zip(map(float, result.prediction.scores), result.prediction.findings, strict=True)
    return sorted((row for row in rows if row[1] != NO_FINDING), key=lambda row: -row[0])


def scores_report(result: MarkedResult, rows: list[tuple[float, str]]) -> Dataset:
    """Every finding that the model was trained on; a text line with codes and numbers."""
    return _diagnostic_report(observer_of(result.about), _scores(result, rows), _document(result, "scores", "scores"))


def text_report(observer: sr.ObserverContext, text: str, document: dict[str, Any]) -> Dataset:
    """Words alone, for an image without regions."""
    section = _section()
    section.ContentSequence.append(sr.TextContentItem(CodedConcept(*FINDING), text, RelationshipTypeValues.CONTAINS))
    return _diagnostic_report(observer, section, document)


def _diagnostic_report(observer: sr.ObserverContext, section: Any, document: dict[str, Any]) -> Dataset:
    root = sr.ContainerContentItem(name=CodedConcept("18748-4", "LN", "Diagnostic Imaging Report"), template_id="2000")
    language = CodedConcept("121049", "DCM", "Language of Content Item and Descendants")
    english = sr.CodeContentItem(language, CodedConcept("en", "RFC5646", "English"), RelationshipTypeValues.HAS_CONCEPT_MOD)
    root.ContentSequence = sr.ContentSequence([english, *observer, section])
    return sr.EnhancedSR(content=root, **document)


def _section() -> sr.ContainerContentItem:
    section = sr.ContainerContentItem(
        CodedConcept("121070", "DCM", "Findings"), relationship_type=RelationshipTypeValues.CONTAINS
    )
    section.ContentSequence = sr.ContentSequence([])
    return section


def _scores(result: MarkedResult, rows: list[tuple[float, str]]) -> sr.ContainerContentItem:
    """The finding qualifies its number: as an item of its own, a viewer that leaves out the number would state all of them."""
    section = _section()
    section.ContentSequence.append(
        sr.TextContentItem(CodedConcept(*FINDING), "\n".join(scores_text(result, rows)), RelationshipTypeValues.CONTAINS)
    )
    for score, finding in rows:
        name, number, unit = measure_of(result.about, finding, score)
        item = sr.NumContentItem(name, number, unit, relationship_type=RelationshipTypeValues.CONTAINS)
        what = code_of(finding, result.prediction.findings)
        item.ContentSequence = sr.ContentSequence(
            [sr.CodeContentItem(CodedConcept(*FINDING), what, RelationshipTypeValues.HAS_CONCEPT_MOD)]
        )
        section.ContentSequence.append(item)
    return section


def scores_text(result: MarkedResult, rows: list[tuple[float, str]]) -> list[str]:
    """The lines of the text: what the scores are, and what they are not."""
    about = result.about
    lines = [research_text(about, [finding for _, finding in rows])]
    for score, finding in rows:
        point = about.operating_points.get(finding)
        mark = "" if point is None or score < point else f" (reaches the operating point {point:.2f})"
        lines.append(f"{printable(finding, 48)}: {score:.2f}{mark}")
    return [*lines, "A finding that is not listed was not looked for; a low score does not rule a finding out."]
