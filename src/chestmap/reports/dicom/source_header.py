"""Reads the part of a radiograph's header that result objects repeat, and checks each element first.

Archives are full of ages without a unit, spacings of zero and identifiers with line feeds; a copy of them would make the
result the faulty object. What is damaged is left out, or empty where the standard wants the element; only what joins the
result to its study (the UIDs) must be right.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from io import BytesIO

import numpy as np
from jaxtyping import Float32
from pydicom import dcmwrite
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import (
    UID,
    ComputedRadiographyImageStorage,
    DigitalXRayImageStorageForPresentation,
    DigitalXRayImageStorageForProcessing,
    SecondaryCaptureImageStorage,
)
from pydicom.valuerep import PersonName

from chestmap.errors import BadImage
from chestmap.imaging.dicom import read_dicom
from chestmap.imaging.dicom_header import FAILURES, WANTED, Header, quiet, read_header
from chestmap.imaging.limits import LIMITS

JOINING = ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID", "SOPClassUID")

SINGLE = {
    ComputedRadiographyImageStorage,
    DigitalXRayImageStorageForPresentation,
    DigitalXRayImageStorageForProcessing,
    SecondaryCaptureImageStorage,
}
"""The kinds of radiograph that are read, without the multi-frame ones: their results would need frame numbers."""

EMPTY_IF_ABSENT = (
    "PatientName", "PatientID", "PatientBirthDate", "PatientSex", "StudyDate", "StudyTime", "StudyID", "AccessionNumber",
    "ReferringPhysicianName",
)  # fmt: skip
"""Type 2: the element is there, its value may not be."""

OPTIONAL = (
    "IssuerOfPatientID", "PatientAge", "PatientSize", "PatientWeight", "PatientIdentityRemoved", "DeidentificationMethod", "StudyDescription", "Laterality",
    "ViewPosition", "LossyImageCompression",
)  # fmt: skip

REASON = "ReasonForTheRequestedProcedure"

LOSSY = ("LossyImageCompressionRatio", "LossyImageCompressionMethod")

ORIENTATION = re.compile(r"[LRAPHF]{1,3}")
LONGEST = {"CS": 16, "SH": 16, "LO": 64}


def read_source(data: bytes) -> Dataset:
    """What `write_dicom` needs of a radiograph's file, read within the bounds of `read_header`; a damaged file is a `BadImage`.

    `pydicom.dcmread` may replace it where files are known to be good.
    """
    wanted = (
        *JOINING,
        *EMPTY_IF_ABSENT,
        *OPTIONAL,
        "DeidentificationMethodCodeSequence",
        *LOSSY,
        *WANTED,
        "RequestAttributesSequence",
        REASON,
    )
    if data[128:132] != b"DICM":
        raise BadImage("no DICOM file: results are written for DICOM radiographs")
    with quiet():
        try:
            header = read_header(data, LIMITS, tuple(dict.fromkeys(wanted)))
        except FAILURES as problem:
            raise BadImage(f"DICOM data is damaged ({type(problem).__name__}): copy or export it again") from None
    header.dataset.file_meta = FileMetaDataset()
    header.dataset.file_meta.TransferSyntaxUID = UID(header.syntax)
    return header.dataset


def referenced(source: Dataset) -> Dataset:
    """A header for result objects. No pixels, no private elements, and nothing that is not listed here."""
    with quiet():
        header = Header(source, syntax_of(source))
        found = Dataset()
        _copy_joining(header, found)
        for keyword in (*EMPTY_IF_ABSENT, *OPTIONAL):
            value = _CLEAN.get(keyword, _plain)(header, keyword)
            if value or keyword in EMPTY_IF_ABSENT:
                setattr(found, keyword, value or None)
        _copy_image(header, found)
        _copy_deidentification(header, found)
        _copy_requests(header, found)
    return found


def _copy_joining(header: Header, found: Dataset) -> None:
    for keyword in JOINING:
        value = header.text(keyword)
        if not re.fullmatch(r"[0-9.]{1,64}", value):
            came = "missing" if not value else "no identifier"
            raise BadImage(f"{keyword} is {came}: a result could not join its study; export the image again")
        setattr(found, keyword, value)
    if found.SOPClassUID not in SINGLE:
        named = UID(found.SOPClassUID).name
        raise BadImage(
            f"{named}; results are written for CR, DX and single-frame secondary captures: export it as one of these"
        )


def _plain(header: Header, keyword: str) -> str:
    """Text without control characters, cut to what its type can hold."""
    element = header.element(keyword)
    if element is None:
        return ""
    text = "".join(letter for letter in str(element.value) if letter.isprintable() and letter != "\\").strip()
    text = text[: LONGEST.get(str(element.VR), 64)].strip()
    return "" if element.VR == "CS" and not re.fullmatch(r"[A-Z0-9_ ]*", text) else text


def _name(header: Header, keyword: str) -> PersonName | None:
    """At most three groups of five parts of 64 letters."""
    element = header.element(keyword)
    text = "" if element is None else "".join(letter for letter in str(element.value) if letter.isprintable())
    groups = ["^".join(group.replace("\\", " ").split("^")[:5])[:64].strip() for group in text.split("=")[:3]]
    return PersonName("=".join(groups)) if any(groups) else None


def _date(header: Header, keyword: str) -> str:
    text = header.text(keyword)
    try:
        datetime.strptime(text, "%Y%m%d")  # noqa: DTZ007 - a date has no zone
    except ValueError:
        return ""
    return text if len(text) == 8 else ""


def _time(header: Header, keyword: str) -> str:
    text = header.text(keyword)
    return text if re.fullmatch(r"([01]\d|2[0-3])([0-5]\d([0-5]\d(\.\d{1,6})?)?)?", text) else ""


def _matching(pattern: str) -> Callable[[Header, str], str]:
    return lambda header, keyword: text if re.fullmatch(pattern, text := header.text(keyword)) else ""


def _measure(least: float, most: float) -> Callable[[Header, str], str]:
    """Meters and kilograms of a person; zeros, centimeters and grams are left out."""

    def measured(header: Header, keyword: str) -> str:
        value = header.decimal(keyword)
        return f"{value:.10g}" if value is not None and least <= value <= most else ""

    return measured


_CLEAN: dict[str, Callable[[Header, str], object]] = {
    "PatientName": _name,
    "ReferringPhysicianName": _name,
    "PatientBirthDate": _date,
    "StudyDate": _date,
    "StudyTime": _time,
    "PatientAge": _matching(r"\d{3}[DWMY]"),
    "PatientSex": _matching(r"[MFO]"),
    "PatientSize": _measure(0.1, 3.0),
    "PatientWeight": _measure(0.1, 700.0),
    "PatientIdentityRemoved": _matching(r"YES|NO"),
    "Laterality": _matching(r"[LR]"),
    "LossyImageCompression": _matching(r"0[01]"),
}


def _copy_image(header: Header, found: Dataset) -> None:
    """What places marks on the picture, and what turns stored values into grey."""
    rows, columns = header.whole("Rows"), header.whole("Columns")
    if rows is None or columns is None or min(rows, columns) < 1:
        raise BadImage("Rows or Columns is missing or no positive number: export the image again")
    LIMITS.check_size(columns, rows)
    found.Rows, found.Columns = rows, columns
    found.Modality = _plain(header, "Modality").upper() or "CR"
    found.PhotometricInterpretation = _plain(header, "PhotometricInterpretation").upper() or "MONOCHROME2"
    found.SamplesPerPixel, found.BodyPartExamined = header.whole("SamplesPerPixel") or 1, "CHEST"
    for keyword in ("PixelSpacing", "ImagerPixelSpacing"):
        pair = header.decimals(keyword)
        if len(pair) == 2 and min(pair) > 0:
            setattr(found, keyword, [f"{value:.10g}" for value in pair])
    orientation = [str(part).strip().upper() for part in header.values("PatientOrientation")]
    good = len(orientation) == 2 and all(map(ORIENTATION.fullmatch, orientation))
    found.PatientOrientation = orientation if good else None
    if found.get("LossyImageCompression") == "01":
        ratios, methods = header.decimals("LossyImageCompressionRatio"), header.values("LossyImageCompressionMethod")
        if ratios and min(ratios) > 0:
            found.LossyImageCompressionRatio = [f"{ratio:.8g}" for ratio in ratios]
        if methods and all(re.fullmatch(r"[A-Z0-9_ ]{1,16}", str(one)) for one in methods):
            found.LossyImageCompressionMethod = [str(one) for one in methods]
    if header.text("BurnedInAnnotation") in {"YES", "NO"}:
        found.BurnedInAnnotation = header.text("BurnedInAnnotation")


def _copy_deidentification(header: Header, found: Dataset) -> None:
    """The result of a de-identified image is de-identified, and names the profile."""
    items = []
    for item in header.items("DeidentificationMethodCodeSequence"):
        code, inner = Dataset(), Header(item, header.syntax)
        code.CodeValue, code.CodingSchemeDesignator = inner.text("CodeValue")[:16], inner.text("CodingSchemeDesignator")[:16]
        code.CodeMeaning = inner.text("CodeMeaning")
        if all((code.CodeValue, code.CodingSchemeDesignator, code.CodeMeaning)):
            items.append(code)
    if items:
        found.DeidentificationMethodCodeSequence = items


def _copy_requests(header: Header, found: Dataset) -> None:
    """The orders that the image fulfills, as a report refers to them (PS3.3 C.17.2)."""
    made = []
    for item in header.items("RequestAttributesSequence"):
        inner, request = Header(item, header.syntax), Dataset()
        if not (procedure := _plain(inner, "RequestedProcedureID")):
            continue
        request.StudyInstanceUID, request.ReferencedStudySequence = found.StudyInstanceUID, []
        request.AccessionNumber = _plain(inner, "AccessionNumber") or found.AccessionNumber
        request.PlacerOrderNumberImagingServiceRequest, request.FillerOrderNumberImagingServiceRequest = "", ""
        request.RequestedProcedureID, request.RequestedProcedureCodeSequence = procedure, []
        request.RequestedProcedureDescription = _plain(inner, "RequestedProcedureDescription")
        if reason := _plain(inner, REASON) or _plain(header, REASON):
            request.ReasonForTheRequestedProcedure = reason
        made.append(request)
    if made:
        found.ReferencedRequestSequence = made


def requests_of(reference: Dataset) -> list[Dataset] | None:
    """The orders of the image, which a report repeats; none where the header names none."""
    return list(reference.get("ReferencedRequestSequence", ())) or None


def charset_of(found: Dataset, texts: Iterable[str]) -> str:
    """Latin 1, which every archive reads, where it holds all letters of the header and of `texts`; else UTF-8."""
    try:
        "".join([*(str(element.value) for element in found), *texts]).encode("latin-1")
    except UnicodeEncodeError:
        return "ISO_IR 192"
    return "ISO_IR 100"


def finish(made: Dataset, reference: Dataset) -> None:
    """The character set of the texts, and who wrote the file."""
    made.SpecificCharacterSet = reference.SpecificCharacterSet
    made.file_meta.ImplementationClassUID = UID("2.25.88021384903046571364893163265146021734")
    made.file_meta.ImplementationVersionName = "CHESTMAP"


def syntax_of(source: Dataset) -> str:
    """Empty where the object came without its file header, as from the network."""
    return str(vars(source).get("file_meta", {}).get("TransferSyntaxUID", ""))


def low_is_white(source: Dataset) -> bool:
    """As the reader decides it: either element may say so."""
    header = Header(source, "")
    inverse = header.text("PresentationLUTShape").upper() == "INVERSE"
    return inverse or header.text("PhotometricInterpretation").upper() == "MONOCHROME1"


def spacing_of(reference: Dataset) -> Sequence[float]:
    """Rows and columns in mm; 1 where the image has none."""
    pair = reference.get("PixelSpacing") or reference.get("ImagerPixelSpacing") or (1.0, 1.0)
    return [float(value) for value in pair]


def pixels_of(source: Dataset) -> Float32[np.ndarray, "h w"]:
    """Gray in [0, 1] as the network saw it, by the reader that made it for the network."""
    syntax = syntax_of(source)
    if not syntax:
        raise BadImage("no transfer syntax: a picture cannot be drawn; give the object with its file_meta")
    with quiet():
        header, plain = Header(source, syntax), Dataset()
        for keyword in WANTED:
            if element := header.element(keyword, LIMITS.file_bytes):
                plain.add(element)
        if "PixelData" not in plain:
            raise BadImage("no pixel data: a picture cannot be drawn; give the whole object, or leave `sc` out")
        plain.file_meta = FileMetaDataset()
        plain.file_meta.TransferSyntaxUID = UID(syntax)
        plain.file_meta.MediaStorageSOPClassUID = UID(header.text("SOPClassUID"))
        plain.file_meta.MediaStorageSOPInstanceUID = UID(header.text("SOPInstanceUID"))
        stream = BytesIO()
        try:
            dcmwrite(stream, plain, enforce_file_format=True)
        except FAILURES as problem:
            raise BadImage(f"header cannot be written again ({type(problem).__name__}): export the image again") from None
    return read_dicom(stream.getvalue(), LIMITS, any_view=True).pixels
