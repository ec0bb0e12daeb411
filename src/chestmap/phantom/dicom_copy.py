"""Phantom radiographs as DICOM: PA as Digital X-Ray, AP as Computed Radiography, 12 bits in 16, some with white as 0.

The headers pass dciodvfy of dicom3tools without a message. The grey levels are those of the PNG after the window, so that a
reader can be checked against it: LINEAR windows (PS3.3 C.11.2), identity rescale, MONOCHROME1 stored with the grey
reversed.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.sequence import Sequence
from pydicom.uid import UID, ExplicitVRLittleEndian, generate_uid

from chestmap.phantom.body import make_body
from chestmap.phantom.exam import make_exam
from chestmap.phantom.population import Population
from chestmap.phantom.raster import stream
from chestmap.phantom.settings import PhantomSettings
from chestmap.storage.atomic import replacing

_CR = "1.2.840.10008.5.1.4.1.1.1"
_DX = "1.2.840.10008.5.1.4.1.1.1.1"


def _code(value: str, scheme: str, meaning: str) -> Dataset:
    """One item of a code sequence."""
    code = Dataset()
    code.CodeValue, code.CodingSchemeDesignator, code.CodeMeaning = value, scheme, meaning
    return code


def write_dicom(
    path: Path, people: Population, settings: PhantomSettings, row: int, pixels: UInt8[np.ndarray, "h w"]
) -> None:
    """Write to a temporary file and rename it. UIDs follow from seed, patient and image, so a second run gives the same file."""
    name = people.image_id(row)
    case = people.case(row, settings)
    digital = case.view == "PA"
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = UID(_DX if digital else _CR)
    meta.MediaStorageSOPInstanceUID = generate_uid(entropy_srcs=["chestmap phantom", str(settings.seed), name])
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    data = FileDataset(str(path), {}, file_meta=meta, preamble=b"\0" * 128)
    _identify(data, people, settings, row)
    if digital:
        _add_digital(data)
    _add_pixels(data, pixels, stream(settings.seed, "dicom", row), settings.monochrome1, digital=digital)
    exam = make_exam(make_body(case.seed, case.patient, case.sex, case.age), case.view, case.follow_up, case.misalignment)
    width, height, spacing = exam.film
    data.ImagerPixelSpacing = [round(height * spacing / settings.side, 5), round(width * spacing / settings.side, 5)]
    with replacing(path) as made:
        data.save_as(made, enforce_file_format=True)


def _identify(data: FileDataset, people: Population, settings: PhantomSettings, row: int) -> None:
    """Patient, study, series, equipment: what every radiograph must state."""
    seed, patient, follow_up = str(settings.seed), int(people.patient[row]), int(people.follow_up[row])
    case = people.case(row, settings)
    data.SOPClassUID = data.file_meta.MediaStorageSOPClassUID
    data.SOPInstanceUID = data.file_meta.MediaStorageSOPInstanceUID
    data.SpecificCharacterSet = "ISO_IR 100"
    data.PatientName, data.PatientID = f"Phantom^{patient:08d}", f"{patient:08d}"
    data.PatientBirthDate, data.PatientSex, data.PatientAge = "", case.sex, f"{int(people.age[row]):03d}Y"
    date = f"{2001 + follow_up // 12:04d}{1 + follow_up % 12:02d}15"
    data.StudyDate = data.SeriesDate = data.ContentDate = data.AcquisitionDate = date
    data.StudyTime = data.SeriesTime = data.ContentTime = data.AcquisitionTime = "120000"
    data.StudyInstanceUID = generate_uid(entropy_srcs=["chestmap phantom study", seed, str(patient), str(follow_up)])
    data.SeriesInstanceUID = generate_uid(entropy_srcs=["chestmap phantom series", seed, str(patient), str(follow_up)])
    data.StudyID, data.AccessionNumber = str(follow_up), f"{patient}-{follow_up}"
    data.SeriesNumber = data.InstanceNumber = 1
    data.ReferringPhysicianName = ""
    data.Modality = "DX" if case.view == "PA" else "CR"
    data.Manufacturer, data.ManufacturerModelName, data.SoftwareVersions = "chestmap", "phantom", "1"
    data.BodyPartExamined, data.ViewPosition = "CHEST", case.view
    data.ImageType = ["DERIVED", "PRIMARY"]
    data.PatientOrientation = ["L", "F"]
    data.BurnedInAnnotation = "NO"
    data.KVP = "125" if case.view == "PA" else "85"


def _add_digital(data: FileDataset) -> None:
    """What the DX modules ask for beyond CR's."""
    data.PresentationIntentType = "FOR PRESENTATION"
    data.ImageLaterality = "U"
    data.DetectorType, data.DetectorActiveShape = "DIRECT", "RECTANGLE"
    data.FieldOfViewShape, data.PositionerType = "RECTANGLE", ""
    data.PixelIntensityRelationship, data.PixelIntensityRelationshipSign = "LOG", -1
    data.RescaleIntercept, data.RescaleSlope, data.RescaleType = "0", "1", "US"
    data.LossyImageCompression = "00"
    data.AcquisitionContextSequence = Sequence([])
    data.AnatomicRegionSequence = Sequence([_code("51185008", "SCT", "Thorax")])
    data.ViewCodeSequence = Sequence([_code("272479007", "SCT", "postero-anterior")])
    data.ViewCodeSequence[0].ViewModifierCodeSequence = Sequence([])
    data.DerivationDescription = "Computed phantom, not a patient"


def _add_pixels(
    data: FileDataset, pixels: np.ndarray, random: np.random.Generator, inverted: float, *, digital: bool
) -> None:
    """Any part of the 12 bits may be used; the window marks which, so that a reader gets back the grey levels of the PNG."""
    low, span = int(random.integers(0, 700)), int(random.integers(1800, 3395))
    white_is_0 = random.random() < inverted
    grey = pixels.astype(np.float64) / 255
    stored = np.rint(low + span * (1 - grey if white_is_0 else grey)).astype("<u2")
    data.SamplesPerPixel, data.PhotometricInterpretation = 1, "MONOCHROME1" if white_is_0 else "MONOCHROME2"
    data.Rows, data.Columns = stored.shape
    data.BitsAllocated, data.BitsStored, data.HighBit, data.PixelRepresentation = 16, 12, 11, 0
    # PS3.3 C.11.2.1.2: the first grey level at c - 0.5 - (w - 1)/2, the last at c - 0.5 + (w - 1)/2
    data.WindowCenter, data.WindowWidth = f"{low + 0.5 + span / 2:.1f}", str(span + 1)
    if digital:
        data.PresentationLUTShape = "INVERSE" if white_is_0 else "IDENTITY"
        data.PixelIntensityRelationshipSign = 1 if white_is_0 else -1
    data.PixelData = stored.tobytes()
