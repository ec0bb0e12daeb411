"""The region of one finding as a binary Segmentation.

One instance for each finding: two segments on an image whose pixel count is no multiple of 8 are not byte aligned, which
Orthanc refuses and OHIF waits for. A radiograph has no place in space, but viewers want one: the plane here is nominal.
"""

from __future__ import annotations

import numpy as np
from highdicom import seg
from highdicom.content import AlgorithmIdentificationSequence
from highdicom.sr import CodedConcept
from pydicom.dataset import Dataset
from pydicom.uid import ExplicitVRLittleEndian

from chestmap.reports.dicom.finding_marks import ABNORMAL, Result, concept, printable
from chestmap.reports.dicom.presentation import YELLOW
from chestmap.reports.dicom.provenance import PRODUCT, series_of
from chestmap.reports.dicom.source_header import spacing_of
from chestmap.reports.dicom.sr import equipment

FAMILY = CodedConcept("123110", "DCM", "Artificial Intelligence")


def segmentation(result: Result, place: int, finding: str) -> Dataset | None:
    """`place` counts findings from 1; None where no pixel of the mask lies in a box."""
    region = result.region_of(finding)
    if not region.any():
        return None
    about, reference = result.about, result.reference
    first = next(mark for mark in result.marks if mark.finding == finding)
    algorithm = AlgorithmIdentificationSequence(name=PRODUCT, family=FAMILY, version=about.version)
    description = seg.SegmentDescription(
        segment_number=1,
        segment_label=printable(first.label, 64),
        segmented_property_category=concept(ABNORMAL),
        segmented_property_type=first.code,
        algorithm_type=seg.SegmentAlgorithmTypeValues.AUTOMATIC,
        algorithm_identification=algorithm,
        tracking_uid=first.uid,
        display_color=YELLOW,
        tracking_id=f"{PRODUCT} {printable(finding, 48)}",
    )
    made = seg.Segmentation(
        [reference],
        region[np.newaxis, ..., np.newaxis].astype(np.uint8),
        seg.SegmentationTypeValues.BINARY,
        [description],
        **series_of("seg", "regions", about, reference.SOPInstanceUID, part=finding, place=place),
        transfer_syntax_uid=ExplicitVRLittleEndian,
        content_label="CHESTMAP",
        content_description=printable(finding, 64),
        content_creator_name="chestmap^AI",
        contributing_equipment=[equipment(about)],
    )
    made.PatientOrientation = reference.get("PatientOrientation")
    made.BodyPartExamined = "CHEST"
    _add_plane(made, spacing_of(reference))
    return made


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
