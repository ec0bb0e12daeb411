from itertools import product

import numpy as np
import pytest
from scipy.stats import binomtest

from chestmap.evaluation.resampling import (
    holm,
    interval,
    mcnemar,
    numbered,
    paired_hits,
    patient_weights,
    resampled_rates,
)


def test_each_resample_draws_as_many_patients_as_there_are() -> None:
    weights = patient_weights(30, 50, seed=3)
    assert (weights.sum(axis=1) == 30).all()
    assert weights.mean(axis=0) == pytest.approx(1, abs=0.7)
    assert (weights == patient_weights(30, 50, seed=3)).all()
    assert not (weights == patient_weights(30, 50, seed=4)).all()


def test_rates_equal_repeating_the_rows_of_each_drawn_patient() -> None:
    rng = np.random.default_rng(0)
    patient = numbered([f"p{n // 2}" for n in range(20)])
    hits = rng.integers(0, 2, (20, 3)).astype(float)
    hits[4, 1] = np.nan
    weights = patient_weights(10, 40, seed=0)
    rates = resampled_rates(hits, patient, weights)
    for row in (0, 39):
        rows = np.repeat(np.arange(20), weights[row][patient])
        assert rates[row] == pytest.approx(np.nanmean(hits[rows], axis=0))
    units = np.full((20, 3), 2.0)
    assert resampled_rates(hits, patient, weights, units)[0, 0] == pytest.approx(rates[0, 0] / 2)


def test_the_interval_of_a_rate_comes_near_the_binomial_one_when_each_patient_has_one_box() -> None:
    hits = np.zeros((200, 1))
    hits[:60] = 1
    low, high = interval(resampled_rates(hits, np.arange(200), patient_weights(200, 2000, seed=5)), 0.95)
    spread = 1.96 * np.sqrt(0.3 * 0.7 / 200)
    assert (low[0], high[0]) == (pytest.approx(0.3 - spread, abs=0.012), pytest.approx(0.3 + spread, abs=0.012))


def test_a_column_without_a_value_has_no_interval() -> None:
    low, high = interval(np.array([[0.1, np.nan], [0.3, np.nan]]), 0.95)
    assert low[0] < high[0]
    assert np.isnan([low[1], high[1]]).all()


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
