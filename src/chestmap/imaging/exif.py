"""The one EXIF tag that matters here: how a picture must be turned to be upright.

Photographs of film on a light box carry it. Boxes of such an image are taken to be drawn on the upright picture, which
is what every viewer shows.
"""

import struct

import numpy as np
from jaxtyping import Float32

ORIENTATION = 0x0112
UPRIGHT = 1


def orientation_of(tiff: bytes) -> int:
    """1 to 8 from the TIFF block of an EXIF segment or chunk; 1 (upright) where the block is damaged or silent."""
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(tiff[:4])
    if order is None:
        return UPRIGHT
    try:
        (start,) = struct.unpack_from(f"{order}I", tiff, 4)
        (entries,) = struct.unpack_from(f"{order}H", tiff, start)
        for entry in range(min(entries, 512)):
            tag, _, _, value = struct.unpack_from(f"{order}HHIH", tiff, start + 2 + 12 * entry)
            if tag == ORIENTATION:
                return value if 1 <= value <= 8 else UPRIGHT
    except struct.error:
        return UPRIGHT
    return UPRIGHT


def upright(pixels: Float32[np.ndarray, "h w"], orientation: int) -> Float32[np.ndarray, "h2 w2"]:
    """Row and column of the stored picture by EXIF 2.3, 4.6.4 A: 5 to 8 swap the axes, then mirror or turn."""
    if orientation >= 5:
        pixels = pixels.T
    if orientation in {3, 4, 7, 8}:
        pixels = pixels[::-1]
    if orientation in {2, 3, 6, 7}:
        pixels = pixels[:, ::-1]
    return np.ascontiguousarray(pixels)
