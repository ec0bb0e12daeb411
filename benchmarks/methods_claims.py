"""The claims of the papers on what `benchmarks/methods.py` made: each by its paper's own measure first, then by the headline.

A difference counts as seen from three seeds on, by Holm's p over all claims of its measure. What is not seen is either not shown, or
cannot be seen here: where the difference that the paper prints is smaller than what these patients and seeds could tell apart.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from methods_rows import CLAIMS, HEADLINE, Claim, Measure

from chestmap.evaluation.statistics.resampling import holm, patient_weights

if TYPE_CHECKING:
    from methods_report import Made

DRAWS = 5000
SEEDS = 3
"""Fewer show nothing."""

NEEDED = 1.96 + 0.84
"""Standard errors of a difference that is seen at the level of 5 % four times in five."""


class Outcome(NamedTuple):
    difference: float
    low: float
    high: float
    p: float
    each: list[float]  # by seed
    visible: float  # the least difference that these patients and seeds could tell from none

    @property
    def seeds(self) -> int:
        return len(self.each)


def visible(by_patients: float, each: list[float]) -> float:
    """From the standard error over patients, and that over seeds."""
    over_seeds = np.std(each, ddof=1) / np.sqrt(len(each)) if len(each) > 1 else 0.0
    return float(NEEDED * np.hypot(by_patients, over_seeds))


def tested(measure: Measure, first: Made, second: Made) -> Outcome:
    one, other = paired(first, second)
    if measure.what == "AUC":
        change = one.aucs() - other.aucs()
        each = np.subtract(one.by_seed("AUC"), other.by_seed("AUC")).tolist()
        p = min(1.0, 2 * min((change[1:] <= 0).mean(), (change[1:] >= 0).mean()) + 1 / len(change))
        low, high = np.percentile(change[1:], [2.5, 97.5]).tolist()
        return Outcome(float(change[0]), low, high, float(p), each, visible(float(change[1:].std()), each))
    each = [difference(one.only(seed), other.only(seed), measure)[0] for seed in range(len(one.seeds))]
    value, low, high, p = difference(one, other, measure)
    return Outcome(value, low, high, p, each, visible((high - low) / (2 * 1.96), each))


def difference(first: Made, second: Made, measure: Measure) -> tuple[float, float, float, float]:
    """Difference of the rates, its interval, and p of exchanging the rows for whole patients; of the seeds that both have."""
    (one, pairs, _), (other, others, _) = (made.hits(measure) for made in (first, second))
    if not np.array_equal(pairs, others):
        raise ValueError(f"{first.row.title}, {second.row.title}: other pairs")
    drawn = patient_weights(len(pairs), DRAWS, 0)
    spread = rate(one, pairs, drawn) - rate(other, pairs, drawn)
    shares = ((one - other) / pairs.sum(0)).mean(1)
    signs = np.random.default_rng(0).choice([-1.0, 1.0], (DRAWS, len(shares)))
    reached = np.abs(signs @ shares) >= abs(shares.sum()) - 1e-12
    low, high = np.percentile(spread, [2.5, 97.5]).tolist()
    return float(shares.sum()), low, high, float((reached.sum() + 1) / (DRAWS + 1))


def rate(hits: np.ndarray, pairs: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Mean over findings of the share of pairs met, under each row of weights over patients."""
    with np.errstate(invalid="ignore"):
        return np.nanmean((weights @ hits) / (weights @ pairs), axis=1)


def paired(first: Made, second: Made) -> tuple[Made, Made]:
    """Both with the seeds that both have."""
    seeds = [seed for seed in first.seeds if seed in second.seeds]
    return first.of([first.seeds.index(seed) for seed in seeds]), second.of([second.seeds.index(seed) for seed in seeds])


def claims_of(made: dict[str, Made]) -> str:
    known = [claim for claim in CLAIMS if claim.better in made and claim.worse in made]
    own = verdicts(known, [tested(claim.measure, made[claim.better], made[claim.worse]) for claim in known])
    headline = verdicts(known, [
        tested(replace(HEADLINE, finding=claim.measure.finding), made[claim.better], made[claim.worse])
        if claim.measure.what != "AUC" else None for claim in known
    ])  # fmt: skip
    heads = [
        "paper",
        "claim",
        "its measure",
        "printed",
        "here",
        "each seed",
        "visible from",
        "p, Holm",
        "verdict",
        f"by {HEADLINE}",
    ]
    lines = ["| " + " | ".join(heads) + " |", "|" + "---|" * len(heads)]
    for claim, (test, p, said), (other, _, also) in zip(known, own, headline, strict=True):
        assert test is not None
        printed = "" if claim.printed is None else f"{claim.printed:+.3f}"
        cells = [
            claim.paper, claim.text, str(claim.measure), printed, _spread(test), " ".join(f"{one:+.3f}" for one in test.each),
            f"{test.visible:.3f}", f"{p:.3f}", said, f"{_spread(other)}: {also}" if other else "",
        ]  # fmt: skip
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _spread(test: Outcome) -> str:
    return f"{test.difference:+.3f} [{test.low:+.3f}, {test.high:+.3f}]"


def verdicts(claims: list[Claim], tests: list[Outcome | None]) -> list[tuple[Outcome | None, float, str]]:
    """Each test with its p by Holm over all of them, and what it comes to."""
    there = [index for index, test in enumerate(tests) if test is not None]
    corrected = dict(zip(there, holm([test.p for test in tests if test is not None]), strict=True))
    return [
        (test, corrected.get(index, float("nan")), verdict(test, corrected[index], claim.printed) if test else "")
        for index, (claim, test) in enumerate(zip(claims, tests, strict=True))
    ]


def verdict(test: Outcome, p: float, printed: float | None) -> str:
    if p < 0.05 and test.seeds >= SEEDS:
        return "holds" if test.difference > 0 else "the opposite holds"
    if p < 0.05:
        return f"{test.seeds} seed{'s' if test.seeds > 1 else ''}: goes {'this' if test.difference > 0 else 'the other'} way"
    if printed is not None and printed < test.visible:
        return "cannot be seen here"
    return "not shown"
