"""Everything in the beam: the fields that anatomy makes, findings change, and attenuation sums up.

Fields are arrays on the scene's grid, in millimeters of water-like tissue along the beam. Findings change fields; gray
values come at the end, from `exposure.py`.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from chestmap.phantom.chest import Chest
from chestmap.phantom.exposure import TISSUE
from chestmap.phantom.raster import Field, Raster, stream
from chestmap.phantom.skeleton import make_ribs, make_shoulders, make_spine
from chestmap.phantom.thorax import below_dome, make_air, make_gas, make_tissue
from chestmap.phantom.vessels import make_hila, make_vessels

_AERATION = 0.74
"""Share of a lung's depth that is air."""


@dataclass(frozen=True, eq=False)
class Lesion:
    """How one finding shows in one image: its random numbers are the patient's, growth and strength the image's."""

    random: np.random.Generator
    side: int  # -1 the patient's right, 1 the left; where a finding has a choice
    growth: float  # of lengths
    strength: float  # of contrast


@dataclass(eq=False, kw_only=True)
class Scene:
    """Fields are millimeters of water-like tissue unless noted otherwise."""

    raster: Raster
    chest: Chest
    tissue: Field  # the body as if the lungs were solid
    air: Field  # lung
    gas: Field  # airways, stomach, bowel
    bone: Field  # attenuation beyond that of tissue
    vessels: Field
    grain: Field  # the lungs' fine marking
    below: Field  # millimeters under the diaphragm's contour, negative above
    filled: Field  # 0 to 1: share of the lung that holds fluid, cells or nothing but tissue
    bare: Field  # 0 to 1: share of the lung's depth that is free air, without vessels
    extra: Field  # what findings add
    metal: Field = field(repr=False)  # attenuation
    aeration: float = _AERATION

    def fill(self, share: Field) -> None:
        """Opacities multiply: two half-filled ones leave a quarter of the air."""
        self.filled = 1 - (1 - self.filled) * (1 - np.clip(share, 0, 1))

    @property
    def lung(self) -> Field:
        """0 to 1: where there is enough lung in the beam for something to be seen."""
        return np.minimum(self.air * np.float32(1 / 30.0), 1.0)

    def attenuation(self) -> Field:
        """The line integral that Beer-Lambert's law needs.

        However large the lungs, an eighth of the chest stays tissue: skin, muscle, pleura.
        """
        left = self.air * (1 - self.filled)
        aerated = left * (self.aeration + self.bare * np.float32(0.98 - self.aeration))
        solid = np.maximum(self.tissue - aerated - self.gas, 0.12 * self.tissue)
        marks = (
            (self.vessels + self.grain * np.minimum(self.air * np.float32(1 / 80), 1.0))
            * (1 - self.filled)
            * (1 - self.bare)
        )
        return np.float32(TISSUE) * (solid + marks + self.extra) + self.bone + self.metal


def make_grain(raster: Raster, chest: Chest) -> Field:
    """Small vessels and septa that merge: a net of ridges over soft lumps."""
    r = stream(chest.exam.seed, "grain")
    net = 0.8 - np.abs(raster.noise(r, 9.0)) + 0.7 * (0.8 - np.abs(raster.noise(r, 5.0)))
    return np.float32(1.1 * chest.body.texture) * (net + 0.5 * raster.noise(r, 2.5) + 0.5 * raster.noise(r, 18.0))


def make_scene(raster: Raster, chest: Chest) -> Scene:
    """Healthy anatomy, before findings and devices."""
    below = below_dome(raster, chest)
    air = make_air(raster, chest, below)
    empty = np.zeros_like(air)
    return Scene(
        raster=raster,
        chest=chest,
        tissue=make_tissue(raster, chest),
        air=air,
        gas=make_gas(raster, chest),
        bone=make_ribs(raster, chest) + make_spine(raster, chest) + make_shoulders(raster, chest),
        vessels=make_vessels(raster, chest, air) + make_hila(raster, chest) * np.minimum(air * np.float32(1 / 60), 1.0),
        grain=make_grain(raster, chest),
        below=below,
        filled=empty,
        bare=empty,
        extra=empty.copy(),
        metal=empty.copy(),
    )
