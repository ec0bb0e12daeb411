"""Tests AUC with the patient as the unit, since images of one patient vary together. DeLong's test is the alternative.

Scores and labels are arrays over images, `patient` their patients as numbers. A finding with one kind of label has no AUC.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.special import ndtr, stdtr, stdtrit

from chestmap.evaluation.statistics.auc import Auc, Labels, Placements, Scores, known_pairs, placements, variance
from chestmap.evaluation.statistics.intervals import PRIOR, quantile


@dataclass(frozen=True, eq=False)
class ByPatient:
    """Errors of an AUC added up by patient (Obuchowski 1997): of its positives and of its negatives, [patient]."""

    positive: Float[np.ndarray, "patient"]
    negative: Float[np.ndarray, "patient"]
    patients: tuple[int, int, int]  # with a positive, with a negative, with any
    least: float

    @property
    def influence(self) -> Float[np.ndarray, "patient"]:
        """How much each patient moves the AUC; its spread gives the variance."""
        return self.positive + self.negative

    def minus(self, other: ByPatient) -> ByPatient:
        """Errors of the difference of two AUCs on the same images."""
        return replace(self, positive=self.positive - other.positive, negative=self.negative - other.negative)

    @property
    def variance(self) -> float:
        """NaN where only one patient has a positive, or a negative."""
        one, other = (self._scaled(part, count) for part, count in zip(self._parts, self.patients, strict=False))
        both = 2 * float(self.positive @ self.negative) * self.patients[2] / max(self.patients[2] - 1, 1)
        return max(one + other + both, (one + other) / 4)

    @property
    def freedom(self) -> float:
        """Satterthwaite's degrees of freedom; 0 where nothing varies or one patient has all of a kind."""
        parts = [self._scaled(part, count) for part, count in zip(self._parts, self.patients, strict=False)]
        below = sum(part**2 / max(count - 1, 1) for part, count in zip(parts, self.patients, strict=False))
        return sum(parts) ** 2 / below if below > 0 else 0.0

    @property
    def _parts(self) -> tuple[np.ndarray, np.ndarray]:
        return self.positive, self.negative

    @staticmethod
    def _scaled(part: np.ndarray, count: int) -> float:
        return float(part @ part) * count / (count - 1) if count > 1 else math.nan


def by_patient(
    placed: Placements, present: Bool[np.ndarray, "known_pairs"], patient: Int[np.ndarray, "known_pairs"]
) -> ByPatient:
    """`patient` are numbers from 0; those without a known label have no part."""
    total, auc = int(patient.max()) + 1, float(placed.positive.mean())
    which = patient[present], patient[~present]
    count = [np.bincount(one, minlength=total) for one in which]
    errors = [
        np.bincount(one, values - auc, minlength=total) / len(values)
        for one, values in zip(which, (placed.positive, placed.negative), strict=True)
    ]
    patients = int((count[0] > 0).sum()), int((count[1] > 0).sum()), int((count[0] + count[1] > 0).sum())
    least = min(float(one.sum() ** 2 / (one.astype(float) ** 2).sum()) for one in count)
    return ByPatient(errors[0], errors[1], patients, least)


@dataclass(frozen=True, eq=False)
class PatientAuc:
    """An AUC with its errors by patient."""

    auc: Auc
    errors: ByPatient


def clustered(scores: Scores, labels: Labels, patient: Int[np.ndarray, "image"]) -> PatientAuc | None:
    """AUC with the variance of Obuchowski (1997), in which images of one patient vary together; None with one kind of label."""
    values, present = known_pairs(scores, labels)
    placed = placements(values, present)
    if placed is None:
        return None
    errors, plain = by_patient(placed, present, patient[~np.isnan(labels)]), placed.auc
    auc = Auc(
        value=plain.value,
        variance=errors.variance,
        positives=plain.positives,
        negatives=plain.negatives,
        freedom=_finite(errors.freedom),
        least=errors.least,
    )
    return PatientAuc(auc, errors)


def _finite(freedom: float) -> float:
    return 0.0 if math.isnan(freedom) else freedom


@dataclass(frozen=True, kw_only=True)
class PairedAuc:
    """Two scores on the same images; `p` is two-sided. `variance` is that of the difference, with `freedom`."""

    first: float
    second: float
    difference: float
    low: float
    high: float
    p: float
    variance: float = 0.0
    freedom: float = math.inf


def paired_delong(
    first: Float[np.ndarray, "image"], second: Float[np.ndarray, "image"], labels: Labels, confidence: float = 0.95
) -> PairedAuc | None:
    """DeLong's test for two correlated AUCs, which takes images as independent; difference = first - second."""
    one, other = placements(*known_pairs(first, labels)), placements(*known_pairs(second, labels))
    if one is None or other is None:
        return None
    difference = one.auc.value - other.auc.value
    spread = math.sqrt(variance(one.positive - other.positive) + variance(one.negative - other.negative))
    reach = quantile(confidence) * spread
    p = (1.0 if difference == 0 else 0.0) if spread == 0 else float(2 * ndtr(-abs(difference) / spread))
    return PairedAuc(
        first=one.auc.value,
        second=other.auc.value,
        difference=difference,
        low=difference - reach,
        high=difference + reach,
        p=p,
        variance=spread**2,
    )


def paired_by_patient(first: PatientAuc, second: PatientAuc, confidence: float = 0.95) -> PairedAuc:
    """The test with the clustered variance, by Student's t; the same scores differ by nothing, surely."""
    one, other, errors = first.auc, second.auc, first.errors.minus(second.errors)
    difference = one.value - other.value
    if not (errors.influence**2).sum() and not difference:
        return PairedAuc(first=one.value, second=other.value, difference=0.0, low=0.0, high=0.0, p=1.0)
    freedom = _finite(errors.freedom)
    trust = freedom / (freedom + PRIOR)
    most = (one.value * (1 - one.value) + other.value * (1 - other.value)) / errors.least
    variance = (trust * errors.variance if trust else 0.0) + (1 - trust) * most
    if not variance:  # both order all images, one of them the wrong way round
        return PairedAuc(
            first=one.value, second=other.value, difference=difference, low=-1.0, high=1.0, p=min(1.0, 2 * 0.5**errors.least)
        )
    spread, freedom = math.sqrt(variance), freedom + PRIOR + 1
    reach = float(stdtrit(freedom, 0.5 + confidence / 2)) * spread
    p = float(2 * stdtr(freedom, -abs(difference) / spread))
    low, high = max(-1.0, difference - reach), min(1.0, difference + reach)
    return PairedAuc(
        first=one.value,
        second=other.value,
        difference=difference,
        low=low,
        high=high,
        p=p,
        variance=variance,
        freedom=freedom,
    )


def mean_of_paired(
    tests: Sequence[PairedAuc], errors: Float[np.ndarray, "test patient"], confidence: float = 0.95
) -> PairedAuc:
    """The difference of two mean AUCs over findings; `errors` are those of each difference, which correlate over patients."""
    first, second = (float(np.mean([getattr(one, key) for one in tests])) for key in ("first", "second"))
    spread = np.sqrt([one.variance for one in tests])
    scale = np.sqrt((errors**2).sum(axis=1))
    unit = errors / np.where(scale > 0, scale, 1.0)[:, None]
    related = unit @ unit.T
    np.fill_diagonal(related, 1.0)
    variance = max(float(spread @ related @ spread), 0.0) / len(tests) ** 2
    below = sum(one.variance**2 / one.freedom for one in tests)
    freedom = float((spread**2).sum() ** 2 / below) if below > 0 else math.inf
    difference = first - second
    if not variance:
        return PairedAuc(first=first, second=second, difference=difference, low=difference, high=difference, p=1.0)
    p, reach = float(2 * _student(freedom, -abs(difference) / math.sqrt(variance))), quantile(confidence)
    reach = reach if math.isinf(freedom) else float(stdtrit(freedom, 0.5 + confidence / 2))
    reach *= math.sqrt(variance)
    return PairedAuc(
        first=first,
        second=second,
        difference=difference,
        low=difference - reach,
        high=difference + reach,
        p=p,
        variance=variance,
        freedom=freedom,
    )


def _student(freedom: float, value: float) -> float:
    """Student's distribution, which is normal at infinite freedom."""
    return float(ndtr(value)) if math.isinf(freedom) else float(stdtr(freedom, value))
