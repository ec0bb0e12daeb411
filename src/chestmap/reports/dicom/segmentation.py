"""Writes the regions of findings as one binary Segmentation, a segment for each finding.

Where an image's pixel count is no multiple of 8, segments after the first are not byte aligned, which Orthanc refuses and
OHIF waits for: then each finding has an object and a series of its own. A radiograph has no place in space, but viewers want
one: the plane here is nominal.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
from highdicom import seg
from highdicom.content import AlgorithmIdentificationSequence
from highdicom.sr import CodedConcept
from jaxtyping import Bool
from pydicom.dataset import Dataset
from pydicom.uid import ExplicitVRLittleEndian

from chestmap.reports.dicom.finding_marks import ABNORMAL, MarkedResult, concept, printable
from chestmap.reports.dicom.presentation import YELLOW
from chestmap.reports.dicom.provenance import PRODUCT, series_of
from chestmap.reports.dicom.source_header import spacing_of
from chestmap.reports.dicom.sr import equipment

FAMILY = CodedConcept("123110", "DCM", "Artificial Intelligence")


def segmentations(result: MarkedResult) -> Iterator[Dataset]:
    """None where no pixel of any mask lies in a box."""
    regions = {finding: region for finding in result.boxed if (region := result.region_of(finding)).any()}
    if regions and result.size[0] * result.size[1] % 8 == 0:
        yield _segmentation(result, regions)
        return
    for number, (finding, region) in enumerate(regions.items(), 1):
        yield _segmentation(result, {finding: region}, finding, number)


def _segmentation(
    result: MarkedResult, regions: Mapping[str, Bool[np.ndarray, "h w"]], part: str = "", own: int = 0
) -> Dataset:
    about, reference = result.about, result.reference
    pixels = np.stack(list(regions.values()), axis=-1)[np.newaxis].astype(np.uint8)
    made = seg.Segmentation(
        [reference],
        pixels,
        seg.SegmentationTypeValues.BINARY,
        [_described(result, number, finding) for number, finding in enumerate(regions, 1)],
        **series_of("seg", "regions", about, reference.SOPInstanceUID, part, own),
        transfer_syntax_uid=ExplicitVRLittleEndian,
        content_label="CHESTMAP",
        content_description=printable(", ".join(regions), 64),
        content_creator_name="chestmap^AI",
        contributing_equipment=[equipment(about)],
    )
    made.PatientOrientation = reference.get("PatientOrientation")
    made.BodyPartExamined = "CHEST"
    _add_plane(made, spacing_of(reference))
    return made


def _described(result: MarkedResult, number: int, finding: str) -> seg.SegmentDescription:
    first = next(mark for mark in result.marks if mark.finding == finding)
    algorithm = AlgorithmIdentificationSequence(name=PRODUCT, family=FAMILY, version=result.about.version)
    return seg.SegmentDescription(
        segment_number=number,
        segment_label=printable(first.label, 64),
        segmented_property_category=concept(ABNORMAL),
        segmented_property_type=first.code,
        algorithm_type=seg.SegmentAlgorithmTypeValues.AUTOMATIC,
        algorithm_identification=algorithm,
        tracking_uid=first.uid,
        display_color=YELLOW,
        tracking_id=f"{PRODUCT} {printable(finding, 48)}",
    )


def _add_plane(made: Dataset, spacing: object) -> None:
    """Without one OHIF's viewport dies and dcmqi, which 3D Slicer uses, refuses the object."""
    measures, orientation = Dataset(), Dataset()
    measures.PixelSpacing, measures.SliceThickness = spacing, 1
    orientation.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    shared = made.SharedFunctionalGroupsSequence[0]
    shared.PixelMeasuresSequence, shared.PlaneOrientationSequence = [measures], [orientation]
    for frame in made.PerFrameFunctionalGroupsSequence:
        position = Dataset()
        position.ImagePositionPatient = [0, 0, 0]
        frame.PlanePositionSequence = [position]
