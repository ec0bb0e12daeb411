"""From stored values to grey as a viewer shows it: modality LUT, then VOI LUT or window, then inversion (PS3.4 figure N.2-1).

A radiograph has at most 65,536 different stored values, so the whole pipeline runs once over all of them in double precision
and the image is one look-up. *Code* is the unsigned integer as it lies in the file, *value* the number it encodes.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float64, Int64, UInt

from chestmap.errors import BadImage

SINGLE_GREY = 1 / 255
"""Less between darkest and brightest is no picture."""


@dataclass(frozen=True, eq=False)
class Lut:
    """Holds a modality or VOI lookup table (PS3.3 C.11.1 and C.11.2).

    Inputs up to `first` take the first entry, inputs beyond the last entry the last. `bits` is what the header gives
    for entries.
    """

    first: int
    bits: int
    entries: Int64[np.ndarray, "entry"]


@dataclass(frozen=True)
class Rescale:
    """Turns stored values into output units: slope x value + intercept (PS3.3 C.11.1)."""

    slope: float
    intercept: float


@dataclass(frozen=True)
class Window:
    """Maps a range of output units to gray (PS3.3 C.11.2.1).

    `center` and `width` are in output units; `function` is LINEAR, LINEAR_EXACT or SIGMOID.
    """

    center: float
    width: float
    function: str = "LINEAR"


@dataclass(frozen=True, eq=False, kw_only=True)
class Display:
    """Everything in the header that decides which grey a code shows."""

    allocated: int
    stored: int
    high: int
    signed: bool = False
    padding: tuple[int, int] | None = None  # first and last padding value, both included
    modality: Lut | Rescale | None = None
    voi: Lut | Window | None = None
    inverted: bool = False


@dataclass(frozen=True, eq=False, kw_only=True)
class Tables:
    """The value of every code: output units before any window, and the grey shown; `done` records how."""

    inputs: Float64[np.ndarray, "code"]
    greys: Float64[np.ndarray, "code"]
    present: Bool[np.ndarray, "code"]  # codes of the picture that are no padding
    padded: Bool[np.ndarray, "code"]
    done: list[str]


def grey_tables(codes: UInt[np.ndarray, "h w"], display: Display) -> Tables:
    """The whole pipeline over all codes; whether a window leaves anything to see depends on those of the picture."""
    values, padded = _values(display)
    present = np.zeros(len(values), bool)
    present[codes] = True
    done = []
    if (present & padded).any():
        done.append(f"padding value {_span(display.padding)} shown black")
    present &= ~padded
    if not present.any():
        raise BadImage("every pixel is padding: export the image again")
    with np.errstate(all="ignore"):
        inputs = _modality(values, display, done)
        if not np.isfinite(inputs[present]).all():
            raise BadImage("rescale slope or intercept gives values that are no finite numbers: export the image again")
        greys = _voi(inputs, present, display, done)
    if display.inverted:
        greys = 1 - greys
        done.append("inverted: low values are white in this file")
    greys[padded] = 0
    return Tables(inputs=inputs, greys=greys, present=present, padded=padded, done=done)


def _values(display: Display) -> tuple[Int64[np.ndarray, "code"], Bool[np.ndarray, "code"]]:
    """The value of each code (bits outside BitsStored are cut off) and whether it is padding."""
    codes = np.arange(2**display.allocated, dtype=np.int64)
    values = (codes >> (display.high + 1 - display.stored)) & (2**display.stored - 1)
    if display.signed:
        values -= (values >> (display.stored - 1)) << display.stored
    if display.padding is None:
        return values, np.zeros(len(codes), bool)
    first, last = display.padding
    whole = codes - ((codes >> (display.allocated - 1)) << display.allocated if display.signed else 0)
    padded = (values >= first) & (values <= last)
    return values, padded | ((whole >= first) & (whole <= last))  # some devices pad with a value that needs the high bits


def _span(padding: tuple[int, int] | None) -> str:
    """Padding as text."""
    first, last = padding or (0, 0)
    return f"{first}" if first == last else f"{first} to {last}"


def _modality(values: Int64[np.ndarray, "code"], display: Display, done: list[str]) -> Float64[np.ndarray, "code"]:
    """Stored values to what the maker calls its output units."""
    match display.modality:
        case Lut() as lut:
            done.append(f"modality LUT of {len(lut.entries)} entries")
            return _looked_up(values.astype(np.float64), lut)
        case Rescale(slope, intercept) if (slope, intercept) != (1, 0):
            done.append(f"rescaled: {slope:g} x value {intercept:+g}")
            return slope * values.astype(np.float64) + intercept
    return values.astype(np.float64)


def _looked_up(inputs: Float64[np.ndarray, "code"], lut: Lut) -> Float64[np.ndarray, "code"]:
    """A first input above 32767 is a negative number that lost its sign to its value representation."""
    first = lut.first - 65536 if lut.first > 32767 and inputs.min() < 0 else lut.first
    places = np.clip(np.rint(inputs) - first, 0, len(lut.entries) - 1)
    return lut.entries[places.astype(np.int64)].astype(np.float64)


def _voi(
    inputs: Float64[np.ndarray, "code"], present: Bool[np.ndarray, "code"], display: Display, done: list[str]
) -> Float64[np.ndarray, "code"]:
    """Output units to grey; a table or window under which nothing can be seen is dropped."""
    match display.voi:
        case Lut() as lut:
            greys, note = _by_lut(inputs, lut)
        case Window() as window:
            greys = windowed(inputs, window)
            note = f"window center {window.center:g} width {window.width:g} ({window.function})"
        case None:
            greys, note = _by_range(inputs, present, display)
    if np.ptp(greys[present]) < SINGLE_GREY and display.voi is not None:
        done.append(f"{note} leaves a single grey: ignored")
        greys, note = _by_range(inputs, present, display)
    done.append(note)
    return greys


def _by_lut(inputs: Float64[np.ndarray, "code"], lut: Lut) -> tuple[Float64[np.ndarray, "code"], str]:
    """White is the largest value of so many bits, unless the table stays under half of it or goes beyond."""
    white, largest = 2**lut.bits - 1, max(int(lut.entries.max()), 1)
    note = f"VOI LUT of {len(lut.entries)} entries"
    if not white / 2 < largest <= white:
        note += f" that says {lut.bits} bits and reaches {largest}: taken as white"
        white = largest
    return _looked_up(inputs, lut) / white, note


def windowed(inputs: Float64[np.ndarray, "code"], window: Window) -> Float64[np.ndarray, "code"]:
    """PS3.3 C.11.2.1.2.1 (LINEAR), C.11.2.1.3.1 (SIGMOID) and C.11.2.1.3.2 (LINEAR_EXACT), with output 0 to 1."""
    center, width = window.center, window.width
    if window.function == "SIGMOID":
        return 1 / (1 + np.exp(np.clip(-4 * (inputs - center) / width, -700, 700)))
    if window.function == "LINEAR_EXACT":
        return np.clip((inputs - center) / width + 0.5, 0, 1)
    if width == 1:
        return (inputs > center - 0.5).astype(np.float64)
    return np.clip((inputs - (center - 0.5)) / (width - 1) + 0.5, 0, 1)


def _by_range(
    inputs: Float64[np.ndarray, "code"], present: Bool[np.ndarray, "code"], display: Display
) -> tuple[Float64[np.ndarray, "code"], str]:
    """The standard leaves this open. Eight bits were rendered for a screen; more are a detector's, and seldom fill their range."""
    used = inputs if display.stored <= 8 else inputs[present]
    darkest, brightest = float(used.min()), float(used.max())
    greys = np.clip((inputs - darkest) / max(brightest - darkest, np.finfo(np.float64).tiny), 0, 1)
    return greys, f"no window: {darkest:g} is black, {brightest:g} white"
