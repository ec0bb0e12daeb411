"""Every level that a file holds, before any window: what a viewer with its own window control needs.

A network sees the greys of `grayscale.py`, which a window has cut; here nothing is cut, and greater is brighter in every file.
"""

from dataclasses import dataclass

import cv2
import numpy as np
from jaxtyping import Float32, Float64, UInt, UInt16

from chestmap.imaging.color import unit
from chestmap.imaging.grayscale import Display, Tables, Window

LEVELS = 65535


@dataclass(frozen=True, eq=False, kw_only=True)
class Depth:
    """`center` and `width` are the window, in levels, that shows what the radiograph's greys show; LINEAR_EXACT of PS3.3.

    Level n is the file's own value `zero` + n `step`; `linear` where the file writes windows as PS3.3's LINEAR.
    """

    levels: UInt16[np.ndarray, "h w"]
    bits: int  # 8, 12 or 16: the least that hold all levels
    center: float
    width: float
    zero: float = 0.0
    step: float = 1.0
    linear: bool = False

    @property
    def ends(self) -> tuple[int, int]:
        """Darkest and brightest level."""
        return int(self.levels.min()), int(self.levels.max())


def depth_of_grey(pixels: Float32[np.ndarray, "h w"]) -> Depth:
    """Of a picture that has no window: 8 bits where all its greys are steps of 1/255, else 16."""
    coded = cv2.convertScaleAbs(pixels, alpha=255)
    if np.array_equal(unit(coded, 255), pixels):  # straight from 8 bits
        return Depth(levels=coded.astype(np.uint16), bits=8, center=127.5, width=255.0)
    steps = pixels * np.float32(255)
    white, bits = (255, 8) if float(np.abs(steps - np.rint(steps)).max()) < 1e-3 else (LEVELS, 16)
    levels = np.rint(np.clip(pixels, 0, 1) * np.float64(white)).astype(np.uint16)
    return Depth(levels=levels, bits=bits, center=white / 2, width=float(white))


def depth_of_codes(codes: UInt[np.ndarray, "h w"], display: Display, tables: Tables) -> Depth:
    """Output units from the lowest of the picture on; squeezed only where they are not whole or do not fit 16 bits."""
    used = tables.inputs[tables.present]
    low, high = float(used.min()), float(used.max())
    span = max(high - low, 1e-12)
    whole = span <= LEVELS and bool(np.equal(used, np.rint(used)).all())
    scale = 1.0 if whole else LEVELS / span
    exact = (high - tables.inputs if display.inverted else tables.inputs - low) * scale
    levels = np.rint(np.clip(exact, 0, LEVELS)).astype(np.uint16)
    levels[tables.padded] = 0
    top = int(levels[tables.present].max())
    center, width = _window(exact, tables)
    zero, step = (high, -1 / scale) if display.inverted else (low, 1 / scale)
    linear = isinstance(display.voi, Window) and display.voi.function == "LINEAR"
    bits = 8 if top < 256 else 12 if top < 4096 else 16
    return Depth(levels=levels[codes], bits=bits, center=center, width=width, zero=zero, step=step, linear=linear)


def _window(exact: Float64[np.ndarray, "code"], tables: Tables) -> tuple[float, float]:
    """The line through a quarter and three quarters of the greys that occur: exact for straight windows, near for S-curves."""
    order = np.argsort(exact[~tables.padded], kind="stable")
    levels = exact[~tables.padded][order]
    greys = np.maximum.accumulate(tables.greys[~tables.padded][order])
    low, high = float(greys[0]), float(greys[-1])
    wanted = (low + (high - low) / 4, low + (high - low) * 3 / 4)
    first, last = (float(np.interp(grey, greys, levels)) for grey in wanted)
    width = (last - first) / (wanted[1] - wanted[0]) if high > low else 1.0
    return first + (0.5 - wanted[0]) * width, max(width, 1.0)
