"""DICOM radiographs (CR, DX, RG and their secondary captures) to `Radiograph`s; what is no chest radiograph is refused.

The header comes from `dicom_header.py`, stored codes from `codecs.py`, greys from `grayscale.py`.
"""

from typing import cast

import numpy as np
from jaxtyping import Float32
from pydicom import uid

from chestmap.data.codecs import FRAMES, NATIVE, Codes, Layout, decoded
from chestmap.data.color import grey_of_color, unit
from chestmap.data.dicom_header import FAILURES, Header, quiet, read_header
from chestmap.data.grayscale import Display, Lut, Rescale, Window, displayed
from chestmap.data.limits import Limits
from chestmap.errors import BadImage
from chestmap.types import Radiograph

MODALITIES = ("CR", "DX", "RG", "DR", "OT", "SC")
"""DR and SC are no defined terms, yet stand in files that hold radiographs."""

STORAGES = {
    uid.ComputedRadiographyImageStorage,
    uid.DigitalXRayImageStorageForPresentation,
    uid.DigitalXRayImageStorageForProcessing,
    uid.SecondaryCaptureImageStorage,
    uid.MultiFrameGrayscaleByteSecondaryCaptureImageStorage,
    uid.MultiFrameGrayscaleWordSecondaryCaptureImageStorage,
    uid.MultiFrameTrueColorSecondaryCaptureImageStorage,
}

CHEST_PARTS = ("CHEST", "THORAX", "LUNG", "HEART", "MEDIASTINUM", "BABYGRAM", "WHOLEBODY")
OTHER_PARTS = (
    "ABDOMEN", "ANKLE", "ARM", "BREAST", "CALCANEUS", "COCCYX", "CSPINE", "DENTAL", "ELBOW", "EXTREMITY", "EYE", "FACE",
    "FEMUR", "FINGER", "FOOT", "FOREARM", "HAND", "HEAD", "HEEL", "HIP", "HUMERUS", "JAW", "KIDNEY", "KNEE", "LEG", "LSPINE",
    "MANDIBLE", "MAXILLA", "NECK", "NOSE", "ORBIT", "PATELLA", "PELVIS", "RADIUS", "SACRUM", "SHOULDER", "SINUS", "SKULL",
    "SPINE", "SSPINE", "THUMB", "TIBIA", "TOE", "TSPINE", "ULNA", "WRIST", "ZYGOMA",
)  # fmt: skip
"""From PS3.16 annex L and what stations write; a word in neither list is let through and reported."""

FRONTAL = ("PA", "AP")
LATERAL = {"LL", "RL", "LAT", "LATERAL", "LLAT", "RLAT", "LEFT LATERAL", "RIGHT LATERAL", "CROSS LATERAL", "XTABLE LAT"}
OBLIQUE = {"LLO", "RLO", "LAO", "RAO", "LPO", "RPO", "OBL", "OBLIQUE"}
DECUBITUS = {"LLD", "RLD", "LD"}
VIEW_CODES = {
    "399348003": "AP", "R-10206": "AP", "272479007": "PA", "R-10214": "PA",
    "399067008": "LATERAL", "399173006": "LL", "R-10236": "LL", "399198007": "RL", "R-10232": "RL",
    "399182000": "OBLIQUE", "399135007": "LAO", "R-10220": "LAO", "399356000": "RAO", "399006002": "LPO", "399038007": "RPO",
}  # fmt: skip
"""CID 4010 "DX View" in SNOMED CT and its older form, as positions."""

GREY = ("MONOCHROME1", "MONOCHROME2")
COLOR = ("RGB", "YBR_FULL", "YBR_FULL_422", "YBR_ICT", "YBR_RCT")


def read_dicom(data: bytes, limits: Limits, *, any_view: bool = False) -> Radiograph:
    """The radiograph in a file that carries the `DICM` mark; its image id and source are the caller's to set."""
    try:
        with quiet():
            return _read(data, limits, any_view=any_view)
    except BadImage:
        raise
    except FAILURES as problem:
        said = " ".join(str(problem).split())[:120]
        raise BadImage(f"DICOM data is damaged ({type(problem).__name__}: {said}): copy or export it again") from None


def _read(data: bytes, limits: Limits, *, any_view: bool) -> Radiograph:
    header = read_header(data, limits)
    if header.syntax not in NATIVE and header.syntax not in FRAMES:
        raise BadImage(
            f"transfer syntax {uid.UID(header.syntax).name}; uncompressed, deflated, JPEG, JPEG-LS, JPEG 2000 and RLE are read: "
            "convert it"
        )
    _check_kind(header)
    _check_part(header)
    view = _view(header, any_view=any_view)
    layout = _layout(header, limits)
    element = header.element("PixelData", limits.file_bytes)
    if element is None or not isinstance(element.value, bytes):
        raise BadImage("no pixel data: is it a report, or cut short? Export the image again")
    codes, photometric = decoded(element.value, header.syntax, layout, vr=str(element.VR), done=header.done)
    if layout.samples == 1:
        pixels, done = displayed(codes, _display(header, layout))
    else:
        pixels, done = _grey_of_color(codes, photometric, layout)
    _note_rest(header)
    return Radiograph(
        pixels,
        image_id="",
        patient_id=header.text("PatientID"),
        view=view,
        spacing_mm=_spacing(header),
        done=(*header.done, *done),
    )


def _check_kind(header: Header) -> None:
    storage, modality = header.text("SOPClassUID"), header.text("Modality").upper()
    if storage and storage not in STORAGES:
        raise BadImage(f"{uid.UID(storage).name}; radiographs are read (CR, DX, secondary capture): give those")
    if modality and modality not in MODALITIES:
        raise BadImage(f"modality {modality}; radiographs are read ({', '.join(MODALITIES)}): give those")
    if not storage and not modality:
        raise BadImage("neither SOP class nor modality says what it is; a radiograph says CR or DX: export it again")
    if not storage or not modality:
        header.done.append(f"no {'modality' if storage else 'SOP class'}: taken for a radiograph")
    if storage == uid.DigitalXRayImageStorageForProcessing or header.text("PresentationIntentType") == "FOR PROCESSING":
        header.done.append("raw detector image (FOR PROCESSING): contrast differs from an image for presentation")


def _check_part(header: Header) -> None:
    part = header.text("BodyPartExamined").upper()
    plain = part.replace(" ", "").replace("_", "").replace("-", "")
    if not plain or any(name in plain for name in CHEST_PARTS):
        return
    if any(plain.startswith(name) or plain.endswith(name) for name in OTHER_PARTS):
        raise BadImage(f"body part {part}; chest radiographs are read: give those")
    header.done.append(f"body part {part}: not in the list, taken for a chest")


def _view(header: Header, *, any_view: bool) -> str:
    position = " ".join(header.text("ViewPosition").upper().replace("_", " ").split())
    if not position:
        codes = (Header(item, header.syntax).text("CodeValue") for item in header.items("ViewCodeSequence"))
        position = next((VIEW_CODES[code] for code in codes if code in VIEW_CODES), "")
    if position in FRONTAL:
        return position
    kind = "lateral" if position in LATERAL else "oblique" if position in OBLIQUE else ""
    if kind and not any_view:
        raise BadImage(f"{kind} view (ViewPosition {position}); frontal views (PA, AP) are read: leave it out")
    if position and not kind:
        header.done.append(
            f"view {position}: {'decubitus' if position in DECUBITUS else 'unknown'}, taken for a frontal view"
        )
    return "LATERAL" if kind == "lateral" else ""


def _needed(header: Header, keyword: str) -> int:
    number = header.whole(keyword)
    if number is None:
        raise BadImage(f"{keyword} is missing or no whole number: export it again")
    return number


def _or_default(header: Header, keyword: str, default: int) -> int:
    number = header.whole(keyword)
    if number is None:
        header.done.append(f"no {keyword}: {default}")
        return default
    return number


def _layout(header: Header, limits: Limits) -> Layout:
    rows, columns = _needed(header, "Rows"), _needed(header, "Columns")
    limits.check_size(columns, rows)
    frames = header.whole("NumberOfFrames")
    if frames not in {None, 1}:
        raise BadImage(f"{frames} frames; an image of one frame is read: export single images")
    samples = _or_default(header, "SamplesPerPixel", 1)
    photometric = header.text("PhotometricInterpretation").upper()
    if photometric not in (GREY if samples == 1 else COLOR if samples == 3 else ()):
        raise BadImage(
            f"photometric interpretation {photometric or 'missing'} with {samples} samples; {', '.join(GREY)} with 1 or "
            f"{', '.join(COLOR)} with 3 are read: export it as grey"
        )
    allocated = _needed(header, "BitsAllocated")
    if allocated not in {8, 16}:
        raise BadImage(f"{allocated} bits allocated; 8 or 16 are read: export it again")
    stored = _or_default(header, "BitsStored", allocated)
    if not 1 <= stored <= allocated:
        raise BadImage(f"{stored} bits stored of {allocated} allocated is impossible: damaged, export it again")
    high = _or_default(header, "HighBit", stored - 1)
    if not stored - 1 <= high < allocated:
        header.done.append(f"high bit {high} is impossible: {stored - 1}")
        high = stored - 1
    signed = bool(_or_default(header, "PixelRepresentation", 0))
    planar = _or_default(header, "PlanarConfiguration", 0) if samples == 3 else 0
    if photometric == "YBR_FULL_422" and columns % 2:
        raise BadImage("YBR_FULL_422 with an odd width is impossible: damaged, export it again")
    return Layout(rows, columns, samples, allocated, stored, high, signed, photometric, planar)


def _display(header: Header, layout: Layout) -> Display:
    compressed = header.syntax in FRAMES and header.syntax != uid.RLELossless
    return Display(
        allocated=layout.allocated,
        stored=layout.stored,
        high=layout.stored - 1 if compressed else layout.high,
        signed=layout.signed,
        padding=_padding(header, layout),
        modality=_modality(header),
        voi=_voi(header),
        inverted=_inverted(header, layout),
    )


def _padding(header: Header, layout: Layout) -> tuple[int, int] | None:
    """The value's own representation is often wrong, so it is read again as the pixels' representation says."""
    value = header.whole("PixelPaddingValue")
    if value is None:
        return None
    limit = header.whole("PixelPaddingRangeLimit")
    first, last = (_as_stored(number, layout) for number in (value, value if limit is None else limit))
    return min(first, last), max(first, last)


def _as_stored(number: int, layout: Layout) -> int:
    number %= 2**layout.allocated
    return number - 2**layout.allocated if layout.signed and number >= 2 ** (layout.allocated - 1) else number


def _modality(header: Header) -> Lut | Rescale | None:
    if header.items("ModalityLUTSequence"):
        lut = header.lut("ModalityLUTSequence")
        if lut is None:
            raise BadImage("modality LUT is damaged: export it again")
        return lut
    slope, intercept = header.decimal("RescaleSlope"), header.decimal("RescaleIntercept")
    for keyword in ("RescaleSlope", "RescaleIntercept"):
        if keyword in header.dataset and header.decimal(keyword) is None:
            raise BadImage(f"{keyword} is no finite number: export it again")
    if slope is None and intercept is None:
        return None
    if slope is None or intercept is None:
        header.done.append("no RescaleSlope: 1" if slope is None else "no RescaleIntercept: 0")
    return Rescale(1.0 if slope is None else slope, intercept or 0.0)


def _voi(header: Header) -> Lut | Window | None:
    """A VOI LUT before a window, and of several the first, which is the maker's preference."""
    if header.items("VOILUTSequence"):
        lut = header.lut("VOILUTSequence")
        if lut is not None:
            return lut
        header.done.append("VOI LUT is damaged: ignored")
    if "WindowCenter" not in header.dataset or "WindowWidth" not in header.dataset:
        return None
    center, width = header.decimal("WindowCenter"), header.decimal("WindowWidth")
    function = header.text("VOILUTFunction").upper() or "LINEAR"
    if function not in {"LINEAR", "LINEAR_EXACT", "SIGMOID"}:
        header.done.append(f"VOI LUT function {function} is unknown: LINEAR")
        function = "LINEAR"
    if center is None or width is None or width < (1 if function == "LINEAR" else 1e-9):
        header.done.append("window is no pair of numbers with a positive width: ignored")
        return None
    if (count := len(header.values("WindowCenter"))) > 1:
        header.done.append(f"first of {count} windows")
    return Window(center, width, function)


def _inverted(header: Header, layout: Layout) -> bool:
    shape = header.text("PresentationLUTShape").upper()
    low_is_white = layout.photometric == "MONOCHROME1"
    if (low_is_white and shape == "IDENTITY") or (not low_is_white and shape == "INVERSE"):
        header.done.append(f"{layout.photometric} contradicts PresentationLUTShape {shape}: inverted")
    return low_is_white or shape == "INVERSE"


def _grey_of_color(codes: Codes, photometric: str, layout: Layout) -> tuple[Float32[np.ndarray, "h w"], list[str]]:
    white = 2**layout.stored - 1
    codes = np.minimum(codes, white)
    if photometric == "RGB":
        pixels, note = grey_of_color(codes[..., 0], codes[..., 1], codes[..., 2], white)
        return pixels, [note]
    middle = (white + 1) // 2
    colored = int(np.abs(codes[..., 1:].astype(np.int32) - middle).max()) > 1
    return unit(codes[..., 0], white), [f"luma of {photometric} kept" + (", color dropped" if colored else "")]


def _spacing(header: Header) -> tuple[float, float] | None:
    """Row and column spacing in mm at the detector where it is given; zeros, which real files have, are no spacing."""
    for keyword in ("ImagerPixelSpacing", "PixelSpacing", "NominalScannedPixelSpacing"):
        pair = header.decimals(keyword)
        if len(pair) == 2 and min(pair) > 0:
            return cast(tuple[float, float], tuple(pair))
    return None


def _note_rest(header: Header) -> None:
    orientation = [str(part).upper() for part in header.values("PatientOrientation")]
    if len(orientation) == 2 and (orientation[0][:1], orientation[1][:1]) not in {("L", "F"), ("", "")}:
        header.done.append(f"patient orientation {header.text('PatientOrientation')[:8]}: pixels kept as stored")
    if header.text("BurnedInAnnotation").upper() == "YES":
        header.done.append("burned-in annotation: text stays in the picture")
