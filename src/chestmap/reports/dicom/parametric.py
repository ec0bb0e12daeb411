"""Writes the map of one finding as Parametric Map, 32-bit floats in [0, 1]. It uses pydicom: highdicom wants a place in
space.

With as many rows and columns as the radiograph, and its frame names that as its source: OHIF lays the values over the
radiograph's own pixels one by one, and makes stripes of a smaller map. So 3.6 million pixels are 14 MB for each finding.
"""

from __future__ import annotations

from datetime import datetime

import numpy as np
from pydicom import uid
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset

from chestmap.reports.dicom.finding_marks import MarkedResult, code_of, printable
from chestmap.reports.dicom.provenance import made_uid, series_of
from chestmap.reports.dicom.source_header import EMPTY_IF_ABSENT, spacing_of
from chestmap.reports.dicom.sr import equipment

COPIED = (
    *EMPTY_IF_ABSENT, "SpecificCharacterSet", "IssuerOfPatientID", "PatientAge", "PatientSize", "PatientWeight", "PatientIdentityRemoved",
    "DeidentificationMethod", "DeidentificationMethodCodeSequence", "StudyInstanceUID", "StudyDescription", "BodyPartExamined",
)  # fmt: skip
LOSSY = ("LossyImageCompression", "LossyImageCompressionRatio", "LossyImageCompressionMethod")
TYPE = ["DERIVED", "PRIMARY", "CLASS_ACTIVATION", "NONE"]
POINTER, GROUP = 0x00209453, 0x00209111  # frame label, in frame content


def parametric_map(result: MarkedResult, place: int, finding: str) -> Dataset | None:
    """`place` counts findings from 1; None for a map without information. One finding each, since OHIF shows the first frame."""
    values = result.map_of(finding, result.size)
    if values is None:
        return None
    made = _head(result, place, finding)
    _describe(made, result)
    made.NumberOfFrames, made.Rows, made.Columns = 1, *values.shape
    made.SamplesPerPixel, made.PhotometricInterpretation, made.BitsAllocated = 1, "MONOCHROME2", 32
    _add_dimension(made)
    made.SharedFunctionalGroupsSequence = [_shared(result)]
    made.PerFrameFunctionalGroupsSequence = [_frame(result, finding)]
    made.FloatPixelData = np.ascontiguousarray(values, "<f4").tobytes()
    return made


def _item(**elements: object) -> Dataset:
    item = Dataset()
    for keyword, value in elements.items():
        setattr(item, keyword, value)
    return item


def _code(value: str, scheme: str, meaning: str) -> Dataset:
    return _item(CodeValue=value, CodingSchemeDesignator=scheme, CodeMeaning=meaning)


def _head(result: MarkedResult, place: int, finding: str) -> FileDataset:
    """Patient, study, series, equipment."""
    series = series_of("pmap", "map", result.about, result.reference.SOPInstanceUID, finding, place)
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = uid.ParametricMapStorage, series["sop_instance_uid"]
    meta.TransferSyntaxUID = uid.ExplicitVRLittleEndian
    made = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
    for keyword in COPIED:
        if keyword in result.reference:
            made[keyword] = result.reference[keyword]
    made.SOPClassUID, made.SOPInstanceUID = uid.ParametricMapStorage, series["sop_instance_uid"]
    made.Modality, made.SeriesInstanceUID, made.SeriesNumber = "OT", series["series_instance_uid"], series["series_number"]
    made.SeriesDescription, made.InstanceNumber = series["series_description"], series["instance_number"]
    made.Manufacturer, made.ManufacturerModelName = series["manufacturer"], series["manufacturer_model_name"]
    made.DeviceSerialNumber, made.SoftwareVersions = series["device_serial_number"], series["software_versions"]
    made.ContributingEquipmentSequence = [equipment(result.about)]
    now = datetime.now().astimezone()
    made.ContentDate, made.ContentTime = now.strftime("%Y%m%d"), now.strftime("%H%M%S")
    made.SeriesDate, made.SeriesTime = made.ContentDate, made.ContentTime
    made.ContentLabel, made.ContentDescription = "CHESTMAP", f"map of {printable(finding, 50)}"
    made.ContentCreatorName = "chestmap^AI"
    return made


def _describe(made: Dataset, result: MarkedResult) -> None:
    made.ImageType, made.ContentQualification = TYPE, "RESEARCH"
    made.RecognizableVisualFeatures, made.BurnedInAnnotation = "NO", "NO"
    made.LossyImageCompression = "00"
    for keyword in LOSSY:
        if keyword in result.reference:
            made[keyword] = result.reference[keyword]
    made.PresentationLUTShape, made.AcquisitionContextSequence = "IDENTITY", []
    made.FrameOfReferenceUID = made_uid("plane", result.reference.SOPInstanceUID)
    made.PositionReferenceIndicator = ""
    source = _item(
        ReferencedSOPClassUID=result.reference.SOPClassUID, ReferencedSOPInstanceUID=result.reference.SOPInstanceUID
    )
    made.ReferencedSeriesSequence = [
        _item(SeriesInstanceUID=result.reference.SeriesInstanceUID, ReferencedInstanceSequence=[source])
    ]


def _add_dimension(made: Dataset) -> None:
    organization = made_uid("dimension", made.SOPInstanceUID)
    made.DimensionOrganizationSequence = [_item(DimensionOrganizationUID=organization)]
    made.DimensionIndexSequence = [
        _item(
            DimensionIndexPointer=POINTER,
            FunctionalGroupPointer=GROUP,
            DimensionOrganizationUID=organization,
            DimensionDescriptionLabel="Frame Label",
        )
    ]


def _derivation(result: MarkedResult) -> Dataset:
    source = _item(
        ReferencedSOPClassUID=result.reference.SOPClassUID,
        ReferencedSOPInstanceUID=result.reference.SOPInstanceUID,
        PurposeOfReferenceCodeSequence=[_code("121322", "DCM", "Source Image for Image Processing Operation")],
    )
    return _item(SourceImageSequence=[source], DerivationCodeSequence=[_code("110001", "DCM", "Image Processing")])


def _shared(result: MarkedResult) -> Dataset:
    anatomy = _item(FrameLaterality="U", AnatomicRegionSequence=[_code("43799004", "SCT", "Chest")])
    return _item(
        ParametricMapFrameTypeSequence=[_item(FrameType=TYPE)],
        FrameAnatomySequence=[anatomy],
        FrameVOILUTSequence=[_item(WindowCenter="0.5", WindowWidth="1")],
        PixelValueTransformationSequence=[_item(RescaleIntercept="0", RescaleSlope="1", RescaleType="US")],
        PixelMeasuresSequence=[
            _item(PixelSpacing=[f"{one:.10g}" for one in spacing_of(result.reference)], SliceThickness="1")
        ],
        PlaneOrientationSequence=[_item(ImageOrientationPatient=[1, 0, 0, 0, 1, 0])],
    )


def _frame(result: MarkedResult, finding: str) -> Dataset:
    """What the numbers are: class activation (CID 217) of a finding, without a unit."""
    quantity = _item(
        ValueType="CODE",
        ConceptNameCodeSequence=[_code("246205007", "SCT", "Quantity")],
        ConceptCodeSequence=[_code("130402", "DCM", "Class activation")],
    )
    what = _item(
        ValueType="CODE",
        ConceptNameCodeSequence=[_code("121071", "DCM", "Finding")],
        ConceptCodeSequence=[code_of(finding, result.prediction.findings)],
    )
    world = _item(
        RealWorldValueIntercept=0.0,
        RealWorldValueSlope=1.0,
        DoubleFloatRealWorldValueFirstValueMapped=0.0,
        DoubleFloatRealWorldValueLastValueMapped=1.0,
        LUTExplanation=f"{printable(finding, 40)} class activation",
        LUTLabel=printable(finding, 16),
        MeasurementUnitsCodeSequence=[_code("1", "UCUM", "no units")],
        QuantityDefinitionSequence=[quantity, what],
    )
    return _item(
        DerivationImageSequence=[_derivation(result)],
        PlanePositionSequence=[_item(ImagePositionPatient=["0", "0", "0"])],
        FrameContentSequence=[_item(FrameLabel=printable(finding, 64), DimensionIndexValues=[1])],
        RealWorldValueMappingSequence=[world],
    )
