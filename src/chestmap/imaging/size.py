"""The size of an image from its header alone: far cheaper than decoding it."""

import struct
from pathlib import Path

from chestmap.errors import BadImage
from chestmap.imaging import jpeg, png
from chestmap.imaging.limits import LIMITS, Limits
from chestmap.imaging.read import content_of

SIDEWAYS = range(5, 9)
"""EXIF orientations that swap width and height."""


def size_of(path: Path, limits: Limits = LIMITS) -> tuple[float, float]:
    """(width, height) of a PNG, JPEG or DICOM file; anything else is a `BadImage`. A PNG that EXIF turns is not looked at."""
    data = content_of(path, limits)
    if data.startswith(png.SIGNATURE):
        width, height = struct.unpack_from(">II", data, 16) if len(data) >= 24 else (0, 0)
    elif data.startswith(jpeg.SIGNATURE):
        header = jpeg.jpeg_header(data)
        width, height = header.width, header.height
        if header.orientation in SIDEWAYS:
            width, height = height, width
    elif data[128:132] == b"DICM":
        from chestmap.imaging.dicom_header import read_header
        from chestmap.imaging.square_pixels import KEYWORDS, square_size

        header = read_header(data, limits, ("Rows", "Columns", *KEYWORDS))
        width, height = square_size(header, header.whole("Columns") or 0, header.whole("Rows") or 0)
    else:
        raise BadImage(f"{path}: no PNG, JPEG or DICOM, so its size is not known")
    if not width or not height:
        raise BadImage(f"{path}: no size in its header: damaged, copy it again")
    return float(width), float(height)
