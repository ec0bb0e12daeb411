"""Chooses where a map is cut: by the method's rule, on boxes of other patients, or, as an upper bound, on the test.

Thresholds are columns: 0 is the own one, the others are multiples of 1/256 (masks) or 1/32 (boxes, from 1/16 to 15/16).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from jaxtyping import Bool, Float, Int

from chestmap.evaluation.maps.comparison_space import LEVELS
from chestmap.evaluation.maps.map_overlap import BOX_LEVELS, MASK_LEVELS
from chestmap.evaluation.maps.passes import BoxedPairs

Geometry = Literal["mask", "largest", "any", "each"]
"""`mask`: pixels against the union of boxes. Boxes around regions: the `largest` region, `any` region, or `each` true box on
its own, regions and boxes paired one to one."""

GEOMETRIES: tuple[Geometry, ...] = get_args(Geometry)
Rule = Literal["own", "validation", "oracle"]
RULES: tuple[Rule, ...] = get_args(Rule)
Overlap = Literal["IoU", "IoR", "IoGT"]


def thresholds_of(geometry: Geometry, own: float) -> Float[np.ndarray, "column"]:
    """The thresholds of all columns, in shares of the map's range: the method's own first."""
    levels = MASK_LEVELS if geometry == "mask" else BOX_LEVELS
    return np.concatenate([[own], levels / LEVELS])


def searched(geometry: Geometry) -> Int[np.ndarray, "column"]:
    """Columns that may be chosen: all but the own one, and but the level at which a mask is the whole image."""
    return np.arange(2, 1 + len(MASK_LEVELS)) if geometry == "mask" else np.arange(1, 1 + len(BOX_LEVELS))


def rows_of(pairs: BoxedPairs, geometry: Geometry) -> Int[np.ndarray, "row"]:
    """The pair of each row: pairs themselves, or the true boxes of `each`."""
    return pairs.box_pair if geometry == "each" else np.arange(len(pairs))


def overlap(pairs: BoxedPairs, geometry: Geometry, what: Overlap) -> Float[np.ndarray, "row column"]:
    """IoU, IoR (of the predicted region) or IoGT (of the true boxes) at every threshold; 0 where nothing is predicted."""
    if geometry == "mask":
        area, inside = pairs.area.astype(np.float64), pairs.inside.astype(np.float64)
        ground = pairs.ground[:, None].astype(np.float64)
        below = {"IoU": area + ground - inside, "IoR": area, "IoGT": np.broadcast_to(ground, area.shape)}[what]
        return inside / np.where(below > 0, below, 1.0)
    if geometry == "each":
        if what != "IoU":
            raise ValueError(f"{what} of each box: boxes and regions are paired by IoU, so only IoU is kept")
        return pairs.each
    return pairs.best[:, ("IoU", "IoR", "IoGT").index(what) + (3 if geometry == "any" else 0)]


def is_met(values: np.ndarray, limit: float, *, strict: bool) -> Bool[np.ndarray, "..."]:
    """`>=`, or `>` where a reference is strict."""
    return values > limit if strict else values >= limit


def accuracy(
    values: Float[np.ndarray, "row column"], limits: Sequence[float], *, strict: bool
) -> Float[np.ndarray, "limit column"]:
    """Share of rows that meet each limit, at every threshold."""
    return np.stack([is_met(values, limit, strict=strict).mean(axis=0) for limit in limits])


def best_column(
    values: Float[np.ndarray, "row column"], limits: Sequence[float], allowed: np.ndarray, *, strict: bool
) -> int:
    """The threshold with the highest accuracy, averaged over the limits; of several that tie, the middle one."""
    mean = accuracy(values[:, allowed], limits, strict=strict).mean(axis=0)
    tied = np.flatnonzero(mean >= mean.max() - 1e-12)
    return int(allowed[tied[len(tied) // 2]])


@dataclass(frozen=True, eq=False)
class ChosenThresholds:
    """The threshold of each finding, as a column, by fold of the test's patients; `fold` is that of each image of the truth."""

    by_fold: Int[np.ndarray, "fold finding"]
    fold: Int[np.ndarray, "image"]

    def at(self, image: Int[np.ndarray, "row"], finding: Int[np.ndarray, "row"]) -> Int[np.ndarray, "row"]:
        """The column of each row's threshold, by the fold of its image and its finding."""
        return self.by_fold[self.fold[image], finding]

    def typical(self, levels: Float[np.ndarray, "column"]) -> Float[np.ndarray, "finding"]:
        """The threshold of each finding, the median where folds differ."""
        return np.median(levels[self.by_fold], axis=0)


Columns = Mapping[tuple[Geometry, Rule], ChosenThresholds]
"""The thresholds of rules that fix one; the oracle has none of its own (it differs by limit)."""


@dataclass(frozen=True, eq=False)
class ThresholdSearch:
    """Where the validation thresholds come from: validation boxes where there are any; or else each of `folds` parts of the
    test's patients gets what is best on the boxes of the others.
    """

    limits: Sequence[float]
    strict: bool = False
    folds: int = 5
    seed: int = 0

    def columns(
        self, pairs: BoxedPairs, patient: Int[np.ndarray, "image"], num_findings: int, validation: BoxedPairs | None
    ) -> Columns:
        """Chooses a column for each geometry and rule.

        Without validation boxes, folds of test patients choose for each other.
        """
        found: dict[tuple[Geometry, Rule], ChosenThresholds] = {}
        nowhere = np.zeros(len(patient), dtype=np.int64)
        for geometry in GEOMETRIES:
            found[geometry, "own"] = ChosenThresholds(np.zeros((1, num_findings), dtype=np.int64), nowhere)
            if validation is not None and len(validation):
                best = self._best(validation, geometry, num_findings, slice(None))
                found[geometry, "validation"] = ChosenThresholds(best[None], nowhere)
            elif chosen := self._crossed(pairs, geometry, patient, num_findings):
                found[geometry, "validation"] = chosen
        return found

    def _crossed(
        self, pairs: BoxedPairs, geometry: Geometry, patient: np.ndarray, num_findings: int
    ) -> ChosenThresholds | None:
        """None where one fold holds all boxes."""
        shuffled = np.random.default_rng(self.seed).permutation(int(patient.max()) + 1)
        fold = (shuffled % self.folds)[patient]
        fold_of_row = fold[pairs.image[rows_of(pairs, geometry)]]
        if any((fold_of_row == part).all() for part in range(self.folds)):
            return None
        best = [self._best(pairs, geometry, num_findings, fold_of_row != part) for part in range(self.folds)]
        return ChosenThresholds(np.stack(best), fold)

    def _best(self, pairs: BoxedPairs, geometry: Geometry, num_findings: int, rows: np.ndarray | slice) -> np.ndarray:
        values, allowed = overlap(pairs, geometry, "IoU")[rows], searched(geometry)
        finding = pairs.finding[rows_of(pairs, geometry)][rows]
        found = np.full(num_findings, best_column(values, self.limits, allowed, strict=self.strict), dtype=np.int64)
        for index in np.unique(finding):
            found[index] = best_column(values[finding == index], self.limits, allowed, strict=self.strict)
        return found


def fixed_rules(columns: Columns) -> list[Rule]:
    """Rules that give each finding one threshold, in order."""
    return [rule for rule in RULES if ("any", rule) in columns]
