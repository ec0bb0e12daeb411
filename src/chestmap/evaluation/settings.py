"""Defines how predictions are evaluated, and what else is known: other parts, the split, several readers.

The verbs and the Python API have the same names and defaults. A changed default changes numbers, so CHANGELOG lists it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated

from pydantic import Field

from chestmap.datasets.split import Split
from chestmap.evaluation.classification import Classifying
from chestmap.evaluation.maps.comparison_space import Surface
from chestmap.evaluation.maps.passes import Pass
from chestmap.evaluation.presets.protocols import PresetName
from chestmap.evaluation.rates import Limits
from chestmap.evaluation.reader_agreement import Readings
from chestmap.evaluation.score_columns import Resampling
from chestmap.evaluation.statistics.auc import AucInterval
from chestmap.evaluation.statistics.calibration import Kind
from chestmap.evaluation.truth import Truth
from chestmap.predictions.folder import OwnRule, Predictions
from chestmap.settings import Settings

Share = Annotated[float, Field(gt=0, le=1)]


class EvaluationSettings(Settings):
    """The defaults are the protocol; rates and thresholds are in [0, 1]."""

    iou: tuple[Share, ...] = Field(default=(0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7), min_length=1)
    ior: tuple[Share, ...] = Field(default=(0.1, 0.25, 0.5, 0.75, 0.9), min_length=1)  # also those of T(IoGT)
    strict: bool = False  # more than T instead of at least T
    resamples: int = Field(default=1000, ge=1)  # of patients
    confidence: float = Field(default=0.95, gt=0, lt=1)
    interval: AucInterval = "patients"  # of AUC
    seed: int = 0
    without: tuple[str, ...] = ("Cardiomegaly",)  # a further mean leaves each of these out
    presets: tuple[PresetName, ...] = ()
    calibration: Kind = "platt"
    bins: int = Field(default=15, ge=2)
    met: float = Field(default=0.3, gt=0, le=1)  # IoU with which a detection meets a box, for FROC
    negatives: int = Field(default=2000, ge=0)  # images without a finding to read maps of for AFP and FROC, by finding
    longest: int = Field(
        default=1024, ge=32
    )  # pixels of the longer side on which maps are cut; larger images are scored smaller
    workers: int = Field(default=2, ge=1)
    chunk: int = Field(default=64, ge=1)  # images read at a time

    @property
    def limits(self) -> Limits:
        """The limits of IoU and IoR at which a box counts as met."""
        return Limits(self.iou, self.ior, self.strict)

    @property
    def resampling(self) -> Resampling:
        """How intervals are drawn: number of resamples, confidence, seed."""
        return Resampling(self.resamples, self.confidence, self.seed, self.without)

    def reading(self, own: OwnRule) -> Pass:
        """How the one pass over all maps works; `own` is the threshold rule of the model's method."""
        surface = Surface(longest=self.longest)
        return Pass(
            surface=surface,
            own=own,
            met=self.met,
            negatives=self.negatives,
            workers=self.workers,
            chunk=self.chunk,
            seed=self.seed,
        )

    @property
    def classifying(self) -> Classifying:
        """How whole images are scored."""
        return Classifying(self.interval, self.bins, self.calibration)


@dataclass(frozen=True, eq=False, kw_only=True)
class EvaluationContext:
    """What else is known: validation images (thresholds, calibration), training images (floors, leaks), the split and its part.

    `validation` are predictions of the same model; they may be the same folder as those of the test. `notes` join those of the
    evaluation.
    """

    validation: tuple[Predictions, Truth] | None = None
    training: Truth | None = None
    split: Split | None = None
    part: str = ""
    notes: tuple[str, ...] = ()
    readings: Readings = field(default_factory=dict)  # of several readers, for the ceiling of their agreement

    def others(self) -> dict[str, Truth]:
        """The other parts that are known, by name, for checks of patients in common."""
        found = {"training": self.training, "validation": self.validation[1] if self.validation else None}
        return {part: truth for part, truth in found.items() if truth is not None}
