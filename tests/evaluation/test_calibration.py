import numpy as np
import pytest
from scipy.special import expit, logit
from sklearn.calibration import calibration_curve
from sklearn.linear_model import LogisticRegression

from chestmap.errors import BadInput
from chestmap.evaluation.statistics.calibration import Calibration, brier, fit_calibration, reliability
from chestmap.evaluation.statistics.operating_points import choose_point, measure_point


def overconfident(images: int, seed: int):
    rng = np.random.default_rng(seed)
    z = rng.normal(-1, 1.5, images)
    labels = (rng.random(images) < expit(z)).astype(np.float64)
    return expit(2.5 * z + 0.7).astype(np.float32), labels


def test_calibration_errors_agree_with_loops() -> None:
    scores, labels = overconfident(500, 0)
    scores[:2], labels[10] = (0.0, 1.0), np.nan
    kept = ~np.isnan(labels)
    s, y = scores[kept].astype(np.float64), labels[kept]
    width = 0.0
    for b in range(15):
        inside = [i for i in range(len(s)) if min(int(s[i] * 15), 14) == b]
        if inside:
            width += abs(s[inside].mean() - y[inside].mean()) * len(inside) / len(s)
    assert reliability(scores, labels).error == pytest.approx(width, abs=1e-12)
    order = np.argsort(s, kind="stable")
    mass = sum(
        abs(s[part].mean() - y[part].mean()) * len(part) / len(s)
        for part in ([order[i] for i in range(len(s)) if i * 10 // len(s) == b] for b in range(10))
    )
    assert reliability(scores, labels, 10, "mass").error == pytest.approx(mass, abs=1e-12)
    assert brier(scores, labels) == pytest.approx(sum((a - b) ** 2 for a, b in zip(s, y, strict=True)) / len(s))


def test_the_curve_agrees_with_scikit_learn() -> None:
    scores, labels = overconfident(400, 1)
    curve = reliability(scores, labels, bins=10)
    share, score = calibration_curve(labels, scores.astype(np.float64), n_bins=10)
    assert curve.score == pytest.approx(score)
    assert curve.share == pytest.approx(share)
    assert curve.count.sum() == 400


def test_platt_scaling_is_logistic_regression_on_the_logit_and_mends() -> None:
    scores, labels = overconfident(4000, 2)
    fit = fit_calibration(scores[:, None], labels[:, None], "platt")
    reference = LogisticRegression(C=np.inf, tol=1e-10).fit(
        logit(np.clip(scores.astype(float), 1e-7, 1 - 1e-7))[:, None], labels
    )
    assert fit.slope[0] == pytest.approx(reference.coef_[0, 0], rel=1e-4)
    assert fit.offset[0] == pytest.approx(reference.intercept_[0], abs=1e-4)
    other, truth = overconfident(4000, 3)
    mended = fit.apply(other[:, None])[:, 0]
    assert reliability(mended, truth).error < 0.3 * reliability(other, truth).error
    assert Calibration.from_dict(fit.as_dict()) == fit


def test_temperature_keeps_one_half_where_it_is() -> None:
    scores, labels = overconfident(2000, 4)
    fit = fit_calibration(scores[:, None], labels[:, None], "temperature")
    assert fit.offset == (0.0,)
    z = logit(np.clip(scores.astype(float), 1e-7, 1 - 1e-7))

    def loss(slope: float) -> float:
        return float((np.logaddexp(0, slope * z) - slope * z * labels).sum())

    assert loss(fit.slope[0]) < min(loss(fit.slope[0] * 1.01), loss(fit.slope[0] * 0.99))
    assert fit.apply(np.array([[0.5]])) == pytest.approx(0.5)


def test_a_finding_that_cannot_be_fitted_keeps_its_scores() -> None:
    scores = np.array([[0.2, 0.2], [0.4, 0.4], [0.8, 0.8], [0.9, 0.9]], dtype=np.float32)
    labels = np.array([[0, 1.0], [0, 1], [1, 1], [1, np.nan]])  # separated; one kind
    fit = fit_calibration(scores, labels)
    assert fit.fitted == (False, False)
    assert fit.apply(scores) == pytest.approx(scores)


def test_scores_that_are_no_probabilities_are_refused() -> None:
    with pytest.raises(BadInput, match=r"in \[0, 1\]"):
        reliability(np.array([2.0, 0.1]), np.array([1.0, 0.0]))
    assert reliability(np.array([0.5]), np.array([np.nan])) is None
    assert brier(np.array([0.5]), np.array([np.nan])) is None


def test_operating_points_by_hand() -> None:
    scores = np.array([0.9, 0.8, 0.7, 0.6, 0.5, 0.4])
    labels = np.array([1.0, 1, 0, 1, 0, 0])
    youden = choose_point(scores, labels, "youden")
    assert (youden.threshold, youden.sensitivity, youden.specificity) == (0.8, pytest.approx(2 / 3), 1.0)
    sensitive = choose_point(scores, labels, "sensitivity", 0.95)
    assert (sensitive.threshold, sensitive.sensitivity, sensitive.specificity) == (0.6, 1.0, pytest.approx(2 / 3))
    specific = choose_point(scores, labels, "specificity", 0.6)
    assert (specific.threshold, specific.sensitivity) == (0.6, 1.0)
    elsewhere = measure_point(np.array([0.85, 0.75, 0.6]), np.array([1.0, 0, np.nan]), youden)
    assert (elsewhere.sensitivity, elsewhere.specificity, elsewhere.positives) == (1.0, 1.0, 1)
    assert choose_point(scores, np.ones(6), "youden") is None
    top_is_negative = choose_point(np.array([0.9, 0.1]), np.array([0.0, 1.0]), "specificity", 0.9)
    assert (top_is_negative.sensitivity, top_is_negative.specificity) == (0.0, 1.0)
