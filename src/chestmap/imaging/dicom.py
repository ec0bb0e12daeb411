"""DICOM radiographs (CR, DX, RG and their secondary captures) to `Radiograph`s.

`dicom_header.py` reads the elements, `dicom_view.py` refuses what is no frontal chest radiograph, `dicom_pixels.py` turns pixel data
into integer codes, and `grayscale.py` turns codes into greys: modality LUT or rescale, VOI LUT or first window, inversion,
padding. This file states which elements decide each of these steps, and what happens where one is missing:

* elements of the Image Pixel module get the standard's default where there is one; Rows, Columns, BitsAllocated and
  PhotometricInterpretation have none and are needed
* rescale or modality LUT: none is the identity; a damaged one refuses the file, since every grey would be wrong
* window or VOI LUT: a damaged one is left out, since only contrast would be wrong
* pixels that are not square are resampled to square ones (`square_pixels.py`); image space is theirs
* overlays (groups 60xx) are never drawn: they are marks of people, and would be learned
"""

import re
from collections.abc import Callable
from functools import partial

import numpy as np
from jaxtyping import Float32
from pydicom import uid

from chestmap.errors import BadImage
from chestmap.imaging.brightness import seems_inverted
from chestmap.imaging.color import grey_of_color, unit
from chestmap.imaging.dicom_header import FAILURES, Header, quiet, read_header
from chestmap.imaging.dicom_pixels import FRAMES, NATIVE, Codes, Layout, decoded
from chestmap.imaging.dicom_view import check_kind, check_part, view_of
from chestmap.imaging.grayscale import Display, Lut, Rescale, Window, grey_tables
from chestmap.imaging.limits import Limits
from chestmap.imaging.pixel_depth import Depth, depth_of_codes, depth_of_grey
from chestmap.imaging.square_pixels import made_square, square_depth
from chestmap.types import Radiograph

GREY = ("MONOCHROME1", "MONOCHROME2")
COLOR = ("RGB", "YBR_FULL", "YBR_FULL_422", "YBR_ICT", "YBR_RCT")


def read_dicom(data: bytes, limits: Limits, *, any_view: bool = False) -> Radiograph:
    """The radiograph in a file that carries the `DICM` mark; its image id and source are the caller's to set."""
    return read_deep_dicom(data, limits, any_view=any_view)[0]


def read_deep_dicom(data: bytes, limits: Limits, *, any_view: bool = False) -> tuple[Radiograph, Callable[[], Depth]]:
    """As `read_dicom`, and what gives all levels of the file before any window."""
    try:
        with quiet():
            return _read(data, limits, any_view=any_view)
    except BadImage:
        raise
    except FAILURES as problem:
        said = " ".join(str(problem).split())[:120]
        raise BadImage(f"DICOM data is damaged ({type(problem).__name__}: {said}): copy or export it again") from None


def _read(data: bytes, limits: Limits, *, any_view: bool) -> tuple[Radiograph, Callable[[], Depth]]:
    """Header checks, the most decisive first: syntax, kind, part, view, pixels, layout."""
    header = read_header(data, limits)
    if header.syntax not in NATIVE and header.syntax not in FRAMES:
        raise BadImage(
            f"transfer syntax {uid.UID(header.syntax).name}; uncompressed, deflated, JPEG, JPEG-LS, JPEG 2000 and RLE are read: "
            "convert it"
        )
    check_kind(header)
    check_part(header)
    view = view_of(header, any_view=any_view)
    element = header.element("PixelData", limits.file_bytes)
    if element is None or not isinstance(element.value, bytes):
        raise BadImage("no pixel data: is it a report, or cut short? Export the image again")
    layout = _layout(header, limits)
    codes, photometric = decoded(element.value, header.syntax, layout, vr=str(element.VR), done=header.done)
    if layout.samples == 1:
        display = _display(header, layout)
        tables = grey_tables(codes, display)
        pixels, done = tables.greys.astype(np.float32)[codes], tables.done
        if display.inverted and seems_inverted(pixels):
            done.append("the border is now brighter than the middle: the header may be wrong that low values are white")
        depth = partial(depth_of_codes, codes, display, tables)
    else:
        pixels, done = _grey_of_color(codes, photometric, layout)
        depth = partial(depth_of_grey, pixels)
    _note_rest(header)
    pixels, spacing = made_square(header, pixels, limits)
    size = pixels.shape[1], pixels.shape[0]
    radiograph = Radiograph(
        pixels=pixels,
        image_id="",
        patient_id=header.text("PatientID"),
        view=view,
        spacing_mm=spacing,
        done=(*header.done, *done),
    )
    return radiograph, lambda: square_depth(depth(), size)


def _needed(header: Header, keyword: str) -> int:
    """Reads a whole number that has no default; without it the file is refused."""
    number = header.whole(keyword)
    if number is None:
        raise BadImage(f"{keyword} is missing or no whole number: export it again")
    return number


def _or_default(header: Header, keyword: str, default: int) -> int:
    """Reads a whole number, or takes the standard's default and notes so in `done`."""
    number = header.whole(keyword)
    if number is None:
        header.done.append(f"no {keyword}: {default}")
        return default
    return number


def _layout(header: Header, limits: Limits) -> Layout:
    """The Image Pixel module, with the standard's defaults where an element is missing, and its contradictions refused."""
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
    return Layout(
        rows=rows,
        columns=columns,
        samples=samples,
        allocated=allocated,
        stored=stored,
        high=high,
        signed=signed,
        photometric=photometric,
        planar=planar,
    )


def _display(header: Header, layout: Layout) -> Display:
    """Compressed samples lie at the bottom of their code; only uncompressed ones may be shifted up to HighBit."""
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
    """The value's own representation is often wrong, so it is read again in the pixels' representation."""
    value = header.whole("PixelPaddingValue")
    if value is None:
        return None
    limit = header.whole("PixelPaddingRangeLimit")
    first, last = (_as_stored(number, layout) for number in (value, value if limit is None else limit))
    return min(first, last), max(first, last)


def _as_stored(number: int, layout: Layout) -> int:
    """The same bits, read as signed or unsigned as the pixels are."""
    number %= 2**layout.allocated
    return number - 2**layout.allocated if layout.signed and number >= 2 ** (layout.allocated - 1) else number


def _modality(header: Header) -> Lut | Rescale | None:
    """A table before a rescale (PS3.3 C.11.1); numbers that are none are refused, since every grey depends on them."""
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
    """Low values are white if either element requires it; MONOCHROME1 with IDENTITY is a contradiction that real files contain."""
    shape = header.text("PresentationLUTShape").upper()
    low_is_white = layout.photometric == "MONOCHROME1"
    if (low_is_white and shape == "IDENTITY") or (not low_is_white and shape == "INVERSE"):
        header.done.append(f"{layout.photometric} contradicts PresentationLUTShape {shape}: inverted")
    return low_is_white or shape == "INVERSE"


def _grey_of_color(codes: Codes, photometric: str, layout: Layout) -> tuple[Float32[np.ndarray, "h w"], list[str]]:
    """Display-ready by definition: no modality or VOI transformation applies to color (PS3.3 C.7.6.3.1.2)."""
    white = 2**layout.stored - 1
    codes = np.minimum(codes, white)
    if photometric == "RGB":
        pixels, note = grey_of_color(codes[..., 0], codes[..., 1], codes[..., 2], white)
        return pixels, [note]
    middle = (white + 1) // 2
    colored = int(np.abs(codes[..., 1:].astype(np.int32) - middle).max()) > 1
    return unit(codes[..., 0], white), [f"luma of {photometric} kept" + (", color dropped" if colored else "")]


def _note_rest(header: Header) -> None:
    """What changes nothing here, and a reader of the results should know."""
    orientation = "\\".join(str(part) for part in header.values("PatientOrientation")[:2])
    if orientation and not re.fullmatch(r"L\w*\\F\w*", orientation):
        shown = "".join(letter for letter in orientation[:16] if letter.isprintable())
        header.done.append(f"patient orientation {shown}: pixels kept as stored")
    if header.text("BurnedInAnnotation").upper() == "YES":
        header.done.append("burned-in annotation: text stays in the picture")
