"""Compares two evaluations of the same images: which is better, by how much, and how surely.

Two tests are the primary family: mean AUC, and mean T(IoU) at .3 by validation thresholds. All others, finding by finding, are
exploratory.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

import numpy as np
from jaxtyping import Float, Int

from chestmap.errors import BadInput
from chestmap.evaluation.classification import Images
from chestmap.evaluation.maps.thresholds import Geometry, Rule, is_met, rows_of
from chestmap.evaluation.measure import Measure
from chestmap.evaluation.rates import Localization, at_columns
from chestmap.evaluation.score_columns import Resampling
from chestmap.evaluation.scores import MEAN
from chestmap.evaluation.statistics.auc_by_patient import (
    PairedAuc,
    clustered,
    mean_of_paired,
    paired_by_patient,
    paired_delong,
)
from chestmap.evaluation.statistics.intervals import mean_of_means, paired_difference
from chestmap.evaluation.statistics.resampling import exchanged, holm, paired_hits
from chestmap.evaluation.truth import Truth

PRIMARY_IOU = 0.3
PRIMARY_HITS: tuple[Geometry, Rule] = ("mask", "validation")


@dataclass(frozen=True, eq=False, kw_only=True)
class Hits:
    """Overlaps of each row (pair or box) under one geometry and rule; `finding` indexes the names of the cases.

    IoR and IoGT are NaN where each box counts by itself.
    """

    finding: Int[np.ndarray, "row"]
    image: Int[np.ndarray, "row"]
    iou: Float[np.ndarray, "row"]
    ior: Float[np.ndarray, "row"]
    iogt: Float[np.ndarray, "row"]


@dataclass(frozen=True, eq=False)
class Cases:
    """What an evaluation found image by image and box by box, kept so that two can be compared."""

    ids: tuple[str, ...]
    images: Images
    hits: dict[tuple[Geometry, Rule], Hits]


def cases_of(images: Images, truth: Truth, loc: Localization | None) -> Cases:
    """Scores of every image, and the IoU of every boxed pair under each rule that fixes a threshold."""
    hits = {}
    for geometry, rule in loc.columns if loc else ():
        assert loc is not None
        pairs = loc.pairs
        row = rows_of(pairs, geometry)
        iou = at_columns(loc, geometry, rule)
        none = np.full(len(iou), np.nan)
        ior, iogt = (none if geometry == "each" else at_columns(loc, geometry, rule, what) for what in ("IoR", "IoGT"))
        hits[geometry, rule] = Hits(finding=pairs.finding[row], image=pairs.image[row], iou=iou, ior=ior, iogt=iogt)
    return Cases(truth.ids, images, hits)


@dataclass(frozen=True, kw_only=True)
class Difference:
    """One paired test. `difference` is first - second with its interval; `p` is two-sided, `corrected` by Holm over its family.

    For hits, `p` is the permutation by patient and `mcnemar` the exact test that takes boxes as independent; `only_first` and
    `only_second` count boxes that one alone met, and `odds_ratio` is their quotient with a half added to each.
    """

    measure: str
    finding: str
    first: float
    second: float
    difference: float
    low: float
    high: float
    p: float
    corrected: float
    support: int
    at: float | None = None
    geometry: str = ""
    rule: str = ""
    family: Literal["primary", "exploratory"] = "exploratory"
    mcnemar: float | None = None
    only_first: int = 0
    only_second: int = 0
    odds_ratio: float | None = None

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)


@dataclass(frozen=True, kw_only=True)
class ComparisonSettings:
    """Hits are compared at `iou` under each geometry and rule that both evaluations have.

    `auc` is the test of AUC: `patients` takes the patient as the unit, `delong` the image.
    """

    iou: tuple[float, ...] = (0.1, 0.3, 0.5)
    strict: bool = False
    draws: int = 10_000
    auc: Literal["patients", "delong"] = "patients"
    resampling: Resampling = field(default_factory=Resampling)


def compare(first: Cases, second: Cases, how: ComparisonSettings | None = None) -> list[Difference]:
    """The primary family first, then the tests by finding: of AUC, and of hits under each geometry, rule and limit."""
    how = how or ComparisonSettings()
    if first.ids != second.ids:
        raise BadInput(
            f"{len(first.ids)} and {len(second.ids)} images that are not the same: score both predictions on the same part"
        )
    primary, found = [], []
    mean, each = _ranked(first.images, second.images, how)
    primary += mean
    found += _corrected(each)
    for key in first.hits:
        if key in second.hits:
            for limit in how.iou:
                changes = list(_changes(first, second, key, limit, how.strict))
                found += _corrected([_met(one, key, limit, how) for one in changes])
                if (key, limit) == (PRIMARY_HITS, PRIMARY_IOU) and changes:
                    primary.append(_mean_met(changes, how))
    return [*_corrected(primary), *found]


def _corrected(family: Sequence[Difference]) -> list[Difference]:
    return [replace(one, corrected=p) for one, p in zip(family, holm([one.p for one in family]), strict=True)]


def _ranked(first: Images, second: Images, how: ComparisonSettings) -> tuple[list[Difference], list[Difference]]:
    """The test of the means (none where no finding can be tested), and that of each finding that has both kinds of label."""
    total, tests, errors, each = int(first.patient.max()) + 1, [], [], []
    for index, name in enumerate(first.names):
        if name not in second.names:
            continue
        labels, confidence = first.labels[:, index], how.resampling.confidence
        columns = first.scores[:, index], second.scores[:, second.names.index(name)]
        one, other = (clustered(column, labels, first.patient) for column in columns)
        if one is None or other is None:
            continue
        test = paired_by_patient(one, other, confidence)
        tests.append(test)
        influence = one.errors.minus(other.errors).influence
        errors.append(np.pad(influence, (0, total - len(influence))))
        shown = paired_delong(*columns, labels, confidence) if how.auc == "delong" else test
        if shown is not None and not math.isnan(shown.p):
            each.append(_auc(shown, name, int((labels == 1).sum())))
    if not tests:
        return [], each
    mean = mean_of_paired(tests, np.stack(errors), how.resampling.confidence)
    return [replace(_auc(mean, MEAN, len(tests)), family="primary")], each


def _auc(test: PairedAuc, name: str, support: int) -> Difference:
    return Difference(
        measure=Measure.AUC,
        finding=name,
        first=test.first,
        second=test.second,
        difference=test.difference,
        low=test.low,
        high=test.high,
        p=test.p,
        corrected=1.0,
        support=support,
    )


@dataclass(frozen=True, eq=False)
class _Change:
    """Which boxes of a finding each of two evaluations met."""

    finding: str
    first: np.ndarray
    second: np.ndarray
    patient: np.ndarray

    @property
    def change(self) -> Float[np.ndarray, "row"]:
        """First minus second, row by row, so that both share what is hard about a row."""
        return self.first.astype(np.float64) - self.second.astype(np.float64)


def _changes(first: Cases, second: Cases, key: tuple[Geometry, Rule], limit: float, strict: bool) -> Iterator[_Change]:  # noqa: FBT001
    """For each finding with boxes that both score."""
    one, other = first.hits[key], second.hits[key]
    names, others = first.images.names, second.images.names
    for finding in np.unique(one.finding).tolist():
        if names[finding] not in others:
            continue
        here, there = one.finding == finding, other.finding == others.index(names[finding])
        image = one.image[here]
        if not np.array_equal(image, other.image[there]):
            raise BadInput(f"{names[finding]}: the two evaluations hold other boxes; score both with the same truth")
        hits = is_met(one.iou[here], limit, strict=strict), is_met(other.iou[there], limit, strict=strict)
        yield _Change(names[finding], *hits, first.images.patient[image])


def _met(one: _Change, key: tuple[Geometry, Rule], limit: float, how: ComparisonSettings) -> Difference:
    test = paired_hits(one.first, one.second, one.patient, how.draws, how.resampling.seed)
    low, high, _ = paired_difference(one.change, one.patient, how.resampling.confidence)
    return Difference(
        measure=Measure.IOU_MET,
        finding=one.finding,
        first=float(one.first.mean()),
        second=float(one.second.mean()),
        difference=float(one.change.mean()),
        low=low,
        high=high,
        p=test.permutation,
        corrected=1.0,
        support=len(one.change),
        at=limit,
        geometry=key[0],
        rule=key[1],
        mcnemar=test.mcnemar,
        only_first=test.only_first,
        only_second=test.only_second,
        odds_ratio=(test.only_first + 0.5) / (test.only_second + 0.5),
    )


def _mean_met(changes: Sequence[_Change], how: ComparisonSettings) -> Difference:
    """The means over findings: exchanged by patient over all findings at once."""
    total = max(int(one.patient.max()) for one in changes) + 1
    value, low, high, errors = [], [], [], []
    for one in changes:
        below, above, influence = paired_difference(one.change, one.patient, how.resampling.confidence)
        value.append([one.change.mean()])
        low.append([below])
        high.append([above])
        errors.append(np.pad(influence, (0, total - len(influence)))[:, None])
    center, below, above = mean_of_means(np.array(value), (np.array(low), np.array(high)), np.stack(errors))
    weighted = np.concatenate([one.change / len(one.change) for one in changes])
    p = exchanged(weighted, np.concatenate([one.patient for one in changes]), how.draws, how.resampling.seed)
    means = (
        float(np.mean([part.mean() for part in parts]))
        for parts in zip(*((c.first, c.second) for c in changes), strict=True)
    )
    first, second = means
    middle, least, most = float(center[0]), float(below[0]), float(above[0])
    support = sum(len(one.change) for one in changes)
    geometry, rule = PRIMARY_HITS
    return Difference(
        measure=Measure.IOU_MET,
        finding=MEAN,
        first=first,
        second=second,
        difference=middle,
        low=least,
        high=most,
        p=p,
        corrected=1.0,
        support=support,
        at=PRIMARY_IOU,
        geometry=geometry,
        rule=rule,
        family="primary",
    )
