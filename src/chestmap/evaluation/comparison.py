"""Two evaluations of the same images, finding by finding: which is better, by how much, and how surely."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from chestmap.errors import BadInput
from chestmap.evaluation.auc import paired_delong
from chestmap.evaluation.classification import Images
from chestmap.evaluation.rates import Localization, at_columns
from chestmap.evaluation.resampling import holm, paired_hits
from chestmap.evaluation.score_columns import Block, Resampling, scores_of
from chestmap.evaluation.thresholds import Geometry, Rule, met, rows_of
from chestmap.evaluation.truth import Truth


@dataclass(frozen=True, eq=False)
class Hits:
    """IoU of each row (pair or box) under one geometry and rule; `finding` indexes the names of the cases."""

    finding: Int[np.ndarray, "row"]
    image: Int[np.ndarray, "row"]
    iou: Float[np.ndarray, "row"]


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
        hits[geometry, rule] = Hits(pairs.finding[row], pairs.image[row], at_columns(loc, geometry, rule))
    return Cases(truth.ids, images, hits)


@dataclass(frozen=True)
class Difference:
    """One paired test. `difference` is first - second with its interval; `p` is two-sided, `corrected` by Holm over findings.

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
    mcnemar: float | None = None
    only_first: int = 0
    only_second: int = 0
    odds_ratio: float | None = None

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class ComparisonSettings:
    """Hits are compared at `iou` under each geometry and rule that both evaluations have."""

    iou: tuple[float, ...] = (0.1, 0.3, 0.5)
    strict: bool = False
    draws: int = 10_000
    resampling: Resampling = field(default_factory=Resampling)


def compare(first: Cases, second: Cases, how: ComparisonSettings | None = None) -> list[Difference]:
    """DeLong for AUC, and for hits McNemar and a permutation by patient; each family of findings is corrected by Holm."""
    how = how or ComparisonSettings()
    if first.ids != second.ids:
        raise BadInput(
            f"{len(first.ids)} and {len(second.ids)} images that are not the same: score both predictions on the same part"
        )
    found = _ranked(first.images, second.images, how)
    for key in first.hits:
        if key in second.hits:
            for limit in how.iou:
                found += _met(first, second, key, limit, how)
    return found


def _corrected(family: Sequence[Difference]) -> list[Difference]:
    return [replace(one, corrected=p) for one, p in zip(family, holm([one.p for one in family]), strict=True)]


def _ranked(first: Images, second: Images, how: ComparisonSettings) -> list[Difference]:
    """DeLong for each finding that both score and that has both kinds of label."""
    family = []
    for index, name in enumerate(first.names):
        if name not in second.names:
            continue
        labels = first.labels[:, index]
        test = paired_delong(
            first.scores[:, index], second.scores[:, second.names.index(name)], labels, how.resampling.confidence
        )
        if test is None or math.isnan(test.p):
            continue
        support = int((labels == 1).sum())
        family.append(
            Difference("AUC", name, test.first, test.second, test.difference, test.low, test.high, test.p, 1.0, support)
        )
    return _corrected(family)


def _met(first: Cases, second: Cases, key: tuple[Geometry, Rule], limit: float, how: ComparisonSettings) -> list[Difference]:
    """Hits at one limit under one geometry and rule, for each finding with boxes."""
    one, other = first.hits[key], second.hits[key]
    names, others = first.images.names, second.images.names
    family = []
    for finding in np.unique(one.finding).tolist():
        if names[finding] not in others:
            continue
        here, there = one.finding == finding, other.finding == others.index(names[finding])
        image = one.image[here]
        if not np.array_equal(image, other.image[there]):
            raise BadInput(f"{names[finding]}: the two evaluations hold other boxes; score both with the same truth")
        a, b = met(one.iou[here], limit, strict=how.strict), met(other.iou[there], limit, strict=how.strict)
        patient = first.images.patient[image]
        test = paired_hits(a, b, patient, how.draws, how.resampling.seed)
        change = (a.astype(float) - b.astype(float))[:, None]
        block = Block(np.zeros(len(change), dtype=np.int64), patient, change, [{"measure": ""}])
        score = scores_of(block, [names[finding]], how.resampling)[0]
        family.append(
            Difference(
                "T(IoU)",
                names[finding],
                float(a.mean()),
                float(b.mean()),
                float(change.mean()),
                score.low if score.low is not None else math.nan,
                score.high if score.high is not None else math.nan,
                test.permutation,
                1.0,
                len(change),
                limit,
                *key,
                test.mcnemar,
                test.only_first,
                test.only_second,
                (test.only_first + 0.5) / (test.only_second + 0.5),
            )
        )
    return _corrected(family)
