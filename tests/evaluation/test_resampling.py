from itertools import product

import numpy as np
import pytest
from scipy.stats import binomtest

from chestmap.evaluation.statistics.resampling import (
    by_patient,
    holm,
    mcnemar,
    paired_hits,
    patient_weights,
)


def test_each_resample_draws_as_many_patients_as_there_are() -> None:
    weights = patient_weights(30, 50, seed=3)
    assert (weights.sum(axis=1) == 30).all()
    assert weights.mean(axis=0) == pytest.approx(1, abs=0.7)
    assert (weights == patient_weights(30, 50, seed=3)).all()
    assert not (weights == patient_weights(30, 50, seed=4)).all()


def test_sums_by_patient_agree_with_a_loop() -> None:
    rng = np.random.default_rng(0)
    patient, values = rng.integers(0, 6, 25), rng.random((25, 2))
    expected = [[sum(values[row, k] for row in range(25) if patient[row] == p) for k in range(2)] for p in range(7)]
    assert by_patient(values, patient, 7) == pytest.approx(np.array(expected))


@pytest.mark.parametrize(("one", "other"), [(0, 0), (3, 3), (8, 1), (0, 5), (20, 41)])
def test_mcnemar_is_the_two_sided_binomial_test(one: int, other: int) -> None:
    expected = binomtest(min(one, other), one + other, 0.5).pvalue if one + other else 1.0
    assert mcnemar(one, other) == pytest.approx(expected)


def test_patients_are_exchanged_whole() -> None:
    first = np.array([1, 1, 1, 0, 1, 0, 1], dtype=bool)
    second = np.array([0, 0, 0, 1, 0, 0, 1], dtype=bool)
    patient = np.array([0, 0, 1, 1, 2, 3, 3])
    found = paired_hits(first, second, patient, draws=100, seed=0)
    assert (found.only_first, found.only_second) == (4, 1)
    differences = [2, 0, 1]  # by patient; the fourth never differs
    reached = [abs(sum(s * d for s, d in zip(signs, differences, strict=True))) >= 3 for signs in product([1, -1], repeat=3)]
    assert found.permutation == pytest.approx(sum(reached) / len(reached))


def test_many_patients_are_exchanged_at_random() -> None:
    rng = np.random.default_rng(2)
    first, second = rng.random(300) < 0.6, rng.random(300) < 0.4
    found = paired_hits(first, second, np.arange(300), draws=4000, seed=1)
    assert found.mcnemar < 0.01
    assert found.permutation < 0.01
    assert paired_hits(first, first, np.arange(300), draws=10, seed=1).permutation == 1.0


def test_holm_steps_down_and_keeps_the_order() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    corrected = holm([0.5, float("nan"), 0.9])
    assert corrected[0] == 1.0
    assert np.isnan(corrected[1])
