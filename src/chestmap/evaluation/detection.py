"""Counts false positives, and scores without a threshold: AFP, FROC, the pointing game, MaxBoxAccV2 and PxAP.

False positives are counted only where the finding is labelled absent: an image that is labelled positive but was never boxed
(721 findings of the 880 boxed ChestX-ray14 images) would punish a true find. A detection's confidence is the image's score times
the mean of the map within its box.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from chestmap.evaluation.maps.map_overlap import OWN
from chestmap.evaluation.maps.passes import AbsentPairs, Thresholds
from chestmap.evaluation.maps.thresholds import Rule, overlap, searched, thresholds_of
from chestmap.evaluation.measure import Measure
from chestmap.evaluation.rates import Localization
from chestmap.evaluation.score_columns import Block, Resampling, Sums, scores_of, scores_of_sums
from chestmap.evaluation.scores import Curve, Score, thinned

FALSE_POSITIVES = (0.125, 0.25, 0.5, 1.0, 2.0, 4.0)
"""Per image without the finding, at which FROC is read."""

MAX_BOX_ACC = (0.3, 0.5, 0.7)


def cuts(loc: Localization, rules: Sequence[Rule]) -> Thresholds:
    """The thresholds of these rules for regions, for `look_at_absent`."""
    levels = thresholds_of("any", loc.own)
    tables = [levels[chosen.by_fold[chosen.fold]] for chosen in (loc.columns["any", rule] for rule in rules)]
    return lambda image, finding: tuple(float(table[image, finding]) for table in tables)


def afp_rows(loc: Localization, absent: AbsentPairs, rules: Sequence[Rule], how: Resampling) -> list[Score]:
    """Regions for each image where the finding is labelled absent, whatever the image's score; "gated AFP" counts none where the
    score is below the operating point that validation chose.
    """
    thresholds = [loc.columns["any", rule].typical(thresholds_of("any", loc.own)) for rule in rules]
    heads = [{"measure": Measure.AFP, "geometry": "any", "rule": rule} for rule in rules]
    values = absent.counts
    if loc.gates is not None:
        gate = loc.gates[absent.finding]
        called = np.where(np.isnan(gate), np.nan, absent.score >= gate)
        values = np.concatenate([values, values * called[:, None]], axis=1)
        heads += [head | {"measure": Measure.GATED_AFP} for head in heads]
        thresholds += thresholds
    block = Block(
        finding=absent.finding,
        patient=loc.patient[absent.image],
        values=values,
        heads=heads,
        unit="images",
        thresholds=np.stack(thresholds, axis=1),
    )
    return scores_of(block, loc.names, how)


def froc_rows(loc: Localization, absent: AbsentPairs, rule: Rule, how: Resampling) -> tuple[list[Score], list[Curve]]:
    """Share of true boxes met by a detection at so many false positives per image without the finding.

    Detections are the regions at the rule's threshold, at which `absent` was looked at last; `Pass.met` decides which IoU meets a
    box. Intervals hold the confidence cut fixed.
    """
    pairs = loc.pairs
    pair = pairs.box_pair
    values, curves = np.full((len(pair), len(FALSE_POSITIVES)), np.nan), []
    column = loc.columns["any", rule].at(pairs.image[pair], pairs.finding[pair])
    met_with = pairs.found[np.arange(len(pair)), column]
    met = np.isfinite(met_with)
    confidence = np.where(met, np.where(met, met_with, 0.0) * pairs.score[pair], -np.inf)
    false_confidence = absent.confidence * absent.score[absent.region_row]
    for finding in np.unique(pairs.finding).tolist():
        images, here = int((absent.finding == finding).sum()), pairs.finding[pair] == finding
        if not images:
            continue
        found = confidence[here]
        false = np.sort(false_confidence[absent.finding[absent.region_row] == finding])[::-1]
        values[here] = found[:, None] > np.array([_cut(false, allowed * images) for allowed in FALSE_POSITIVES])
        rate = np.concatenate([np.arange(len(false) + 1), [len(false)]]) / images
        share = (found[:, None] > np.concatenate([[np.inf], false, [-np.inf]])).mean(axis=0)
        x, y = thinned(rate, share)
        curves.append(Curve(kind="froc", finding=loc.names[finding], x=x, y=y, rule=rule, geometry="any"))
    heads = [{"measure": Measure.FROC, "geometry": "any", "rule": rule, "at": allowed} for allowed in FALSE_POSITIVES]
    block = Block(finding=pairs.finding[pair], patient=loc.pair_patient("each"), values=values, heads=heads, unit="boxes")
    return scores_of(block, loc.names, how), curves


def _cut(false: Float[np.ndarray, "region"], allowed: float) -> float:
    """The confidence that leaves at most so many false positives above it; `false` falls."""
    count = int(allowed + 1e-9)
    return float(false[count]) if count < len(false) else -np.inf


def pointing_rows(loc: Localization, how: Resampling) -> list[Score]:
    """The pointing game: the map's highest pixel (the first in reading order) lies in a box of the finding, no tolerance."""
    pairs = loc.pairs
    block = Block(
        finding=pairs.finding,
        patient=loc.pair_patient(),
        values=pairs.pointed[:, None],
        heads=[{"measure": Measure.POINTING_GAME}],
    )
    return scores_of(block, loc.names, how)


def searched_rows(loc: Localization, how: Resampling) -> list[Score]:
    """MaxBoxAccV2 (any region, best threshold for each IoU of .3 .5 .7, their mean) and PxAP, on image pixels, by finding.

    Both search or sum over thresholds on the test boxes, so they are upper bounds of a sort; each resample searches again.
    """
    pairs = loc.pairs
    hits = np.stack([overlap(pairs, "any", "IoU")[:, searched("any")] >= limit for limit in MAX_BOX_ACC], axis=1)
    heads = [
        {"measure": Measure.MAX_BOX_ACC_V2, "geometry": "any", "rule": "oracle"},
        {"measure": Measure.PXAP, "geometry": "mask"},
    ]
    columns = np.concatenate(
        [hits.reshape(len(pairs), -1), pairs.area[:, OWN + 1 :], pairs.inside[:, OWN + 1 :], np.ones((len(pairs), 1))],
        axis=1,
    ).astype(np.float64)
    split = np.cumsum([hits.shape[1] * hits.shape[2], pairs.area.shape[1] - 1, pairs.inside.shape[1] - 1])

    def measures(sums: np.ndarray) -> np.ndarray:
        met, area, inside, count = np.split(sums, split, axis=-1)
        with np.errstate(invalid="ignore"):
            best = (met / count).reshape(*met.shape[:-1], len(MAX_BOX_ACC), -1).max(axis=-1).mean(axis=-1)
        return np.stack([best, pixel_ap(area, inside)], axis=-1)

    return scores_of_sums(Sums(pairs.finding, loc.pair_patient(), columns, measures), heads, loc.names, how)


def pixel_ap(area: Float[np.ndarray, "... level"], inside: Float[np.ndarray, "... level"]) -> Float[np.ndarray, "..."]:
    """Average precision of pixels from counts at rising levels: precision times the step in recall, from the highest level down."""
    with np.errstate(invalid="ignore", divide="ignore"):
        recall = inside[..., ::-1] / inside[..., :1]
        precision = np.where(area > 0, inside / area, 0.0)[..., ::-1]
    steps = np.diff(recall, axis=-1, prepend=0.0)
    return np.asarray((steps * precision).sum(axis=-1))
