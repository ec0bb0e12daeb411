import math

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, roc_auc_score

from chestmap.errors import BadInput
from chestmap.evaluation.statistics.auc import average_precision, delong, precision_recall, resampled, roc
from chestmap.evaluation.statistics.auc_by_patient import clustered, paired_by_patient, paired_delong
from chestmap.evaluation.statistics.resampling import patient_weights


def made(images: int, seed: int, ties: bool = False, unknown: bool = False):
    rng = np.random.default_rng(seed)
    labels = (rng.random(images) < 0.3).astype(np.float64)
    scores = 1 / (1 + np.exp(-(rng.normal(size=images) + labels)))
    if ties:
        scores = np.round(scores, 1)
    if unknown:
        labels[rng.random(images) < 0.2] = np.nan
    return scores, labels


def slow_delong(scores, labels):
    """O(n²): the kernel of every pair, then DeLong's structural components."""
    positive, negative = scores[labels == 1], scores[labels == 0]
    kernel = [[1.0 if p > n else 0.5 if p == n else 0.0 for n in negative] for p in positive]
    by_positive = [sum(row) / len(negative) for row in kernel]
    by_negative = [sum(row[j] for row in kernel) / len(positive) for j in range(len(negative))]
    auc = sum(by_positive) / len(positive)
    s10 = sum((v - auc) ** 2 for v in by_positive) / (len(positive) - 1)
    s01 = sum((v - auc) ** 2 for v in by_negative) / (len(negative) - 1)
    return auc, s10 / len(positive) + s01 / len(negative), by_positive, by_negative


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_auc_and_average_precision_agree_with_scikit_learn(seed: int, ties: bool) -> None:
    scores, labels = made(400, seed, ties)
    assert delong(scores, labels).value == pytest.approx(roc_auc_score(labels, scores), abs=1e-12)
    assert average_precision(scores, labels) == pytest.approx(average_precision_score(labels, scores), abs=1e-12)


@pytest.mark.parametrize("ties", [False, True])
def test_delong_variance_agrees_with_the_quadratic_definition(ties: bool) -> None:
    scores, labels = made(150, 3, ties, unknown=True)
    auc, variance, *_ = slow_delong(scores, labels)
    found = delong(scores, labels)
    assert (found.value, found.variance) == (pytest.approx(auc, abs=1e-12), pytest.approx(variance, rel=1e-10))
    assert found.positives + found.negatives == (~np.isnan(labels)).sum()


def test_paired_delong_agrees_with_the_quadratic_definition() -> None:
    first, labels = made(150, 4, ties=True)
    second = np.clip(first + np.random.default_rng(5).normal(0, 0.2, 150), 0, 1)
    a, var_a, pos_a, neg_a = slow_delong(first, labels)
    b, var_b, pos_b, neg_b = slow_delong(second, labels)
    shared = sum((x - a) * (y - b) for x, y in zip(pos_a, pos_b, strict=True)) / (len(pos_a) - 1) / len(pos_a)
    shared += sum((x - a) * (y - b) for x, y in zip(neg_a, neg_b, strict=True)) / (len(neg_a) - 1) / len(neg_a)
    z = (a - b) / math.sqrt(var_a + var_b - 2 * shared)
    found = paired_delong(first, second, labels)
    assert found.difference == pytest.approx(a - b, abs=1e-12)
    assert found.p == pytest.approx(math.erfc(abs(z) / math.sqrt(2)), rel=1e-9)
    assert paired_delong(first, first, labels).p == 1.0


def test_the_intervals_agree_with_a_bootstrap() -> None:
    scores, labels = made(400, 6)
    rng = np.random.default_rng(7)
    draws = [rng.integers(0, 400, 400) for _ in range(400)]
    low, high = np.percentile([roc_auc_score(labels[d], scores[d]) for d in draws], [2.5, 97.5])
    for how in ("delong", "logit"):
        assert delong(scores, labels).interval(how=how) == (
            pytest.approx(low, abs=0.012),
            pytest.approx(high, abs=0.012),
        )
    near_one = delong(np.array([0.9, 0.8, 0.4, 0.45, 0.2]), np.array([1.0, 1, 1, 0, 0]))
    assert near_one.interval(how="delong")[1] == 1.0
    assert near_one.interval(how="logit")[1] < 1.0


def test_one_kind_of_label_is_not_a_number_to_report() -> None:
    scores, ones = np.array([0.1, 0.9, 0.5]), np.array([1.0, 1.0, np.nan])
    assert delong(scores, ones) is None
    assert delong(scores, 1 - ones) is None
    assert average_precision(scores, 1 - ones) is None
    assert average_precision(scores, ones) == 1.0
    assert paired_delong(scores, scores, ones) is None
    assert all(len(part) == 0 for part in roc(scores, ones))
    assert delong(scores, np.full(3, np.nan)) is None


def test_a_perfect_order_is_not_sure_and_one_positive_says_little() -> None:
    labels = np.array([0.0, 0, 1, 1])
    assert delong(labels, labels).interval(how="logit") == (1.0, 1.0)
    low, high = clustered(labels, labels, np.arange(4)).auc.interval()
    assert (low < 0.4, high) == (True, 1.0)
    scores, one = np.array([0.1, 0.4, 0.3]), np.array([0.0, 0, 1])
    assert math.isnan(delong(scores, one).variance)
    low, high = clustered(scores, one, np.arange(3)).auc.interval()
    assert low < 0.1 < 0.9 < high


def slow_obuchowski(scores, labels, patient):
    """Obuchowski (1997) in plain loops: sums of the components of each patient."""
    auc, _, by_positive, by_negative = slow_delong(scores, labels)
    positive, negative = patient[labels == 1], patient[labels == 0]
    patients = sorted(set(patient.tolist()))
    x = {p: [v for v, q in zip(by_positive, positive, strict=True) if q == p] for p in patients}
    y = {p: [v for v, q in zip(by_negative, negative, strict=True) if q == p] for p in patients}
    with_positive, with_negative = sum(bool(x[p]) for p in patients), sum(bool(y[p]) for p in patients)
    m, n = len(by_positive), len(by_negative)
    s10 = with_positive / ((with_positive - 1) * m) * sum((sum(x[p]) - len(x[p]) * auc) ** 2 for p in patients)
    s01 = with_negative / ((with_negative - 1) * n) * sum((sum(y[p]) - len(y[p]) * auc) ** 2 for p in patients)
    s11 = sum((sum(x[p]) - len(x[p]) * auc) * (sum(y[p]) - len(y[p]) * auc) for p in patients)
    return s10 / m + s01 / n + 2 * s11 * len(patients) / (len(patients) - 1) / (m * n)


@pytest.mark.parametrize("ties", [False, True])
def test_the_clustered_variance_agrees_with_obuchowski_in_plain_loops(ties: bool) -> None:
    scores, labels = made(200, 11, ties)
    patient = np.random.default_rng(12).integers(0, 40, 200)
    found = clustered(scores, labels, patient)
    assert found.auc.value == pytest.approx(roc_auc_score(labels, scores), abs=1e-12)
    assert found.auc.variance == pytest.approx(slow_obuchowski(scores, labels, patient), rel=1e-10)
    alone = clustered(scores, labels, np.arange(200)).auc.variance
    assert alone == pytest.approx(delong(scores, labels).variance, rel=0.02)


def test_images_of_one_patient_repeated_tell_nothing_new() -> None:
    scores, labels = made(150, 13)
    again, patient = np.tile(scores, 4), np.tile(np.arange(150), 4)
    once, often = clustered(scores, labels, np.arange(150)).auc, clustered(again, np.tile(labels, 4), patient).auc
    assert often.variance == pytest.approx(once.variance, rel=1e-9)
    assert delong(again, np.tile(labels, 4)).variance < once.variance / 3.5


def test_the_test_of_two_scores_uses_the_clustered_variance_of_their_difference() -> None:
    first, labels = made(300, 14)
    second = np.clip(first + np.random.default_rng(15).normal(0, 0.3, 300), 0, 1)
    patient = np.arange(300) // 3
    one, other = clustered(first, labels, patient), clustered(second, labels, patient)
    found = paired_by_patient(one, other)
    errors = one.errors.influence - other.errors.influence
    assert found.difference == pytest.approx(roc_auc_score(labels, first) - roc_auc_score(labels, second))
    assert found.variance == pytest.approx((errors**2).sum(), rel=0.1)
    assert found.low < found.difference < found.high
    assert (paired_by_patient(one, one).p, paired_by_patient(one, one).low) == (1.0, 0.0)


def test_scores_that_are_no_numbers_are_refused_where_the_label_is_known() -> None:
    with pytest.raises(BadInput, match="1 of 2 scores are not finite"):
        delong(np.array([np.nan, 0.5]), np.array([1.0, 0.0]))
    assert delong(np.array([np.nan, 0.5, 0.2]), np.array([np.nan, 1.0, 0.0])).value == 1.0


def test_large_counts_do_not_overflow() -> None:
    rng = np.random.default_rng(8)
    labels = (np.arange(300_000) % 2).astype(np.float64)
    found = delong(rng.random(300_000).astype(np.float32), labels)
    assert found.value == pytest.approx(0.5, abs=0.01)
    assert found.variance == pytest.approx(1 / 12 * 2 / 150_000, rel=0.05)


def test_roc_and_precision_recall_count_ties_together() -> None:
    scores, labels = np.array([0.9, 0.5, 0.5, 0.1]), np.array([1.0, 1, 0, 0])
    false, true, thresholds = roc(scores, labels)
    assert false.tolist() == [0, 0, 0.5, 1]
    assert true.tolist() == [0, 0.5, 1, 1]
    assert thresholds.tolist() == [np.inf, 0.9, 0.5, 0.1]
    recall, precision, _ = precision_recall(scores, labels)
    assert recall.tolist() == [0.5, 1, 1]
    assert precision.tolist() == [1, 2 / 3, 0.5]


@pytest.mark.parametrize("ties", [False, True])
def test_resampling_equals_repeating_the_images_of_each_drawn_patient(ties: bool) -> None:
    scores, labels = made(120, 9, ties, unknown=True)
    patient = np.arange(120) // 3
    weights = patient_weights(40, 70, seed=1)
    auc, precision = resampled(scores, labels, patient, weights)
    kept = ~np.isnan(labels)
    for row in (0, 33, 69):
        times = weights[row][patient[kept]]
        again, present = np.repeat(scores[kept], times), np.repeat(labels[kept], times)
        assert auc[row] == pytest.approx(roc_auc_score(present, again), abs=1e-12)
        assert precision[row] == pytest.approx(average_precision_score(present, again), abs=1e-12)
    assert np.isnan(resampled(scores, np.ones(120), patient, weights)[0]).all()
