"""Simulated coverage of the intervals and rejections of the tests, as benchmarks/coverage.md has them for more cells."""

import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest

from chestmap.evaluation.statistics.intervals import mean_of_means, patient_means

PLACE = Path(__file__).parents[2] / "benchmarks" / "coverage.py"
NOISE = 0.02
"""Of a share near .95 over 400 draws: two standard errors."""


@pytest.fixture(scope="module")
def coverage():
    spec = importlib.util.spec_from_file_location("coverage_simulated", PLACE)
    module = importlib.util.module_from_spec(spec)
    sys.modules["coverage_simulated"] = module  # where dataclasses look up annotations
    spec.loader.exec_module(module)
    yield module
    del sys.modules["coverage_simulated"]


@pytest.mark.slow
@pytest.mark.parametrize("patients", [5, 20, 100])
def test_intervals_cover_and_tests_reject_as_they_say(coverage, patients) -> None:
    for cell in coverage.simulated(400, (patients,)):
        if cell.measure.startswith("test"):
            assert cell.share <= 0.06 + NOISE, cell
        else:
            assert cell.share >= 0.93 - NOISE, cell


def test_delong_covers_too_little_where_patients_have_habits_and_the_clustered_interval_does_not(coverage) -> None:
    from chestmap.evaluation.statistics.auc import delong
    from chestmap.evaluation.statistics.auc_by_patient import clustered

    rng, plain, ours, found = np.random.default_rng(0), [], [], []
    for _ in range(120):
        patient = np.repeat(np.arange(60), 10)
        labels = np.zeros(600)
        labels[rng.random(60).repeat(10) < 0.4] = 1
        scores = coverage.noise(rng, patient, 0.3) + labels
        one, other = clustered(scores, labels, patient).auc, delong(scores, labels)
        found.append(one.value)
        ours.append(one.interval())
        plain.append(other.interval(how="delong"))
    truth = np.mean(found)
    share = {
        name: np.mean([low <= truth <= high for low, high in ends]) for name, ends in (("delong", plain), ("ours", ours))
    }
    assert share["delong"] < 0.85
    assert share["ours"] > 0.9


@pytest.mark.parametrize("rate", [0.1, 0.9])
def test_the_mean_of_eight_rates_of_five_patients_is_covered(coverage, rate) -> None:
    """MOVER alone covered .904 and .914 of 500 draws: parts of 0 or 1 reach nowhere on the side that they touch."""
    rng, inside = np.random.default_rng([5, round(100 * rate)]), []
    for _ in range(300):
        parts = []
        for _ in range(8):
            some = coverage.people(rng, 5, 1.3)
            parts.append(patient_means(coverage.hits(rng, some, 0.3, rate)[:, None], some, 5, 0.95))
        value, low, high, errors = (
            np.stack([getattr(one, key) for one in parts]) for key in ("value", "low", "high", "influence")
        )
        _, below, above = mean_of_means(value, (low, high), errors)
        inside.append(below[0] <= rate <= above[0])
    assert np.mean(inside) >= 0.93
