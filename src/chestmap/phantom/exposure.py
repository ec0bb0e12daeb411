"""From attenuation to the grey levels of a stored picture.

Beer-Lambert's law gives the primary dose; scattered dose is a blurred share of it that grows with thickness; the detector
blurs and counts with Poisson-like noise. What follows is the reader's processing: logarithm, sharpening, leveling of coarse
differences, an automatic window, and a film-like curve. The spread of all of it is set so that quantiles of grey, and the
contrast of fine detail, agree with those of real images by view.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from chestmap.phantom.exam import Exam
from chestmap.phantom.raster import Field, Raster, stream

TISSUE = 0.0205
"""Attenuation per millimeter of water-like tissue at chest energies."""


_TOE = np.float32(0.06)
"""Grey levels over which the curve leaves black."""


@dataclass(frozen=True, kw_only=True)
class Exposure:
    """What differs from machine to machine and from image to image; grey is in [0, 1]."""

    scatter: float  # share of the local dose
    spread: float  # millimeters
    noise: float  # relative, at an unattenuated dose of 1
    sharpness: float  # unsharp masking
    leveling: float  # how much of the coarse variation the processing takes out
    dark: float  # grey of the darker part of the body
    bright: float
    bend: float
    base: float  # grey where nothing is in the beam
    psf: float  # millimeters


def make_exposure(exam: Exam) -> Exposure:
    """PA: with a grid, high dose, high contrast. AP: portable, no grid, flat and softer."""
    r = stream(exam.seed, "exposure")
    pa = exam.view == "PA"
    return Exposure(
        scatter=float(r.uniform(0.25, 0.45) if pa else r.uniform(0.45, 0.9)),
        spread=float(r.uniform(30, 50)),
        noise=float(np.exp(r.normal(np.log(0.0012 if pa else 0.0014), 0.35))),
        sharpness=float(r.uniform(0.0, 0.4) if pa else r.uniform(0.0, 0.25)),
        leveling=float(r.uniform(0.0, 0.3)),
        dark=float(np.clip(r.normal(0.215 if pa else 0.325, 0.1), 0.06, 0.6)),
        bright=float(np.clip(r.normal(0.865 if pa else 0.795, 0.03), 0.68, 0.95)),
        base=float(abs(r.normal(0, 0.05)) - 0.015),
        bend=float(np.clip(r.normal(0.42 if pa else 0.68, 0.2), 0.0, 0.95)),
        psf=float(r.uniform(0.3, 0.5) if pa else r.uniform(0.35, 0.65)),
    )


def expose(raster: Raster, exam: Exam, exposure: Exposure, attenuation: Field) -> Field:
    """Grey in [0, 1], white is dense.

    Only noise depends on the side: a finer pixel counts fewer photons.
    """
    dose = np.exp(-attenuation)
    away = raster.blur(dose * np.minimum(attenuation * np.float32(0.6), 1.0), exposure.spread)
    dose += np.float32(exposure.scatter) * away * np.square(raster.blur(attenuation, exposure.spread) * np.float32(1 / 2.2))
    r = stream(exam.seed, "noise", raster.side)
    grain = r.standard_normal(dose.shape, dtype=np.float32)
    dose += np.sqrt(dose) * grain * np.float32(exposure.noise * min(raster.scale, 2.0))
    dose = raster.blur(dose, exposure.psf)
    density = -np.log(np.maximum(dose, 1e-4))
    density += np.float32(exposure.sharpness) * (density - raster.blur(density, 1.3))
    density -= np.float32(exposure.leveling) * (raster.blur(density, 28) - density.mean())
    return _display(exposure, density)


def _display(exposure: Exposure, density: Field) -> Field:
    """The automatic window of the reader, then a film's curve: toe below the window, shoulder above it."""
    eighth = density.shape[0] // 8
    inside = density[eighth:-eighth:4, eighth:-eighth:4]
    low, high = map(float, np.quantile(inside[inside > 0.5 * float(np.median(inside))], [0.025, 0.93]))
    t = (density - low) * np.float32(1 / max(high - low, 0.3))
    span = exposure.bright - exposure.dark
    grey = exposure.dark + span * np.where(
        t > 0, t + exposure.bend * np.maximum(t * (1 - t), 0), 0.7 * (1 + exposure.bend) * t
    )
    room = 0.985 - exposure.bright
    over = np.maximum(grey - exposure.bright, 0)
    grey = np.where(over > 0, exposure.bright + room * (1 - np.exp(-0.7 * over / room)), grey)
    rise = grey - np.float32(exposure.base)
    return np.float32(exposure.base) + 0.5 * (rise + np.sqrt(rise * rise + _TOE * _TOE))
