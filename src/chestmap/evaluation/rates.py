"""Computes localization scores: how often boxes are met under each geometry, threshold rule and limit.

`evaluate` calls these functions with the table of overlaps that the pass over the maps left. Each row of the result names
its geometry (mask, box), threshold rule (own, validation, oracle) and limit.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from chestmap.evaluation.maps.passes import BoxedPairs
from chestmap.evaluation.maps.thresholds import (
    GEOMETRIES,
    Columns,
    Geometry,
    Overlap,
    Rule,
    accuracy,
    fixed_rules,
    is_met,
    overlap,
    rows_of,
    searched,
    thresholds_of,
)
from chestmap.evaluation.measure import MEAN_OVERLAP, MET, Measure
from chestmap.evaluation.score_columns import Block, Resampling, scores_of
from chestmap.evaluation.scores import Curve, Score, finding_groups

CURVE = np.linspace(0.0, 1.0, 51)


@dataclass(frozen=True)
class Limits:
    """T of T(IoU), T(IoR) and T(IoGT); `strict` asks for more than T instead of at least T."""

    iou: tuple[float, ...] = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7)
    ior: tuple[float, ...] = (0.1, 0.25, 0.5, 0.75, 0.9)
    strict: bool = False


@dataclass(frozen=True, eq=False, kw_only=True)
class Localization:
    """What the passes found and all that its scores depend on. `patient` is that of each image of the truth; `gates` the score
    from which a finding is called present, chosen elsewhere (NaN: none).
    """

    names: tuple[str, ...]
    pairs: BoxedPairs
    patient: Int[np.ndarray, "image"]
    own: float
    columns: Columns
    gates: Float[np.ndarray, "finding"] | None = None
    limits: Limits = field(default_factory=Limits)
    lost: int = 0  # boxes outside their image, left out

    def pair_patient(self, geometry: Geometry = "mask") -> Int[np.ndarray, "row"]:
        """The patient of each boxed pair, which is the unit of resampling."""
        return self.patient[self.pairs.image[rows_of(self.pairs, geometry)]]


@dataclass(frozen=True, eq=False)
class _Column:
    """Holds one score before it is averaged: its fields, and value and tie of each row.

    `ties` marks values that equal their limit, where `strict` decides. `thresholds` are those on the map, by finding.
    """

    head: Mapping[str, Any]
    values: np.ndarray
    ties: np.ndarray
    thresholds: np.ndarray  # by finding


def rate_rows(loc: Localization, how: Resampling) -> list[Score]:
    """T(IoU), T(IoR), T(IoGT), mean IoU and their score-gated form, for every geometry and rule."""
    rows: list[Score] = []
    for geometry in GEOMETRIES:
        pair = rows_of(loc.pairs, geometry)
        columns = [
            *(column for rule in fixed_rules(loc.columns) for column in _fixed(loc, geometry, rule)),
            *_oracle(loc, geometry),
        ]
        block = Block(
            finding=loc.pairs.finding[pair],
            patient=loc.pair_patient(geometry),
            values=np.stack([column.values for column in columns], axis=1),
            heads=[column.head for column in columns],
            unit="boxes" if geometry == "each" else "pairs",
            thresholds=np.stack([column.thresholds for column in columns], axis=1),
            ties=np.stack([column.ties for column in columns], axis=1),
        )
        rows += scores_of(block, loc.names, how)
    return rows


def at_columns(loc: Localization, geometry: Geometry, rule: Rule, what: Overlap = "IoU") -> Float[np.ndarray, "row"]:
    """Takes the overlap of each row at the threshold that the rule gives its finding.

    A row is a box under the geometry `each`, else a pair of image and finding. `what` is IoU, IoR or IoGT.
    """
    pair, values = rows_of(loc.pairs, geometry), overlap(loc.pairs, geometry, what)
    columns = loc.columns[geometry, rule].at(loc.pairs.image[pair], loc.pairs.finding[pair])
    return values[np.arange(len(values)), columns]


def _fixed(loc: Localization, geometry: Geometry, rule: Rule) -> list[_Column]:
    """Makes the columns under a rule that fixes one threshold for each finding.

    The geometry `each` has IoU alone. Score-gated columns come where `loc.gates` are known; a finding without a gate
    has NaN there, which counts nowhere.
    """
    pairs, limits = loc.pairs, loc.limits
    thresholds = loc.columns[geometry, rule].typical(thresholds_of(geometry, loc.own))
    measures: dict[Overlap, tuple[float, ...]] = {"IoU": limits.iou}
    if geometry != "each":
        measures |= {"IoR": limits.ior, "IoGT": limits.ior}
    columns = []
    for what, steps in measures.items():
        values = at_columns(loc, geometry, rule, what)
        head = {"geometry": geometry, "rule": rule}
        for step in steps:
            hits = is_met(values, step, strict=limits.strict).astype(np.float64)
            columns.append(_Column(head | {"measure": MET[what], "at": step}, hits, values == step, thresholds))
            if what == "IoU" and loc.gates is not None:
                pair = rows_of(pairs, geometry)
                gate = loc.gates[pairs.finding[pair]]
                gated = np.where(np.isnan(gate), np.nan, hits * (pairs.score[pair] >= gate))
                columns.append(
                    _Column(head | {"measure": Measure.GATED_IOU_MET, "at": step}, gated, np.zeros(len(gated)), thresholds)
                )
        columns.append(_Column(head | {"measure": MEAN_OVERLAP[what]}, values, np.zeros(len(values)), thresholds))
    return columns


def _oracle(loc: Localization, geometry: Geometry) -> list[_Column]:
    """Each limit with the threshold that is best on these very boxes, by finding. Intervals hold that threshold fixed."""
    pairs, allowed = loc.pairs, searched(geometry)
    values, finding = overlap(pairs, geometry, "IoU"), pairs.finding[rows_of(pairs, geometry)]
    levels, rows = thresholds_of(geometry, loc.own), np.arange(len(values))
    columns = []
    for step in (*loc.limits.iou, None):
        hits = values if step is None else is_met(values, step, strict=loc.limits.strict).astype(np.float64)
        best = np.zeros(len(loc.names), dtype=np.int64)
        for index in np.unique(finding):
            best[index] = allowed[int(hits[finding == index][:, allowed].mean(axis=0).argmax())]
        ties = np.zeros(len(rows)) if step is None else values[rows, best[finding]] == step
        head = {"measure": Measure.MEAN_IOU} if step is None else {"measure": Measure.IOU_MET, "at": step}
        head |= {"geometry": geometry, "rule": "oracle"}
        columns.append(_Column(head, hits[rows, best[finding]], ties, levels[best]))
    return columns


def accuracy_curves(loc: Localization) -> list[Curve]:
    """Draws the share of boxes met against the limit on IoU, for each finding and the means.

    There is a line for each geometry and rule in `loc.columns`. In the means every finding weighs the same.
    """
    pairs, names = loc.pairs, loc.names
    curves = []
    for geometry, rule in loc.columns:
        finding = pairs.finding[rows_of(pairs, geometry)]
        values = at_columns(loc, geometry, rule)[:, None]
        present = np.unique(finding).tolist()
        lines = [accuracy(values[finding == index], CURVE.tolist(), strict=loc.limits.strict)[:, 0] for index in present]
        labelled = {names[index]: line for index, line in zip(present, lines, strict=True)}
        if lines:
            groups = finding_groups([names[index] for index in present], ())
            labelled |= {label: np.mean([lines[member] for member in members], axis=0) for label, members in groups.items()}
        for label, line in labelled.items():
            curves.append(
                Curve(
                    kind="accuracy",
                    finding=label,
                    x=tuple(CURVE.tolist()),
                    y=tuple(line.tolist()),
                    rule=rule,
                    geometry=geometry,
                )
            )
    return curves


def threshold_curves(loc: Localization) -> list[Curve]:
    """Draws mean accuracy over the limits on IoU against the threshold on the map.

    It shows how much the choice of threshold matters. Of the thresholds for masks every eighth is drawn.
    """
    pairs, names = loc.pairs, loc.names
    curves = []
    for geometry in GEOMETRIES:
        values, allowed = overlap(pairs, geometry, "IoU"), searched(geometry)
        finding, levels = pairs.finding[rows_of(pairs, geometry)], thresholds_of(geometry, loc.own)
        allowed = allowed[:: 8 if geometry == "mask" else 1]
        for index in np.unique(finding).tolist():
            line = accuracy(values[finding == index][:, allowed], loc.limits.iou, strict=loc.limits.strict).mean(axis=0)
            curves.append(
                Curve(
                    kind="threshold",
                    finding=names[index],
                    x=tuple(levels[allowed].tolist()),
                    y=tuple(line.tolist()),
                    rule="",
                    geometry=geometry,
                )
            )
    return curves
