from dataclasses import replace

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from chestmap.evaluation.detection import afp_rows, cuts, froc_rows, pixel_ap, pointing_rows, searched_rows
from chestmap.evaluation.maps.comparison_space import Surface
from chestmap.evaluation.maps.passes import Pass, look_at_absent, look_at_pairs
from chestmap.evaluation.maps.thresholds import GEOMETRIES, ThresholdSearch
from chestmap.evaluation.rates import Limits, Localization, accuracy_curves, rate_rows, threshold_curves
from chestmap.evaluation.score_columns import Resampling
from chestmap.evaluation.scores import Evaluation
from chestmap.evaluation.truth import aligned
from chestmap.predictions.folder import OwnRule
from chestmap.types import Frame

HOW = Resampling(50, seed=3)
LIMITS = Limits()


def located(made, own: OwnRule | None = None, validation=None, gates=None, limits: Limits = LIMITS, **reading):
    predictions, truth = made.predictions(own), made.truth()
    alignment = aligned(predictions, truth)
    how = Pass(surface=Surface(), own=predictions.header.own_rule, **reading)
    pairs, lost = look_at_pairs(predictions, truth, alignment, how)
    columns = ThresholdSearch(limits.iou, limits.strict).columns(pairs, truth.patient, len(alignment.findings), validation)
    loc = Localization(
        names=alignment.findings.names,
        pairs=pairs,
        patient=truth.patient,
        own=how.own.threshold,
        columns=columns,
        gates=gates,
        limits=limits,
        lost=lost,
    )
    rules = [rule for rule in ("own", "validation") if ("any", rule) in columns]
    absent = look_at_absent(predictions, truth, alignment, how, cuts(loc, rules))
    return loc, absent, rules


def table(rows, names=("Mass", "Nodule")) -> Evaluation:
    from chestmap.types import Findings

    return Evaluation(title="", findings=Findings(tuple(names)), rows=tuple(rows))


def rectangle(x0: int, y0: int, x1: int, y1: int, value: float = 1.0, side: int = 8) -> np.ndarray:
    values = np.zeros((side, side))
    values[y0:y1, x0:x1] = value
    return values


def random_case(made, images: int = 14, seed: int = 0):
    rng = np.random.default_rng(seed)
    case = made(["Mass", "Nodule", "Hernia"], canvas=(32, 32))
    for number in range(images):
        maps = np.stack([gaussian_filter(rng.random((8, 8)), 0.7) for _ in range(3)])
        boxes = {}
        for name in ("Mass", "Nodule")[: 1 + number % 2]:
            x, y = rng.uniform(0, 20, 2)
            boxes[name] = [(x, y, x + rng.uniform(4, 12), y + rng.uniform(4, 12))]
        labels = [1.0, float(number % 2 or number % 3 == 0), 0.0]
        case.image(
            maps, boxes, labels, rng.random(3).tolist(), patient=f"p{number // 2}", frame=Frame.fit((40.0, 30.0), (32, 32))
        )
    return case


def slow_iou(prediction: np.ndarray, box: tuple[float, ...], cut: float) -> float:
    rows, columns = np.mgrid[:30, :40] + 0.5
    mask = prediction >= cut
    true = (columns >= box[0]) & (columns < box[2]) & (rows >= box[1]) & (rows < box[3])
    return (mask & true).sum() / (mask | true).sum()


def upsampled(values: np.ndarray) -> np.ndarray:
    """A 40 x 30 image sits on rows 4 … 28 of a 32 x 32 canvas, which the 8 x 8 map covers."""
    values, out = values.astype(np.float16).astype(np.float64), np.empty((30, 40))
    for j in range(30):
        for i in range(40):
            u, v = min(max((i + 0.5) * 0.8 / 4 - 0.5, 0), 7), min(max(((j + 0.5) * 0.8 + 4) / 4 - 0.5, 0), 7)
            a, b = min(int(u), 6), min(int(v), 6)
            top = (1 - u + a) * values[b, a] + (u - a) * values[b, a + 1]
            bottom = (1 - u + a) * values[b + 1, a] + (u - a) * values[b + 1, a + 1]
            out[j, i] = (1 - v + b) * top + (v - b) * bottom
    return (out - out.min()) / (out.max() - out.min())


def test_rates_agree_with_loops_over_images(made) -> None:
    case = random_case(made)
    loc, _, _ = located(case, OwnRule(0.6))
    rows = table(rate_rows(loc, HOW))
    for column, name in enumerate(("Mass", "Nodule")):
        cases = [
            (upsampled(maps[column]), box.corners, patient)
            for _, patient, maps, _, _, _, boxes in case.rows
            for box in boxes
            if box.finding == name
        ]
        own = [slow_iou(x, box, 0.6) for x, box, _ in cases]
        for limit in LIMITS.iou:
            found = rows.only_score("T(IoU)", finding=name, geometry="mask", rule="own", at=limit)
            assert found.value == pytest.approx(np.mean([iou >= limit for iou in own]))
            assert found.low <= found.value <= found.high
            assert (found.support, found.threshold) == (len(cases), 0.6)
            best = max(np.mean([slow_iou(x, box, k / 256) >= limit for x, box, _ in cases]) for k in range(1, 256, 6))
            oracle = rows.only_score("T(IoU)", finding=name, geometry="mask", rule="oracle", at=limit)
            assert oracle.value >= best
            threshold = oracle.threshold
            assert oracle.value == pytest.approx(np.mean([slow_iou(x, box, threshold) >= limit for x, box, _ in cases]))
        assert rows.only_score("mean IoU", finding=name, geometry="mask", rule="own").value == pytest.approx(np.mean(own))
    mean = rows.only_score("T(IoU)", finding="mean", geometry="mask", rule="own", at=0.3)
    parts = [rows.only_score("T(IoU)", finding=name, geometry="mask", rule="own", at=0.3) for name in ("Mass", "Nodule")]
    assert mean.value == pytest.approx(np.mean([part.value for part in parts]))
    assert mean.support == sum(part.support for part in parts) == 21
    assert not rows.select("T(IoU)", finding="Hernia")


def test_validation_thresholds_never_see_the_patients_own_boxes(made) -> None:
    loc, _, _ = located(random_case(made, images=20))
    for geometry in GEOMETRIES:
        chosen = loc.columns[geometry, "validation"]
        pairs, patient = loc.pairs, loc.patient
        assert len(chosen.by_fold) == 5
        assert all(len({chosen.fold[i] for i in np.flatnonzero(patient == p)}) == 1 for p in set(patient.tolist()))
    iou = loc.pairs.inside / (loc.pairs.area + loc.pairs.ground[:, None] - loc.pairs.inside)
    chosen = loc.columns["mask", "validation"]
    for fold in range(5):
        others = (chosen.fold[pairs.image] != fold) & (pairs.finding == 0)
        accuracy = [np.mean([iou[others, column] >= limit for limit in LIMITS.iou]) for column in range(2, 257)]
        assert accuracy[chosen.by_fold[fold, 0] - 2] == pytest.approx(max(accuracy))


def test_validation_boxes_decide_where_there_are_any(made) -> None:
    validation, _, _ = located(random_case(made, seed=5))
    loc, _, _ = located(random_case(made, seed=6), validation=validation.pairs)
    chosen = loc.columns["any", "validation"]
    assert len(chosen.by_fold) == 1
    best = validation.pairs.best[validation.pairs.finding == 1][:, 3]
    accuracy = [np.mean([best[:, column] >= limit for limit in LIMITS.iou]) for column in range(1, best.shape[1])]
    assert accuracy[chosen.by_fold[0, 1] - 1] == pytest.approx(max(accuracy))
    pooled = validation.pairs.best[:, 3]
    accuracy = [np.mean([pooled[:, column] >= limit for limit in LIMITS.iou]) for column in range(1, best.shape[1])]
    assert accuracy[chosen.by_fold[0, 2] - 1] == pytest.approx(max(accuracy))  # Hernia has no boxes


def test_a_tie_counts_unless_strict(made) -> None:
    case = made(["Mass"]).image([rectangle(0, 0, 4, 4)], {"Mass": [(0, 0, 8, 4)]})
    for strict, value in ((False, 1.0), (True, 0.0)):
        loc, _, _ = located(case, limits=Limits(strict=strict))
        rows = table(rate_rows(loc, HOW), ["Mass"])
        for geometry in ("mask", "largest", "any", "each"):
            found = rows.only_score("T(IoU)", geometry=geometry, rule="own", at=0.5, finding="Mass")
            assert (found.value, found.ties) == (value, 1)
        assert rows.only_score("T(IoGT)", geometry="mask", rule="own", at=0.5, finding="Mass").value == value
        assert rows.only_score("T(IoR)", geometry="mask", rule="own", at=0.9, finding="Mass").value == 1.0


def test_constant_maps_and_maps_with_nan_are_misses(made) -> None:
    case = made(["Mass"])
    for maps in (np.zeros((8, 8)), np.ones((8, 8)), np.full((8, 8), np.nan), rectangle(0, 0, 4, 4)):
        case.image([maps], {"Mass": [(0, 0, 4, 4)]})
    loc, _, _ = located(case)
    rows = table([*rate_rows(loc, HOW), *pointing_rows(loc, HOW)], ["Mass"])
    for geometry in GEOMETRIES:
        for rule in ("own", "oracle"):
            assert rows.only_score("T(IoU)", geometry=geometry, rule=rule, at=0.1, finding="Mass").value == 0.25
    assert rows.only_score("T(IoR)", geometry="mask", rule="own", at=0.1, finding="Mass").value == 0.25
    assert rows.only_score("pointing game", finding="Mass").value == 0.25


def test_several_boxes_of_one_finding(made) -> None:
    two = rectangle(0, 0, 3, 3) + rectangle(4, 4, 8, 8)
    case = made(["Mass"]).image([two], {"Mass": [(0, 0, 3, 3), (4, 4, 8, 8)]})
    case.image([rectangle(0, 0, 3, 3)], {"Mass": [(0, 0, 3, 3), (4, 4, 8, 8)]})
    loc, _, _ = located(case)
    rows = table(rate_rows(loc, HOW), ["Mass"])

    def at(geometry: str) -> tuple[float, int, str]:
        found = rows.only_score("T(IoU)", geometry=geometry, rule="own", at=0.7, finding="Mass")
        return found.value, found.support, found.unit

    assert at("mask") == (0.5, 2, "pairs")  # the union is met once
    assert at("largest") == (1.0, 2, "pairs")
    assert at("any") == (1.0, 2, "pairs")
    assert at("each") == (0.75, 4, "boxes")  # three of four boxes


def test_scores_gate_hits_where_validation_said_so(made) -> None:
    case = made(["Mass", "Nodule"])
    for score in (0.9, 0.4, 0.6):
        case.image([rectangle(0, 0, 4, 4)] * 2, {"Mass": [(0, 0, 4, 4)], "Nodule": [(0, 0, 4, 4)]}, scores=[score, score])
    loc, _, _ = located(case, gates=np.array([0.6, np.nan]))
    rows = table(rate_rows(loc, HOW))
    gated = rows.only_score("gated T(IoU)", geometry="mask", rule="own", at=0.5, finding="Mass")
    assert gated.value == pytest.approx(2 / 3)
    assert rows.only_score("gated T(IoU)", geometry="mask", rule="own", at=0.5, finding="Nodule").value is None
    assert rows.only_score("gated T(IoU)", geometry="mask", rule="own", at=0.5, finding="mean").value == pytest.approx(2 / 3)


def test_false_positives_count_only_where_the_finding_is_labelled_absent(made) -> None:
    blobs = rectangle(0, 0, 2, 2) + rectangle(4, 4, 6, 6, 0.8)
    case = made(["Mass", "Nodule"])
    box = {"Mass": [(0, 0, 2, 2)]}
    case.image([blobs, blobs], box, labels=[1, 0], scores=[0.5, 0.5])  # meets its box; the second blob is no false positive
    case.image([blobs, blobs], {}, labels=[1, 0], scores=[0.9, 0.9])  # present, never boxed
    case.image([blobs, blobs], {}, labels=[np.nan, 0], scores=[0.9, 0.9])  # unknown
    case.image([blobs, blobs], {}, labels=[0, 0], scores=[0.6, 0.1])  # absent: two regions, confidences 0.6 and 0.48
    case.image([np.ones((8, 8)), blobs], {}, labels=[0, 0], scores=[0.9, 0.9])  # absent, and the map says nothing
    loc, absent, rules = located(case)
    rows = table([*afp_rows(loc, absent, rules, HOW)])
    found = rows.only_score("AFP", rule="own", finding="Mass")
    assert (found.value, found.support, found.unit) == (1.0, 2, "images")
    assert not rows.select("AFP", finding="Nodule")  # no image carries a box of it
    assert not rows.select("gated AFP")
    gated = table(afp_rows(replace(loc, gates=np.array([0.7, np.nan])), absent, rules, HOW))
    assert (
        gated.only_score("gated AFP", rule="own", finding="Mass").value == 0.0
    )  # only the map that says nothing is called present
    assert gated.only_score("AFP", rule="own", finding="Mass").value == 1.0
    froc, curves = froc_rows(loc, absent, "own", HOW)
    rows = table(froc)
    # the box is met with confidence 0.5: one false positive (0.6) stands above it, two images are without the finding
    assert [rows.only_score("FROC", at=rate, finding="Mass").value for rate in (0.125, 0.25, 0.5, 1.0)] == [
        0.0,
        0.0,
        1.0,
        1.0,
    ]
    assert curves[0].x == (0.0, 0.5, 1.0, 1.0)
    assert curves[0].y == (0.0, 0.0, 1.0, 1.0)


def test_negatives_are_sampled_by_the_seed(made) -> None:
    case = random_case(made)
    for _ in range(6):
        case.image(np.random.default_rng(1).random((3, 8, 8)), {}, labels=[0, 0, 0])
    counts = {tuple(located(case, negatives=2, seed=seed)[1].image.tolist()) for seed in (0, 0, 1, 2, 3)}
    assert 1 < len(counts) < 5
    assert all(len(images) == 4 for images in counts)
    assert len(located(case, negatives=0)[1].finding) == 0


def test_max_box_acc_searches_a_threshold_for_each_iou(made) -> None:
    case = made(["Mass"])
    hill = np.minimum(np.minimum(np.arange(8), 7 - np.arange(8))[:, None], np.minimum(np.arange(8), 7 - np.arange(8)))
    case.image([hill], {"Mass": [(1, 1, 7, 7)]})  # met by levels up to 1/3
    case.image([hill], {"Mass": [(3, 3, 5, 5)]})  # met by levels above 2/3
    loc, _, _ = located(case)
    rows = table(searched_rows(loc, HOW), ["Mass"])
    # IoU .3: the middle square (16 pixels) has 16/36 and 4/16; no level meets both, one is best: 0.5 for each limit
    assert rows.only_score("MaxBoxAccV2", finding="Mass").value == pytest.approx(0.5)


def test_pixel_average_precision_agrees_with_scikit_learn(made) -> None:
    from sklearn.metrics import average_precision_score

    case = random_case(made, images=6)
    loc, _, _ = located(case)
    value = table(searched_rows(loc, HOW)).only_score("PxAP", finding="Mass").value
    rows, columns = np.mgrid[:30, :40] + 0.5
    scores, truth = [], []
    for _, _, maps, _, _, _, boxes in case.rows:
        for box in boxes:
            if box.finding == "Mass":
                scores.append(np.floor(upsampled(maps[0]) * 256).clip(0, 255).ravel())
                inside = (columns >= box.x0) & (columns < box.x1) & (rows >= box.y0) & (rows < box.y1)
                truth.append(inside.ravel())
    assert value == pytest.approx(average_precision_score(np.concatenate(truth), np.concatenate(scores)), abs=2e-4)
    assert pixel_ap(np.array([4.0, 2, 1]), np.array([2.0, 2, 1])) == pytest.approx(1.0)


def test_intervals_draw_whole_patients(made) -> None:
    one, many = made(["Mass"]), made(["Mass"])
    for number in range(40):
        hit = rectangle(0, 0, 4, 4) if number % 2 else rectangle(4, 4, 8, 8)
        one.image([hit], {"Mass": [(0, 0, 4, 4)]}, patient="the same")
        many.image([hit], {"Mass": [(0, 0, 4, 4)]})
    wide = table(rate_rows(located(many)[0], HOW), ["Mass"]).only_score(
        "T(IoU)", geometry="any", rule="own", at=0.5, finding="Mass"
    )
    point = table(rate_rows(located(one)[0], HOW), ["Mass"]).only_score(
        "T(IoU)", geometry="any", rule="own", at=0.5, finding="Mass"
    )
    assert (point.value, point.patients) == (0.5, 1)
    assert point.low < 0.1 < 0.9 < point.high  # one patient says next to nothing, however many boxes
    assert wide.low < 0.45 < 0.55 < wide.high
    assert wide.patients == 40


def test_curves_end_where_the_rates_are(made) -> None:
    loc, _, _ = located(random_case(made))
    rows = table(rate_rows(loc, HOW))
    curve = next(c for c in accuracy_curves(loc) if (c.finding, c.geometry, c.rule) == ("Mass", "mask", "own"))
    at = dict(zip(np.round(curve.x, 2).tolist(), curve.y, strict=True))
    assert at[0.3] == pytest.approx(rows.only_score("T(IoU)", finding="Mass", geometry="mask", rule="own", at=0.3).value)
    assert at[0.0] == 1.0
    assert {c.geometry for c in threshold_curves(loc)} == set(GEOMETRIES)


def test_boxes_outside_their_image_are_left_out_and_counted(made) -> None:
    case = made(["Mass"]).image([rectangle(0, 0, 4, 4)], {"Mass": [(20, 20, 30, 30)]})
    case.image([rectangle(0, 0, 4, 4)], {"Mass": [(-4, -4, 4, 4)]})  # cut at the border
    loc, _, _ = located(case)
    assert (len(loc.pairs), loc.lost) == (1, 1)
    assert (
        table(rate_rows(loc, HOW), ["Mass"]).only_score("T(IoU)", geometry="mask", rule="own", at=0.7, finding="Mass").value
        == 1
    )


def test_maps_as_they_are_are_cut_at_their_own_values(made) -> None:
    case = made(["Mass"]).image([rectangle(0, 0, 4, 4, 0.4)], {"Mass": [(0, 0, 4, 4)]})
    for own, value in ((OwnRule(0.5, normalize=False), 0.0), (OwnRule(0.3, normalize=False), 1.0), (OwnRule(0.5), 1.0)):
        rows = table(rate_rows(located(case, own)[0], HOW), ["Mass"])
        assert rows.only_score("T(IoU)", geometry="mask", rule="own", at=0.5, finding="Mass").value == value
