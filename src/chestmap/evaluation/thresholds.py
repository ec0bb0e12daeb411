"""Where a map is cut: by the method's own rule, by the best of validation boxes, or (an upper bound) by the best of the test.

Thresholds are columns: 0 is the own one, the others are multiples of 1/256 (masks) or 1/32 (boxes, from 1/16 to 15/16).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, get_args

import numpy as np
from jaxtyping import Bool, Float, Int

from chestmap.evaluation.localization import Pairs
from chestmap.evaluation.pairs import BOX_LEVELS, MASK_LEVELS
from chestmap.evaluation.surface import LEVELS

Geometry = Literal["mask", "largest", "any", "each"]
"""`mask`: pixels against the union of boxes. Boxes around regions: the `largest` region, `any` region, or `each` true box on
its own, regions and boxes paired one to one."""

GEOMETRIES: tuple[Geometry, ...] = get_args(Geometry)
Rule = Literal["own", "validation", "oracle"]
RULES: tuple[Rule, ...] = get_args(Rule)
Overlap = Literal["IoU", "IoR", "IoGT"]


def thresholds_of(geometry: Geometry, own: float) -> Float[np.ndarray, "column"]:
    levels = MASK_LEVELS if geometry == "mask" else BOX_LEVELS
    return np.concatenate([[own], levels / LEVELS])


def searched(geometry: Geometry) -> Int[np.ndarray, "column"]:
    """Columns that may be chosen: all but the own one, and but the level at which a mask is the whole image."""
    return np.arange(2, 1 + len(MASK_LEVELS)) if geometry == "mask" else np.arange(1, 1 + len(BOX_LEVELS))


def rows_of(pairs: Pairs, geometry: Geometry) -> Int[np.ndarray, "row"]:
    """The pair of each row: pairs themselves, or the true boxes of `each`."""
    return pairs.box_pair if geometry == "each" else np.arange(len(pairs))


def overlap(pairs: Pairs, geometry: Geometry, what: Overlap) -> Float[np.ndarray, "row column"]:
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


def met(values: np.ndarray, limit: float, *, strict: bool) -> Bool[np.ndarray, "..."]:
    """`>=`, or `>` where a reference is strict."""
    return values > limit if strict else values >= limit


def accuracy(
    values: Float[np.ndarray, "row column"], limits: Sequence[float], *, strict: bool
) -> Float[np.ndarray, "limit column"]:
    """Share of rows that meet each limit, at every threshold."""
    return np.stack([met(values, limit, strict=strict).mean(axis=0) for limit in limits])


def best_column(
    values: Float[np.ndarray, "row column"], limits: Sequence[float], allowed: np.ndarray, *, strict: bool
) -> int:
    """The threshold with the highest accuracy, averaged over the limits; of several that tie, the middle one."""
    mean = accuracy(values[:, allowed], limits, strict=strict).mean(axis=0)
    tied = np.flatnonzero(mean >= mean.max() - 1e-12)
    return int(allowed[tied[len(tied) // 2]])


def chosen_columns(
    pairs: Pairs, geometry: Geometry, num_findings: int, limits: Sequence[float], *, strict: bool
) -> Int[np.ndarray, "finding"]:
    """The best threshold of each finding on these (validation) boxes; a finding without boxes gets the best over all of them."""
    values, allowed = overlap(pairs, geometry, "IoU"), searched(geometry)
    finding = pairs.finding[rows_of(pairs, geometry)]
    pooled = best_column(values, limits, allowed, strict=strict)
    found = np.full(num_findings, pooled, dtype=np.int64)
    for index in np.unique(finding):
        found[index] = best_column(values[finding == index], limits, allowed, strict=strict)
    return found


Columns = Mapping[tuple[Geometry, Rule], Int[np.ndarray, "finding"]]
"""The threshold that a rule gives each finding; the oracle has none of its own (it differs by limit)."""


def columns_by_rule(
    num_findings: int, validation: Pairs | None, limits: Sequence[float], *, strict: bool
) -> dict[tuple[Geometry, Rule], np.ndarray]:
    found: dict[tuple[Geometry, Rule], np.ndarray] = {}
    for geometry in GEOMETRIES:
        found[geometry, "own"] = np.zeros(num_findings, dtype=np.int64)
        if validation is not None and len(validation):
            found[geometry, "validation"] = chosen_columns(validation, geometry, num_findings, limits, strict=strict)
    return found


def fixed_rules(columns: Columns) -> list[Rule]:
    """Rules that give each finding one threshold, in order."""
    return [rule for rule in RULES if ("any", rule) in columns]
