import numpy as np
import pytest
from scipy.stats import binomtest, chi2

from chestmap.evaluation.statistics.intervals import mean_of_means, paired_difference, patient_means, poisson, wilson


@pytest.mark.parametrize(("hits", "of"), [(0, 7), (3, 10), (18, 20), (20, 20)])
def test_wilson_agrees_with_scipy(hits: int, of: int) -> None:
    known = binomtest(hits, of).proportion_ci(0.95, "wilson")
    low, high = wilson(np.array([hits / of]), np.array([of]), 0.95)
    assert (low[0], high[0]) == (pytest.approx(known.low), pytest.approx(known.high))


@pytest.mark.parametrize(("events", "units"), [(0, 12), (5, 20), (90, 30)])
def test_counts_have_the_exact_interval_of_poisson(events: int, units: int) -> None:
    low, high = poisson(np.array([events / units]), np.array([units]), 0.95)
    assert low[0] == pytest.approx(chi2.ppf(0.025, 2 * events) / 2 / units if events else 0)
    assert high[0] == pytest.approx(chi2.ppf(0.975, 2 * events + 2) / 2 / units)


def test_one_box_for_each_patient_is_a_plain_rate() -> None:
    hits = np.zeros((200, 1))
    hits[:60] = 1
    found = patient_means(hits, np.arange(200), 200, 0.95)
    known = binomtest(60, 200).proportion_ci(0.95, "wilson")
    assert (found.low[0], found.high[0]) == (pytest.approx(known.low), pytest.approx(known.high))


def test_boxes_that_repeat_a_patient_count_once() -> None:
    hits = np.repeat(np.array([1.0, 1, 0, 1, 0, 1, 1, 1]), 5)[:, None]
    found = patient_means(hits, np.repeat(np.arange(8), 5), 8, 0.95)
    known = binomtest(6, 8).proportion_ci(0.95, "wilson")
    assert (found.low[0], found.high[0]) == (pytest.approx(known.low), pytest.approx(known.high))


@pytest.mark.parametrize("values", [[1.0], [1.0] * 6, [0.0] * 6, [0.4] * 6, [0.7, 0.7]])
def test_no_interval_has_a_width_of_nothing(values: list[float]) -> None:
    found = patient_means(np.array(values)[:, None], np.arange(len(values)), len(values), 0.95)
    assert found.low[0] <= values[0] <= found.high[0]
    assert found.high[0] - found.low[0] > 0.3
    center, low, high = mean_of_means(
        np.stack([found.value] * 2), (np.stack([found.low] * 2), np.stack([found.high] * 2)), np.stack([found.influence] * 2)
    )
    assert center[0] == pytest.approx(values[0])
    assert high[0] - low[0] > 0.2


def test_a_missing_value_leaves_its_row_out_of_its_column() -> None:
    values = np.array([[1.0, np.nan], [0.0, np.nan], [1.0, 1.0], [np.nan, np.nan]])
    found = patient_means(values, np.arange(4), 4, 0.95)
    assert found.value[0] == pytest.approx(2 / 3)
    assert found.count.tolist() == [3, 1]
    nothing = patient_means(values[3:], np.array([3]), 4, 0.95)
    assert np.isnan([nothing.value[0], nothing.low[0], nothing.high[0]]).all()


def test_the_mean_of_independent_findings_is_surer_and_that_of_the_same_is_not() -> None:
    rng = np.random.default_rng(1)
    hits = (rng.random((400, 1)) < 0.5).astype(float)
    one = patient_means(hits, np.arange(400), 800, 0.95)
    other = patient_means((rng.random((400, 1)) < 0.5).astype(float), np.arange(400, 800), 800, 0.95)
    for second, ratio in ((one, 1.0), (other, 0.5**0.5)):
        parts = one, second
        ends = np.stack([p.low for p in parts]), np.stack([p.high for p in parts])
        _, low, high = mean_of_means(np.stack([p.value for p in parts]), ends, np.stack([p.influence for p in parts]))
        assert (high[0] - low[0]) / (one.high[0] - one.low[0]) == pytest.approx(ratio, abs=0.03)


def test_a_difference_of_hits_keeps_a_width_where_no_box_differs() -> None:
    low, high, _ = paired_difference(np.zeros(10), np.arange(10), 0.95)
    assert low < -0.1 < 0.1 < high
    change = np.array([1.0] * 12 + [-1.0] * 4 + [0.0] * 24)
    low, high, _ = paired_difference(change, np.arange(40), 0.95)  # Bonett and Price by hand: 13 and 5 of 42
    reach = 1.959964 * np.sqrt((18 / 42 - (8 / 42) ** 2) / 42)
    assert (low, high) == (pytest.approx(8 / 42 - reach, abs=0.01), pytest.approx(8 / 42 + reach, abs=0.01))
