"""From color and transparency to the one grey that a radiograph has."""

import numpy as np
from jaxtyping import Float32, UInt

from chestmap.errors import BadImage

REC_601 = (0.299, 0.587, 0.114)
"""Weights of red, green and blue in luma, as JPEG and DICOM define it."""


def unit(values: UInt[np.ndarray, "h w"], white: int) -> Float32[np.ndarray, "h w"]:
    """Integer values as a share of `white`."""
    return np.divide(values, np.float32(white), dtype=np.float32)


def grey_of_color(
    red: UInt[np.ndarray, "h w"], green: UInt[np.ndarray, "h w"], blue: UInt[np.ndarray, "h w"], white: int
) -> tuple[Float32[np.ndarray, "h w"], str]:
    """The channel itself where all three agree, else luma; and what was done."""
    if np.array_equal(red, green) and np.array_equal(green, blue):
        return unit(green, white), "three equal channels: one kept"
    grey = unit(red, white)
    grey *= REC_601[0]
    for channel, weight in ((green, REC_601[1]), (blue, REC_601[2])):
        part = unit(channel, white)
        part *= weight
        grey += part
    return np.minimum(grey, 1, out=grey), "color turned to luma (Rec. 601)"


def over_black(
    grey: Float32[np.ndarray, "h w"], alpha: UInt[np.ndarray, "h w"], white: int
) -> tuple[Float32[np.ndarray, "h w"], str]:
    """The picture laid over black; and what was done. An alpha channel that is opaque everywhere changes nothing."""
    if alpha.min() == white:
        return grey, "opaque alpha dropped"
    clear = 100 * float(np.mean(alpha < white))
    return grey * unit(alpha, white), f"alpha: {clear:.1f} % of the pixels are not opaque, laid over black"


def check_not_blank(grey: Float32[np.ndarray, "h w"]) -> None:
    """Less than one step of 8-bit grey between darkest and brightest is no picture; NaN fails too."""
    darkest, brightest = float(grey.min()), float(grey.max())
    if not brightest - darkest >= 1 / 255:
        raise BadImage(f"blank: every pixel has the same grey ({darkest:.3f}); export the image again")
