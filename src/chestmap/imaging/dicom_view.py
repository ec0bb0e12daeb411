"""Is it a frontal chest radiograph? Decided by kind, body part and view in its DICOM header.

What the header rules out is refused; what it leaves open is accepted and reported, since half of all archives
leave elements empty. A header can lie: a hand that calls itself a chest comes through, and only its scores look odd.
"""

from pydicom import uid

from chestmap.errors import BadImage
from chestmap.imaging.dicom_header import Header

MODALITIES = ("CR", "DX", "RG", "DR", "OT", "SC")
"""DR and SC are no defined terms, yet files with radiographs carry them."""

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


def check_kind(header: Header) -> None:
    """By SOP class and modality; either may be missing, both may not."""
    storage, modality = header.text("SOPClassUID"), header.text("Modality").upper()
    if storage and storage not in STORAGES:
        raise BadImage(f"{uid.UID(storage).name}; radiographs are read (CR, DX, secondary capture): give those")
    if modality and modality not in MODALITIES:
        raise BadImage(f"modality {modality}; radiographs are read ({', '.join(MODALITIES)}): give those")
    if header.text("Manufacturer") == header.text("ManufacturerModelName") == "chestmap":
        raise BadImage("a result that chestmap wrote, not a radiograph: give the radiograph itself")
    if not storage and not modality:
        raise BadImage("neither SOP class nor modality says what it is; a radiograph says CR or DX: export it again")
    if not storage or not modality:
        header.done.append(f"no {'modality' if storage else 'SOP class'}: taken for a radiograph")
    if storage == uid.DigitalXRayImageStorageForProcessing or header.text("PresentationIntentType") == "FOR PROCESSING":
        header.done.append("raw detector image (FOR PROCESSING): contrast differs from an image for presentation")


def check_part(header: Header) -> None:
    """A part that clearly is no chest; BodyPartExamined is often filled in carelessly."""
    part = header.text("BodyPartExamined").upper()
    plain = part.replace(" ", "").replace("_", "").replace("-", "")
    if not plain or any(name in plain for name in CHEST_PARTS):
        return
    if any(plain.startswith(name) or plain.endswith(name) for name in OTHER_PARTS):
        raise BadImage(f"body part {part}; chest radiographs are read: give those")
    header.done.append(f"body part {part}: not in the list, taken for a chest")


def view_of(header: Header, *, any_view: bool) -> str:
    """PA, AP, LATERAL or unknown, from ViewPosition or else ViewCodeSequence."""
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
