"""JPEG to grey pixels: markers are checked here, pixels are decoded by Pillow (8 bit) or imagecodecs (12 bit, lossless).

The decoder gets the segments that make the pixels and no others, so thumbnails, further pictures (MPO) and damaged metadata
never matter. A file that was cut is found by its missing end mark; damage inside the compressed data cannot be distinguished from a
strange picture.
"""

import io
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float32, UInt

from chestmap.errors import BadImage
from chestmap.imaging.color import grey_of_color, unit
from chestmap.imaging.exif import UPRIGHT, orientation_of, upright
from chestmap.imaging.limits import Limits

SIGNATURE = b"\xff\xd8\xff"
LOSSLESS = 0xC3
PROCESSES = {0xC0: "baseline", 0xC1: "extended", 0xC2: "progressive", LOSSLESS: "lossless"}
FRAMES = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}
"""Markers that start a frame: all of C0 to CF but the tables DHT, JPG and DAC (ITU-T T.81, table B.1)."""
SCAN = 0xDA
METADATA = {*range(0xE1, 0xF0), 0xFE} - {0xEE}
"""Application segments and comments; JFIF (E0) and Adobe (EE) define how to read the colors and stay."""
SEGMENTS = 10_000
SCANNED_PIXELS = 600_000_000
"""Bound on scans times pixels: a progressive file may ask for any number of passes over the picture."""


@dataclass(eq=False, kw_only=True)
class JpegHeader:
    """Everything before the first scan; `plain` is that part without comments, thumbnails and metadata."""

    process: int = 0
    precision: int = 0
    width: int = 0
    height: int = 0
    components: int = 0
    says_color: bool = False  # a JFIF or Adobe mark defines how to read the components
    orientation: int = UPRIGHT
    scan: int = 0  # offset of the first scan
    plain: list[bytes] = field(default_factory=list)


def read_jpeg(data: bytes, limits: Limits) -> tuple[Float32[np.ndarray, "h w"], tuple[str, ...]]:
    """Grey in [0, 1] and what was done to the stored values."""
    header = jpeg_header(data)
    limits.check_size(header.width, header.height)
    if header.components not in {1, 3}:
        raise BadImage(f"JPEG with {header.components} channels (CMYK?); grey or RGB is needed: convert it to grey PNG")
    check_scans(header, data)
    if header.precision == 8 and header.process != LOSSLESS:
        stored = _decoded(b"".join([*header.plain, data[header.scan :]]))
    else:
        stored = _decoded_deep(data, header)
    white, done = 2**header.precision - 1, []
    if stored.ndim == 2:
        grey = unit(stored, white)
    else:
        grey, note = grey_of_color(stored[..., 0], stored[..., 1], stored[..., 2], white)
        done.append(note)
    if header.orientation != UPRIGHT:
        grey = upright(grey, header.orientation)
        done.append(f"turned upright (EXIF orientation {header.orientation})")
    return np.minimum(grey, 1, out=grey), tuple(done)


def jpeg_header(data: bytes) -> JpegHeader:
    """Reads the segments up to the first scan; refuses what has no single frame, or no end mark."""
    header = JpegHeader(plain=[data[:2]])
    for marker, start, body, end in segments(data):
        _take(header, marker, data[body:end])
        if marker == SCAN:
            header.scan = start
        elif marker not in METADATA:
            header.plain.append(data[start:end])
    if not header.process:
        raise BadImage("JPEG scan without a frame before it: damaged, copy it again")
    if b"\xff\xd9" not in data[header.scan :]:
        raise BadImage("JPEG cut short: no end mark; copy or download it again")
    return header


def check_scans(header: JpegHeader, data: bytes) -> None:
    """Each scan passes over all pixels, so both together bound the time."""
    scans = data.count(b"\xff\xda", header.scan)
    if scans * header.width * header.height > SCANNED_PIXELS:
        raise BadImage(
            f"JPEG with {scans} scans over {header.width} x {header.height} pixels: save it again as a plain JPEG"
        )


def segments(data: bytes) -> Iterator[tuple[int, int, int, int]]:
    """(marker, start, start of its data, end) of each segment, up to the first scan."""
    end = 2
    for _ in range(SEGMENTS):
        start = end
        marker, body, end = _segment(data, start)
        yield marker, start, body, end
        if marker == SCAN:
            return
    raise BadImage(f"JPEG with more than {SEGMENTS:,} segments before its picture: save it again")


def _segment(data: bytes, position: int) -> tuple[int, int, int]:
    """Marker, start and end of its data (empty for markers without data); fill bytes before a marker are skipped."""
    try:
        if data[position] != 0xFF:
            raise BadImage(f"no JPEG marker at byte {position:,}: damaged, copy it again")
        start = position + 1
        while data[start] == 0xFF:
            start += 1
        marker = data[start]
        if marker == 0x01 or 0xD0 <= marker <= 0xD8:
            return marker, start + 1, start + 1
        (length,) = struct.unpack_from(">H", data, start + 1)
    except (IndexError, struct.error):
        raise BadImage("JPEG cut short in its header: copy or download it again") from None
    if marker == 0xD9 or length < 2:
        raise BadImage("JPEG without a picture: damaged, copy it again")
    return marker, start + 3, start + 1 + length


def _take(header: JpegHeader, marker: int, body: bytes) -> None:
    """What one segment adds to the header."""
    if marker in FRAMES:
        if marker not in PROCESSES or header.process:
            kind = "with a second frame" if header.process else f"of an unusual process (marker {marker:X})"
            raise BadImage(f"JPEG {kind}; baseline, extended, progressive and lossless are read: convert it to PNG")
        if len(body) < 6:
            raise BadImage("JPEG cut short in its header: copy or download it again")
        header.process = marker
        header.precision, header.height, header.width, header.components = struct.unpack_from(">BHHB", body)
    elif marker == 0xE1 and body[:6] == b"Exif\0\0":
        header.orientation = orientation_of(body[6:])
    elif (marker == 0xE0 and body[:4] == b"JFIF") or (marker == 0xEE and body[:5] == b"Adobe"):
        header.says_color = True


def _decoded(plain: bytes) -> UInt[np.ndarray, "h w *channel"]:
    """Eight bits per sample, color as RGB; Pillow refuses data that ends early and cannot notice changed data."""
    from PIL import Image  # not for who reads PNG or DICOM alone

    try:
        with Image.open(io.BytesIO(plain), formats=("JPEG",)) as picture:
            return np.asarray(picture)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as problem:
        raise BadImage(f"JPEG pixel data is damaged ({problem}): copy or download it again") from None


def _decoded_deep(data: bytes, header: JpegHeader) -> UInt[np.ndarray, "h w *channel"]:
    """What Pillow does not read: 12 bits, and the lossless process with 2 to 16."""
    kind = f"{header.precision}-bit {PROCESSES[header.process]} JPEG"
    try:
        import imagecodecs
    except ImportError:
        raise BadImage(
            f'{kind}; reading it needs imagecodecs: pip install "chestmap[dicom]", or convert it to PNG'
        ) from None
    try:
        return np.asarray(imagecodecs.jpeg8_decode(data))
    except (RuntimeError, ValueError) as problem:
        raise BadImage(f"{kind} is damaged ({problem}): copy or download it again") from None
