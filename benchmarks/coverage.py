"""Simulated coverage of the 95 % intervals, and how often the tests of `compare` reject a true null.

python benchmarks/coverage.py [--draws 400] > table.md

Patients have several images. `correlation` is the share of a score's noise that is a habit of the patient: the same in all
images of that patient. `rate` is the prevalence for AUC, and the share of boxes met, or the mean IoU, for the others. The truth
of an AUC is the mean over the draws, since a pair of images of one patient counts in it, too.
"""

import argparse
import platform
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from scipy.special import ndtr, ndtri

from chestmap.evaluation.statistics.auc_by_patient import clustered, paired_by_patient, paired_delong
from chestmap.evaluation.statistics.intervals import mean_of_means, paired_difference, patient_means
from chestmap.evaluation.statistics.resampling import exchanged

PATIENTS, CORRELATIONS = (5, 20, 100, 600, 2800), (0.0, 0.1, 0.3)
PREVALENCES, RATES = (0.05, 0.3), (0.1, 0.5, 0.9)
AUCS = (0.75, 0.95)


@dataclass(frozen=True)
class Cell:
    """One line of the table; `share` is the coverage of intervals, or the rejections of a test."""

    measure: str
    patients: int
    correlation: float
    rate: float
    share: float
    draws: int
    delong: float | None = None


def people(rng: np.random.Generator, patients: int, mean: float) -> np.ndarray:
    """The patient of each image: one image or more, geometric, at most 40."""
    return np.repeat(np.arange(patients), np.minimum(rng.geometric(1 / mean, patients), 40))


def noise(rng: np.random.Generator, patient: np.ndarray, correlation: float) -> np.ndarray:
    habit = rng.standard_normal(int(patient.max()) + 1) * np.sqrt(correlation)
    return habit[patient] + rng.standard_normal(len(patient)) * np.sqrt(1 - correlation)


def labelled(rng: np.random.Generator, patient: np.ndarray, prevalence: float) -> np.ndarray:
    """A finding comes back in the images of a patient: each has a chance of one's own."""
    chance = rng.beta(2 * prevalence, 2 * (1 - prevalence), int(patient.max()) + 1)
    return (rng.random(len(patient)) < chance[patient]).astype(np.float64)


def auc(rng: np.random.Generator, patients: int, correlation: float, prevalence: float, value: float, draws: int) -> Cell:
    low, high, found = [], [], []
    for _ in range(draws):
        patient = people(rng, patients, 4.0)
        labels = labelled(rng, patient, prevalence)
        one = clustered(noise(rng, patient, correlation) + labels * np.sqrt(2) * ndtri(value), labels, patient)
        if one is None or labels.sum() < 2 or (1 - labels).sum() < 2:
            continue
        found.append(one.auc.value)
        ends = one.auc.interval()
        low.append(ends[0])
        high.append(ends[1])
    truth = float(np.mean(found))
    covered = float(np.mean((np.array(low) <= truth) & (truth <= np.array(high))))
    return Cell(f"AUC {value:g}", patients, correlation, prevalence, covered, len(found))


def auc_test(rng: np.random.Generator, patients: int, correlation: float, prevalence: float, draws: int) -> Cell:
    """Two models that are equally good, with habits of their own and half of the rest in common."""
    ours, theirs = [], []
    for _ in range(draws):
        patient = people(rng, patients, 4.0)
        labels = labelled(rng, patient, prevalence)
        if not 1 < labels.sum() < len(labels) - 1:
            continue
        shared = rng.standard_normal(len(patient))
        scores = [(noise(rng, patient, correlation) + shared) / np.sqrt(2) + labels for _ in range(2)]
        one, other = (clustered(score, labels, patient) for score in scores)
        plain = paired_delong(*scores, labels)
        if one is None or other is None or plain is None:
            continue
        ours.append(paired_by_patient(one, other).p < 0.05)
        theirs.append(plain.p < 0.05)
    return Cell("test of AUC", patients, correlation, prevalence, float(np.mean(ours)), len(ours), float(np.mean(theirs)))


def hits(rng: np.random.Generator, patient: np.ndarray, correlation: float, rate: float) -> np.ndarray:
    return (noise(rng, patient, correlation) < ndtri(rate)).astype(np.float64)


def rates(rng: np.random.Generator, patients: int, correlation: float, rate: float, draws: int) -> Iterator[Cell]:
    """T(IoU) of one finding, a mean IoU, the mean of eight findings, and the test and interval of a difference."""
    covered: dict[str, list[bool]] = {
        "rate": [],
        "mean IoU": [],
        "mean of 8 rates": [],
        "difference": [],
        "test of hits": [],
    }
    mean = float(ndtr(ndtri(rate) / np.sqrt(2)))
    for draw in range(draws):
        patient = people(rng, patients, 1.3)
        first, second = (hits(rng, patient, correlation, rate) for _ in range(2))
        overlap = ndtr(noise(rng, patient, correlation) + ndtri(rate))
        found = patient_means(np.stack([first, overlap], axis=1), patient, patients, 0.95)
        covered["rate"].append(bool(found.low[0] <= rate <= found.high[0]))
        covered["mean IoU"].append(bool(found.low[1] <= mean <= found.high[1]))
        low, high, _ = paired_difference(first - second, patient, 0.95)
        covered["difference"].append(low <= 0 <= high)
        covered["test of hits"].append(exchanged(first - second, patient, 400, draw) < 0.05)
        parts = []
        for _ in range(8):
            some = people(rng, patients, 1.3)
            parts.append(patient_means(hits(rng, some, correlation, rate)[:, None], some, patients, 0.95))
        value, below, above, errors = (
            np.stack([getattr(p, k) for p in parts]) for k in ("value", "low", "high", "influence")
        )
        _, low, high = mean_of_means(value, (below, above), errors)
        covered["mean of 8 rates"].append(bool(low[0] <= rate <= high[0]))
    for measure, inside in covered.items():
        yield Cell(measure, patients, correlation, rate, float(np.mean(inside)), draws)


def simulated(
    draws: int, patients: tuple[int, ...] = PATIENTS, correlations: tuple[float, ...] = CORRELATIONS
) -> Iterator[Cell]:
    """Each number of patients and each correlation has a stream of its own, so that parts of the table can be made alone."""
    for number in patients:
        few = max(draws // 4, 50) if number > 1000 else draws
        for correlation in correlations:
            rng = np.random.default_rng([number, round(100 * correlation)])
            for prevalence in PREVALENCES:
                for value in AUCS:
                    yield auc(rng, number, correlation, prevalence, value, few)
                yield auc_test(rng, number, correlation, prevalence, few)
            for rate in RATES:
                yield from rates(rng, number, correlation, rate, few)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--draws", type=int, default=400)
    parser.add_argument("--patients", type=int, nargs="+", default=PATIENTS)
    parser.add_argument("--correlations", type=float, nargs="+", default=CORRELATIONS)
    chosen = parser.parse_args()
    draws = chosen.draws
    print(f"{draws} draws a cell, a quarter of them at 2,800 patients; {platform.machine()}, numpy {np.__version__}\n")
    print("| measure | patients | correlation | rate | covered or rejected | draws | DeLong's test |")
    print("| --- | ---: | ---: | ---: | ---: | ---: | ---: |")
    for one in simulated(draws, tuple(chosen.patients), tuple(chosen.correlations)):
        plain = "" if one.delong is None else f"{one.delong:.3f}"
        figures = f"{one.patients} | {one.correlation:g} | {one.rate:g} | {one.share:.3f} | {one.draws} | {plain}"
        print(f"| {one.measure} | {figures} |", flush=True)


if __name__ == "__main__":
    main()
