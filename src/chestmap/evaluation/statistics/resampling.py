"""Draws and exchanges the images of one patient together, for intervals and tests.

Patients, not images, are drawn with replacement: images of one patient resemble each other. All draws depend on the seed
alone.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.special import bdtr

EXACT = 14
"""With at most so many patients who differ, all 2^n exchanges are tried; with more, random ones."""

DRAWN = 1_000_000
"""Patients that are drawn in one call, of several resamples; the numbers are those of one call for each."""


def numbered(names: Sequence[Hashable]) -> Int[np.ndarray, "name"]:
    """Patients as numbers from 0, in order of appearance."""
    seen: dict[Hashable, int] = {}
    return np.array([seen.setdefault(name, len(seen)) for name in names], dtype=np.int64)


def patient_weights(num_patients: int, resamples: int, seed: int) -> Int[np.ndarray, "resample patient"]:
    """How often each patient is drawn in each resample, with replacement."""
    rng = np.random.default_rng(seed)
    weights = np.empty((resamples, num_patients), dtype=np.int16)
    some = max(1, DRAWN // max(num_patients, 1))
    for start in range(0, resamples, some):
        rows = weights[start : start + some]
        drawn = rng.integers(0, num_patients, (len(rows), num_patients))
        drawn += np.arange(len(rows))[:, None] * num_patients
        rows[:] = np.bincount(drawn.ravel(), minlength=rows.size).reshape(rows.shape)
    return weights


def by_patient(
    values: Float[np.ndarray, "row column"], patient: Int[np.ndarray, "row"], num_patients: int
) -> Float[np.ndarray, "patient column"]:
    """Sums over each patient's rows: sorted once, then added in one pass."""
    sums = np.zeros((num_patients, values.shape[1]))
    if len(values):
        order = np.argsort(patient, kind="stable")
        ordered = patient[order]
        starts = np.flatnonzero(np.append(True, ordered[1:] != ordered[:-1]))
        sums[ordered[starts]] = np.add.reduceat(values[order], starts, axis=0)
    return sums


EQUAL = 1e-12
"""Sums of weighted changes that differ by less are equal."""


@dataclass(frozen=True)
class PairedHits:
    """Two methods on the same boxes; `only_first` and `only_second` count the boxes that one alone found."""

    only_first: int
    only_second: int
    mcnemar: float
    permutation: float


def paired_hits(
    first: Bool[np.ndarray, "box"], second: Bool[np.ndarray, "box"], patient: Int[np.ndarray, "box"], draws: int, seed: int
) -> PairedHits:
    """Exact McNemar test, and a permutation test that exchanges the two methods for whole patients; both two-sided."""
    only_first, only_second = int((first & ~second).sum()), int((second & ~first).sum())
    return PairedHits(
        only_first,
        only_second,
        mcnemar(only_first, only_second),
        exchanged(first.astype(float) - second, patient, draws, seed),
    )


def mcnemar(only_first: int, only_second: int) -> float:
    """Exact two-sided p: the discordant boxes as tosses of a fair coin."""
    tosses = only_first + only_second
    return min(1.0, 2 * float(bdtr(min(only_first, only_second), tosses, 0.5))) if tosses else 1.0


def exchanged(change: Float[np.ndarray, "row"], patient: Int[np.ndarray, "row"], draws: int, seed: int) -> float:
    """P of the summed change under all, or many random, exchanges of the two methods within patients."""
    differences = np.bincount(patient, weights=change)
    differences = differences[np.abs(differences) > EQUAL]
    if not len(differences):
        return 1.0
    seen = abs(differences.sum()) - EQUAL
    if len(differences) <= EXACT:
        bits = np.arange(2 ** len(differences))[:, None] >> np.arange(len(differences))
        return float((np.abs((1 - 2 * (bits & 1)) @ differences) >= seen).mean())
    signs = np.random.default_rng(seed).integers(0, 2, (draws, len(differences)), dtype=np.int8)
    reached = np.abs((1 - 2 * signs) @ differences) >= seen
    return float((1 + reached.sum()) / (1 + draws))


def holm(p: Sequence[float]) -> list[float]:
    """p-values corrected for their number by Holm's step-down rule, in the order given; NaN stays and does not count."""
    values = np.asarray(p, dtype=np.float64)
    order = [int(index) for index in np.argsort(values) if not np.isnan(values[index])]
    corrected, highest = values.copy(), 0.0
    for rank, index in enumerate(order):
        highest = max(highest, min(1.0, (len(order) - rank) * values[index]))
        corrected[index] = highest
    return corrected.tolist()
