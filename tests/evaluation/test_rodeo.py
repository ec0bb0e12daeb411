"""RoDeO against plain loops and all permutations, and a case worked by hand; test_references.py has its authors' code."""

import itertools
import math

import numpy as np
import pytest
from sklearn.metrics import matthews_corrcoef

from chestmap.evaluation.evaluate import EvaluationContext, EvaluationSettings, evaluate
from chestmap.evaluation.presets.rodeo import MEASURES, ImageBoxes, added, finding_weight, measured


def drawn(rng: np.random.Generator, image: int, findings: int) -> ImageBoxes:
    """Up to three true boxes, boxes near some of them under the same or another finding, and one anywhere."""
    corner = rng.uniform(0, 60, (int(rng.integers(1, 4)), 2))
    true = np.concatenate([corner, corner + rng.uniform(10, 40, corner.shape)], axis=1)
    kinds = rng.integers(0, findings, len(true))
    kept = rng.random(len(true)) < 0.7
    near = true[kept] + rng.uniform(-6, 6, (1, 4))
    near[:, 2:] = np.maximum(near[:, 2:], near[:, :2] + 2)
    other = rng.uniform(0, 70, (int(rng.integers(0, 3)), 2))
    given = np.concatenate([near, np.concatenate([other, other + rng.uniform(5, 30, other.shape)], axis=1)])
    guessed = np.where(rng.random(len(near)) < 0.7, kinds[kept], rng.integers(0, findings, len(near)))
    return ImageBoxes(
        image=image,
        given=given,
        given_finding=np.concatenate([guessed, rng.integers(0, findings, len(other))]),
        true=true,
        true_finding=kinds,
    )


def giou(a, b) -> float:
    def area(c) -> float:
        return max(c[2] - c[0], 0) * max(c[3] - c[1], 0)

    shared = area((max(a[0], b[0]), max(a[1], b[1]), min(a[2], b[2]), min(a[3], b[3])))
    around = area((min(a[0], b[0]), min(a[1], b[1]), max(a[2], b[2]), max(a[3], b[3])))
    union = area(a) + area(b) - shared
    return shared / union - (around - union) / around


def one_hot(kinds, findings: int) -> list[int]:
    return [int(kind == finding) for kind in kinds for finding in range(findings)]


def slow(images: list[ImageBoxes], findings: int, only: int | None = None) -> list[float]:
    """As the paper's equations read: every pairing is tried, every score is a loop."""
    ours = [int(finding in one.given_finding) for one in images for finding in range(findings)]
    theirs = [int(finding in one.true_finding) for one in images for finding in range(findings)]
    weight = max(0.0, matthews_corrcoef(ours, theirs))
    pairs, spare, missed = [], 0, 0
    for one in images:
        few, many = sorted((len(one.given), len(one.true)))
        best: tuple[float, list[tuple[int, int]]] = (-math.inf, [])
        for chosen in itertools.permutations(range(many), few):
            places = [(a, b) if len(one.given) <= len(one.true) else (b, a) for a, b in enumerate(chosen)]
            worth = sum(
                giou(one.given[g], one.true[t]) + weight * (one.given_finding[g] == one.true_finding[t]) for g, t in places
            )
            best = max(best, (worth, places))
        taken = best[1]
        pairs += [(one, g, t) for g, t in taken if only in (None, one.true_finding[t])]
        left = set(range(len(one.given))) - {g for g, _ in taken}
        spare += sum(only in (None, one.given_finding[g]) for g in left)
        left = set(range(len(one.true))) - {t for _, t in taken}
        missed += sum(only in (None, one.true_finding[t]) for t in left)
    near = shape = 0.0
    for one, g, t in pairs:
        a, b = one.given[g], one.true[t]
        w, h, width, height = a[2] - a[0], a[3] - a[1], b[2] - b[0], b[3] - b[1]
        x, y = ((a[0] + a[2]) - (b[0] + b[2])) / 2 / width, ((a[1] + a[3]) - (b[1] + b[3])) / 2 / height
        near += math.exp(-math.log(2) * (x * x + y * y))
        shared = min(w, width) * min(h, height)
        shape += shared / (w * h + width * height - shared)
    kinds = ([int(one.given_finding[g]) for one, g, _ in pairs], [int(one.true_finding[t]) for one, _, t in pairs])
    same = max(0.0, matthews_corrcoef(*(one_hot(several, findings) for several in kinds))) * len(pairs)
    parts = [part / (len(pairs) + spare + missed) for part in (near, shape, same)]
    return [3 / sum(1 / part for part in parts) if min(parts) > 0 else 0.0, *parts]


def fast(images: list[ImageBoxes], findings: int, only: int | None = None) -> list[float]:
    weight = finding_weight(images, findings)
    lines = [line for one in images for line in added(one, weight) if only in (None, int(line[0]))]
    return measured(np.sum(lines, axis=0)[1:], findings).tolist()


@pytest.mark.parametrize("seed", range(4))
def test_it_agrees_with_plain_loops_over_all_pairings(seed: int) -> None:
    rng, findings = np.random.default_rng(seed), 2 + seed
    images = [drawn(rng, number, findings) for number in range(25)]
    assert fast(images, findings) == pytest.approx(slow(images, findings), abs=1e-12)
    for finding in range(findings):
        assert fast(images, findings, finding) == pytest.approx(slow(images, findings, finding), abs=1e-12)


def test_a_case_worked_by_hand() -> None:
    """A box half a width off and twice as wide under the right finding, and one that nobody drew."""
    given, true = np.array([[0.0, 0, 40, 10], [50, 50, 60, 60]]), np.array([[0.0, 0, 20, 10]])
    one = ImageBoxes(image=0, given=given, given_finding=np.array([0, 1]), true=true, true_finding=np.array([0]))
    near, shape = 0.5**0.25 / 2, 200 / 400 / 2
    assert fast([one], 2) == pytest.approx([3 / (1 / near + 1 / shape + 1 / 0.5), near, shape, 0.5])


def test_boxes_as_the_truth_score_one_and_none_score_nothing() -> None:
    rng = np.random.default_rng(7)
    images = [drawn(rng, number, 3) for number in range(10)]
    same = [
        ImageBoxes(
            image=one.image, given=one.true, given_finding=one.true_finding, true=one.true, true_finding=one.true_finding
        )
        for one in images
    ]
    none = [
        ImageBoxes(
            image=one.image,
            given=np.empty((0, 4)),
            given_finding=np.empty(0, int),
            true=one.true,
            true_finding=one.true_finding,
        )
        for one in images
    ]
    assert fast(same, 3) == pytest.approx([1, 1, 1, 1])
    assert fast(none, 3) == [0, 0, 0, 0]


def test_the_preset_reads_called_findings_and_has_its_floor(made) -> None:
    """Two findings; Mass is called where it is, and its map shows the box. Nodule is called nowhere, so its boxes are missed."""
    case = made(["Mass", "Nodule"], canvas=(16, 16))
    for number in range(12):
        maps, x = np.zeros((2, 16, 16)), number % 3 * 4
        maps[0, 4:8, x : x + 4] = 1
        boxes = {"Mass": [(x, 4, x + 4, 8)]} | ({"Nodule": [(0, 12, 4, 16)]} if number % 2 else {})
        case.image(maps, boxes, [1, number % 2], [0.9, 0.1], patient=f"p{number // 2}")
    training = made(["Mass", "Nodule"], canvas=(16, 16), prefix="training")
    for number in range(4):
        training.image(np.zeros((2, 16, 16)), {"Mass": [(4, 4, 8, 8)]}, [1, 0], patient=f"t{number}")
    how = EvaluationSettings(resamples=30, workers=1, presets=("rodeo",))
    found = evaluate(case.predictions(), case.truth(), how, EvaluationContext(training=training.truth()))
    whole = [found.only_score(measure, finding="all findings", rule="preset rodeo") for measure in MEASURES]
    assert [row.value for row in whole] == pytest.approx([12 / 18] * 4)
    assert all(row.low < row.value < row.high for row in whole)
    assert found.only_score("RoDeO", finding="Mass", rule="preset rodeo").value == pytest.approx(1.0)
    assert found.only_score("RoDeO", finding="Nodule", rule="preset rodeo").value == 0
    floor = found.only_score("RoDeO place", finding="Mass", rule="preset rodeo floor medoid").value
    assert floor == pytest.approx((1 + 0.5 + 0.5) / 3)
