"""De-identifies a radiograph: the Basic Application Level Confidentiality Profile of DICOM PS3.15 annex E.

In three steps, each enough for most files: dicom-anonymizer applies the profile's table, here to nested items too; then only
elements on a list remain, each with a value that its pattern allows; then identifiers are replaced by keyed hashes, so that
the images of a patient and the results of an image still belong together, and nobody without the key finds the way back.

Text in the pixels is not found, as no header names it. Files that admit to it are refused.
"""

from __future__ import annotations

import copy
import hashlib
import hmac
import re
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from io import BytesIO
from pathlib import Path
from typing import Any

from dicomanonymizer import simpledicomanonymizer as profile
from pydicom import Dataset, dcmread, dcmwrite, uid
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.encaps import encapsulate, generate_frames
from pydicom.sequence import Sequence

from chestmap.errors import BadImage
from chestmap.imaging.dicom_header import FAILURES, Header, quiet
from chestmap.imaging.dicom_view import STORAGES, VIEW_CODES
from chestmap.imaging.read import ReadSettings, radiograph_of
from chestmap.reports.dicom.source_header import syntax_of
from chestmap.reports.dicom.stream_comments import without_comments
from chestmap.storage.atomic import write_bytes
from chestmap.version import __version__

NUMBER = re.compile(r"[-+0-9.eE]{1,16}")
TERMS: dict[str, str] = {
    "SOPClassUID": r"1\.2\.840\.10008\.[0-9.]{1,40}",
    "Modality": "CR|DX|RG|DR|OT|SC",
    "PresentationIntentType": "FOR PRESENTATION|FOR PROCESSING",
    "ConversionType": "DV|DI|DF|WSD|SD|SI|DRW|SYN",
    "BurnedInAnnotation": "NO",
    "ViewPosition": "PA|AP|LL|RL|LLO|RLO|LLD|RLD",
    "Laterality": "[LR]",
    "ImageLaterality": "[LRUB]",
    "PatientOrientation": "[LRAPHF]{1,3}",
    "PositionerType": "NONE|COLUMN|C-ARM",
    "DetectorType": "DIRECT|SCINTILLATOR|STORAGE|FILM",
    "PhotometricInterpretation": "MONOCHROME[12]|RGB|YBR_FULL|YBR_FULL_422|YBR_ICT|YBR_RCT",
    "PixelIntensityRelationship": "LIN|LOG|DISP",
    "PresentationLUTShape": "IDENTITY|INVERSE",
    "VOILUTFunction": "LINEAR|LINEAR_EXACT|SIGMOID",
    "RescaleType": "OD|HU|US|UNSPECIFIED",
    "LossyImageCompression": "0[01]",
    "LossyImageCompressionMethod": r"ISO_[0-9_]{1,12}",
}
"""Elements of words that remain, and the words that each may hold."""

NUMBERS = (
    "SeriesNumber", "InstanceNumber", "ImagerPixelSpacing", "PixelSpacing", "NominalScannedPixelSpacing", "PixelAspectRatio",
    "SamplesPerPixel", "PlanarConfiguration", "NumberOfFrames", "Rows", "Columns", "BitsAllocated", "BitsStored", "HighBit",
    "PixelRepresentation", "SmallestImagePixelValue", "LargestImagePixelValue", "PixelPaddingValue", "PixelPaddingRangeLimit",
    "PixelIntensityRelationshipSign", "WindowCenter", "WindowWidth", "RescaleIntercept", "RescaleSlope",
    "LossyImageCompressionRatio", "KVP",
)  # fmt: skip
EMPTIED = (
    "StudyDate", "StudyTime", "AccessionNumber", "ReferringPhysicianName", "PatientBirthDate", "PatientSex", "StudyID",
    "Manufacturer",
)  # fmt: skip
"""Type 2: wanted by the standard, without a value."""
KINDS_OF_IMAGE = ["DERIVED", "PRIMARY", "ORIGINAL", "SECONDARY"]
TABLES = ("ModalityLUTSequence", "VOILUTSequence")
IDENTIFIERS = ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID", "FrameOfReferenceUID")
THORAX = ("51185008", "SCT", "Thorax")
BASIC_PROFILE = ("113100", "DCM", "Basic Application Confidentiality Profile")
CHARACTERISTICS = ("113108", "DCM", "Retain Patient Characteristics Option")
MODIFIED_DATES = ("113107", "DCM", "Retain Longitudinal Temporal Information Modified Dates Option")
DATES = ("StudyDate", "AcquisitionDate")
LONGEST_SHIFT = 3650
OLDEST = 90
"""Years; ages from there on are written as this one, since few people have them."""


@dataclass(frozen=True)
class KeepOptions:
    """Options of PS3.15: age and sex as they are, dates shifted by one span for all images of a patient."""

    age_and_sex: bool = False
    shifted_dates: bool = False


def deidentified(dataset: Dataset, salt: bytes, keeping: KeepOptions | None = None) -> Dataset:
    """A new data set, ready to be written; `dataset`, as `pydicom.dcmread` gives it, is not changed.

    The same salt gives the same identifiers over a batch; keep it as secret as a key, or throw it away. Result objects are
    made from the de-identified radiograph, not de-identified themselves: their texts are free. Raises `BadImage`.
    """
    if len(salt) < 16:
        raise ValueError(f"a salt of {len(salt)} bytes can be guessed; give 16 or more")
    with quiet():
        header = Header(dataset, "")
        storage = header.text("SOPClassUID")
        if storage not in STORAGES:
            named = uid.UID(storage).name if re.fullmatch("[0-9.]{1,64}", storage) else "without an SOP class"
            raise BadImage(f"{named}; radiographs are de-identified: make result objects anew from the de-identified image")
        if header.text("BurnedInAnnotation").upper() == "YES":
            raise BadImage("text is burned into the pixels (BurnedInAnnotation YES): remove it from the picture first")
        made = _kept(_by_profile(dataset))
        whose = _name(made, header, salt)
        _say_so(made)
        _keep(made, header, keeping or KeepOptions(), hashed(salt, "shift", whose))
        _add_pixels(made, dataset)
    return made


def write_deidentified(data: bytes, salt: bytes, folder: Path, keeping: KeepOptions | None = None) -> bool:
    """A file's content, first read as a radiograph within all bounds, into `folder` under its new identifier.

    False where the file does not say whether text is burned into the pixels.
    """
    if data[128:132] != b"DICM":
        raise BadImage("no DICOM file: only DICOM radiographs are de-identified")
    radiograph_of(data, "image", ReadSettings(views="any"))
    with quiet():
        try:
            dataset = dcmread(BytesIO(data))
        except FAILURES as problem:
            raise BadImage(f"header cannot be read ({type(problem).__name__}): export it again") from None
    made = deidentified(dataset, salt, keeping)
    path, stream = folder / f"{made.SOPInstanceUID}.dcm", BytesIO()
    with quiet():
        dcmwrite(stream, made, enforce_file_format=True)
    if path.exists() and path.read_bytes() != stream.getvalue():
        raise BadImage("another image of the same SOPInstanceUID, with other content, is there already: it is kept")
    write_bytes(path, stream.getbuffer())
    return "BurnedInAnnotation" in made


def hashed(salt: bytes, what: str, value: str) -> bytes:
    """A keyed hash; `what` keeps hashes of ids, dates and UIDs apart."""
    return hmac.new(salt, f"{what}\0{value}".encode(), hashlib.sha256).digest()


def hashed_uid(salt: bytes, value: str) -> uid.UID:
    """Replaces a UID by one under 2.25 that depends on the salt alone, so that references still match."""
    return uid.UID(f"2.25.{uuid.UUID(bytes=hashed(salt, 'uid', value)[:16], version=5).int}")


def _by_profile(dataset: Dataset) -> Dataset:
    """The table of PS3.15, without pixels. An element that cannot be read is gone: what nobody can read, nobody can check."""
    plain = Dataset()
    for tag in list(dataset.keys()):
        if tag.is_private or tag.group >= 0x5000 or tag.group in {0x0000, 0x0002, 0x4000}:
            continue
        try:
            plain.add(copy.deepcopy(dataset[tag]))
        except FAILURES:
            continue
    for one in (plain, *_nested(plain)):
        try:
            profile.anonymize_dataset(one, base_rules_gen=profile.initialize_actions_2024b)
        except FAILURES as problem:
            raise BadImage(
                f"an element cannot be de-identified ({type(problem).__name__}): export the image again"
            ) from None
    return plain


def _nested(dataset: Dataset) -> Iterator[Dataset]:
    for element in dataset:
        if isinstance(element.value, Sequence):
            for item in element.value:
                yield item
                yield from _nested(item)


def _kept(plain: Dataset) -> Dataset:
    """What the lists name; a value that its pattern does not allow is left out."""
    made, header = Dataset(), Header(plain, "")
    for keyword in (*TERMS, *NUMBERS):
        element = header.element(keyword)
        allowed = re.compile(TERMS[keyword]) if keyword in TERMS else NUMBER
        if element is not None and all(allowed.fullmatch(str(value).strip()) for value in header.values(keyword)):
            made.add(element)
    made.ImageType = [word for word in header.values("ImageType") if str(word) in KINDS_OF_IMAGE][:2] or KINDS_OF_IMAGE[:2]
    for keyword in TABLES:
        if header.lut(keyword) is not None:
            made.add_new(keyword, "SQ", Sequence([_table(header.items(keyword)[0], keyword)]))
    for item in header.items("ViewCodeSequence")[:1]:
        value = Header(item, "").text("CodeValue")
        if value in VIEW_CODES and value.isdigit():
            made.ViewCodeSequence = Sequence([_code(value, "SCT", VIEW_CODES[value])])
            made.ViewCodeSequence[0].ViewModifierCodeSequence = Sequence([])
    return made


def _table(item: Dataset, keyword: str) -> Dataset:
    table = Dataset()
    table.add(item["LUTDescriptor"])
    table.add(item["LUTData"])
    if keyword == "ModalityLUTSequence":
        table.ModalityLUTType = "US"
    return table


def _code(value: str, scheme: str, meaning: str) -> Dataset:
    code = Dataset()
    code.CodeValue, code.CodingSchemeDesignator, code.CodeMeaning = value, scheme, meaning
    return code


def _keep(made: Dataset, header: Header, keeping: KeepOptions, shift: bytes) -> None:
    """Names each option among the methods, as PS3.15 asks."""
    if keeping.age_and_sex:
        age, sex = header.text("PatientAge"), header.text("PatientSex")
        if re.fullmatch(r"\d{3}[DWMY]", age):
            made.PatientAge = f"{min(int(age[:3]), OLDEST):03d}Y" if age.endswith("Y") else age
        made.PatientSex = sex if sex in {"M", "F", "O"} else None
        made.DeidentificationMethodCodeSequence.append(_code(*CHARACTERISTICS))
    if keeping.shifted_dates:
        days = timedelta(days=1 + int.from_bytes(shift[:4]) % LONGEST_SHIFT)
        for keyword in DATES:
            try:
                date = datetime.strptime(header.text(keyword), "%Y%m%d") - days  # noqa: DTZ007 - a date has no zone
            except (ValueError, OverflowError):
                continue
            setattr(made, keyword, date.strftime("%Y%m%d"))
        made.LongitudinalTemporalInformationModified = "MODIFIED"
        made.DeidentificationMethodCodeSequence.append(_code(*MODIFIED_DATES))


def _name(made: Dataset, header: Header, salt: bytes) -> str:
    """Patients stay apart from each other, so that a split by patient is still one; without an id a study is a patient.

    Returns what tells the patient.
    """
    for keyword in IDENTIFIERS:
        if value := header.text(keyword):
            setattr(made, keyword, hashed_uid(salt, value))
    missing = [keyword for keyword in IDENTIFIERS[:3] if keyword not in made]
    if missing:
        raise BadImage(f"{missing[0]} is missing: export the image again")
    whose = "\0".join(header.text(keyword) for keyword in ("PatientID", "IssuerOfPatientID"))
    whose = whose if whose.strip("\0") else header.text("StudyInstanceUID")
    name = hashed(salt, "patient", whose).hex()[:16]
    made.PatientID, made.PatientName = f"anon-{name}", f"anon^{name}"
    for keyword in EMPTIED:
        setattr(made, keyword, None)
    return whose


def _say_so(made: Dataset) -> None:
    """Also the elements that a chest radiograph must have, and the lists left out."""
    made.PatientIdentityRemoved, made.LongitudinalTemporalInformationModified = "YES", "REMOVED"
    made.DeidentificationMethod = f"chestmap {__version__}: PS3.15 basic profile, listed elements only"
    made.DeidentificationMethodCodeSequence = Sequence([_code(*BASIC_PROFILE)])
    made.BodyPartExamined = "CHEST"
    if "PatientOrientation" not in made:
        made.PatientOrientation = None
    if made.SOPClassUID in {uid.DigitalXRayImageStorageForPresentation, uid.DigitalXRayImageStorageForProcessing}:
        made.AnatomicRegionSequence, made.AcquisitionContextSequence = Sequence([_code(*THORAX)]), Sequence([])
        if "PositionerType" not in made:
            made.PositionerType = None
    if "InstanceNumber" not in made:
        made.InstanceNumber = None


def _add_pixels(made: Dataset, source: Dataset) -> None:
    """As stored, less what no decoder shows: bytes behind the last pixel, comments and camera data of a JPEG."""
    if "PixelData" not in source:
        raise BadImage("no pixel data: export the image again")
    syntax = uid.UID(syntax_of(source))
    if not syntax:
        raise BadImage("no transfer syntax: export the image again")
    element = source["PixelData"]
    value: Any = element.value
    if syntax.is_compressed and syntax != uid.DeflatedExplicitVRLittleEndian:
        frames = [without_comments(frame) for frame in generate_frames(value, number_of_frames=1)]
        made.add_new("PixelData", "OB", encapsulate(frames))
        made["PixelData"].is_undefined_length = True
    else:
        length = int(made.Rows) * int(made.Columns) * int(made.get("SamplesPerPixel", 1)) * int(made.BitsAllocated) // 8
        if made.get("PhotometricInterpretation") == "YBR_FULL_422":
            length = length * 2 // 3
        made.add_new("PixelData", element.VR if element.VR in {"OB", "OW"} else "OW", value[:length] + b"\0" * (length % 2))
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = made.SOPClassUID, made.SOPInstanceUID
    meta.TransferSyntaxUID = syntax
    made.file_meta = meta
    if isinstance(source, FileDataset):
        made.set_original_encoding(syntax.is_implicit_VR, syntax.is_little_endian)
