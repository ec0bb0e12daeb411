"""Computes intervals that respect the patient and never have a width of nothing.

Every bounded measure uses Wilson's interval with an effective number of tosses: the coin tosses that vary as much as the measure
does over patients. With few patients the variance is itself uncertain. It is then averaged with the most that a measure in [0, 1]
can vary, and Student's t replaces the normal quantile. `benchmarks/coverage.md` holds the simulated coverage.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.special import gammaincinv, ndtr, ndtri, stdtrit

from chestmap.evaluation.statistics.resampling import by_patient

PRIOR = 1.0
"""Degrees of freedom that the greatest possible variance weighs against the estimated one."""

NORMAL = 1.96
"""The quantile by which two distances to ends are turned into tosses and back; any serves."""

SHRINK = 10.0
"""Patients that would have to agree before half of a correlation between two findings is believed."""

Ends = tuple[np.ndarray, np.ndarray]


def quantile(confidence: float) -> float:
    """1.96 for 95 %."""
    return float(ndtri(0.5 + confidence / 2))


def wilson(value: np.ndarray, tosses: np.ndarray, confidence: float) -> Ends:
    """Ends of Wilson's score interval of a rate over `tosses`, which need not be a whole number."""
    z = quantile(confidence)
    with np.errstate(invalid="ignore", divide="ignore"):
        middle = (value + z**2 / (2 * tosses)) / (1 + z**2 / tosses)
        reach = z / (1 + z**2 / tosses) * np.sqrt(value * (1 - value) / tosses + z**2 / (4 * tosses**2))
    return np.where(value <= 0, 0.0, np.maximum(middle - reach, 0.0)), np.where(
        value >= 1, 1.0, np.minimum(middle + reach, 1.0)
    )


def poisson(value: np.ndarray, units: np.ndarray, confidence: float) -> Ends:
    """Ends of the exact interval of a mean count over `units`, which need not be a whole number."""
    tail, events = (1 - confidence) / 2, value * units
    low = np.where(events > 0, gammaincinv(np.maximum(events, 1e-300), tail), 0.0)
    return low / units, gammaincinv(events + 1, 1 - tail) / units


@dataclass(frozen=True, eq=False)
class Spread:
    """How surely values are known. `variance` is estimated over patients with `freedom` degrees of freedom.

    `least` is the number of patients, or what it is worth where their numbers of rows differ.
    """

    value: np.ndarray
    variance: np.ndarray
    freedom: np.ndarray
    least: np.ndarray

    def bounded(self, confidence: float) -> Ends:
        """For measures in [0, 1]."""
        return wilson(self.value, self._worth(self.value * (1 - self.value), confidence), confidence)

    def counted(self, confidence: float) -> Ends:
        """For means of counts, which have no upper bound."""
        return poisson(self.value, self._worth(self.value, confidence), confidence)

    def any_sign(self, confidence: float) -> Ends:
        """Student's t, for values that may be negative."""
        reach = stdtrit(np.maximum(self.freedom, 1.0), 0.5 + confidence / 2) * np.sqrt(self.variance)
        return self.value - reach, self.value + reach

    def _worth(self, single: np.ndarray, confidence: float) -> np.ndarray:
        """The number of independent draws, each of variance `single`, that are worth as much as the patients."""
        with np.errstate(invalid="ignore", divide="ignore"):
            trust = np.nan_to_num(self.freedom / (self.freedom + PRIOR))
            share = trust * self.variance / single + (1 - trust) / self.least
            share = np.where((self.variance > 0) & (single > 0), share, 1 / self.least)
        student = stdtrit(self.freedom + PRIOR + 1, 0.5 + confidence / 2)
        return np.where(single > 0, (quantile(confidence) / student) ** 2 / share, 1 / share)


@dataclass(frozen=True, eq=False, kw_only=True)
class Means:
    """Means of columns over rows that belong to patients; `influence` is each patient's part in a mean's error."""

    value: Float[np.ndarray, "column"]
    low: Float[np.ndarray, "column"]
    high: Float[np.ndarray, "column"]
    count: Int[np.ndarray, "column"]
    influence: Float[np.ndarray, "patient column"]


def patient_means(
    values: Float[np.ndarray, "row column"], patient: Int[np.ndarray, "row"], num_patients: int, confidence: float
) -> Means:
    """Means with intervals by patient; a NaN value leaves its row out of its column.

    A column of hits (0 or 1) is a rate: its effective tosses lie between its patients and its rows.
    """
    there = ~np.isnan(values)
    filled, counted = np.where(there, values, 0.0), there.astype(np.float64)
    rows = by_patient(counted, patient, num_patients)
    count = rows.sum(axis=0)
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = filled.sum(axis=0) / count
        influence = (by_patient(filled, patient, num_patients) - rows * np.nan_to_num(mean)) / np.maximum(count, 1)
        patients = (rows > 0).sum(axis=0).astype(np.float64)
        least = count**2 / (rows**2).sum(axis=0)
        variance = (influence**2).sum(axis=0) * patients / (patients - 1)
    hits = ((filled == 0) | (filled == 1)).all(axis=0)
    low, high = _ends(Spread(mean, variance, np.maximum(patients - 1, 0.0), least), filled, hits, count, confidence)
    return Means(value=mean, low=low, high=high, count=count.astype(np.int64), influence=influence)


def _ends(
    spread: Spread, filled: np.ndarray, hits: Bool[np.ndarray, "column"], count: np.ndarray, confidence: float
) -> Ends:
    """By the kind of each column: hits, shares in [0, 1], counts, or values of any sign."""
    mean = spread.value
    with np.errstate(invalid="ignore", divide="ignore"):
        tosses = np.where(spread.variance > 0, mean * (1 - mean) / spread.variance, spread.least)
        tosses = np.clip(np.nan_to_num(tosses, nan=1.0), spread.least, np.maximum(count, spread.least))
    low, high = (np.full(len(mean), np.nan) for _ in range(2))
    smallest, greatest = filled.min(axis=0, initial=0.0), filled.max(axis=0, initial=0.0)
    kinds = (
        (hits, lambda: wilson(mean, tosses, confidence)),
        (~hits & (smallest >= 0) & (greatest <= 1), lambda: spread.bounded(confidence)),
        (~hits & (smallest >= 0) & (greatest > 1), lambda: spread.counted(confidence)),
        (~hits & (smallest < 0), lambda: spread.any_sign(confidence)),
    )
    for chosen, ends in kinds:
        if chosen.any():
            found = ends()
            low[chosen], high[chosen] = found[0][chosen], found[1][chosen]
    known = count > 0
    return np.where(known, low, np.nan), np.where(known, high, np.nan)


def mean_of_means(
    value: Float[np.ndarray, "part column"],
    ends: Ends,
    influence: Float[np.ndarray, "part patient column"],
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The mean over parts, and its ends from theirs: the distances to the parts' ends add up as correlated errors do.

    Zou and Donner's method (MOVER); `influence` may also be resamples instead of patients. A part without a value stays out.
    Correlations that few patients suggest are shrunk, and negative ones are not believed: both widen the interval. Means in [0, 1]
    reach at least as far as Wilson's interval of as many tosses: where most parts are 0 or 1, MOVER forgets the side that they touch.
    """
    there = ~np.isnan(value)
    parts = np.where(there.any(axis=0), there.sum(axis=0), np.nan)
    center = np.where(there, value, 0.0).sum(axis=0) / parts
    scale = np.sqrt((influence**2).sum(axis=1))
    unit = influence / np.where(scale > 0, scale, 1.0)[:, None]
    related = np.einsum("fpc,gpc->fgc", unit, unit, optimize=True)
    related = np.maximum(related, 0.0) * influence.shape[1] / (influence.shape[1] + SHRINK)
    related[np.arange(len(value)), np.arange(len(value))] = 1.0
    reach = []
    for end, sign in zip(ends, (-1.0, 1.0), strict=True):
        away = np.where(there & ~np.isnan(end), sign * (end - value), 0.0)
        reach.append(np.sqrt(np.maximum(np.einsum("fc,fgc,gc->c", away, related, away, optimize=True), 0.0)) / parts)
    low, high = center - reach[0], center + reach[1]
    with np.errstate(invalid="ignore", divide="ignore"):
        tosses = center * (1 - center) * NORMAL**2 / (reach[0] * reach[1])
        bounded = np.isfinite(tosses) & (tosses > 0) & (np.nanmin(ends[0], axis=0, initial=1) >= 0)
        bounded &= (low >= 0) & (np.nanmax(ends[1], axis=0, initial=0) <= 1)
    wide = wilson(center, np.where(bounded, tosses, 1.0), 2 * float(ndtr(NORMAL)) - 1)
    return center, np.where(bounded, np.minimum(low, wide[0]), low), np.where(bounded, np.maximum(high, wide[1]), high)


def paired_difference(
    change: Float[np.ndarray, "row"], patient: Int[np.ndarray, "row"], confidence: float
) -> tuple[float, float, Float[np.ndarray, "patient"]]:
    """Ends of the mean of changes of -1, 0 or 1, and its errors by patient.

    Bonett and Price's interval: one more change each way, over rows that are worth as much as the patients.
    """
    found = patient_means(change[:, None], patient, int(patient.max()) + 1, confidence)
    errors, rows = found.influence[:, 0], len(change)
    counts = np.bincount(patient).astype(np.float64)
    least, patients = rows**2 / (counts**2).sum(), int((counts > 0).sum())
    spread, mean = float((errors**2).sum()) * patients / max(patients - 1, 1), float(change.mean())
    plain = float((change**2).mean()) - mean**2
    worth = float(np.clip(plain / spread, least, rows)) if spread > 0 and plain > 0 else least
    up, down = ((float((change * sign > 0).mean()) * worth + 1) / (worth + 2) for sign in (1, -1))
    reach = quantile(confidence) * np.sqrt(max(up + down - (up - down) ** 2, 0.0) / (worth + 2))
    return max(up - down - reach, -1.0), min(up - down + reach, 1.0), errors
