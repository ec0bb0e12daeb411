"""Each preset against a slow computation written from the table of rules, and against cases worked by hand."""

import cv2
import numpy as np
import pytest
import torch
from PIL import Image
from scipy.ndimage import binary_fill_holes, gaussian_filter, label
from torch.nn.functional import interpolate

from chestmap.evaluation.maps.comparison_space import Surface, Workspace
from chestmap.evaluation.maps.passes import Map, Pass, look_at_pairs
from chestmap.evaluation.maps.thresholds import ThresholdSearch
from chestmap.evaluation.presets.protocols import (
    IOR,
    IOU,
    PRESETS,
    note_cai,
    note_chexlocalize,
    note_ham,
    note_wang,
    preset_notes,
    within_budget,
)
from chestmap.evaluation.presets.wsol import EDGES, note_any, note_largest, note_pixels
from chestmap.evaluation.rates import Localization
from chestmap.evaluation.score_columns import Resampling
from chestmap.evaluation.scores import Evaluation
from chestmap.evaluation.truth import aligned
from chestmap.types import Box, Frame

HOW = Resampling(20)


def seen(values, boxes, image=(64, 64), canvas=(32, 32), score: float = 0.5) -> Map:
    frame = Frame.fit((float(image[0]), float(image[1])), canvas)
    return Map(
        values=np.asarray(values, dtype=np.float16),
        frame=frame,
        boxes=np.array(boxes, dtype=np.float64),
        score=score,
        work=Workspace(),
    )


def random_case(seed: int, side: int = 64):
    rng = np.random.default_rng(seed)
    values = gaussian_filter(rng.random((8, 8)), 0.9).astype(np.float16)
    a, b = np.sort(rng.uniform(0, side, (2, 2)), axis=0)
    return values, [(a[0], a[1], b[0] + 1, b[1] + 1)]


def upsampled(values, size: int, *, corners: bool) -> np.ndarray:
    tensor = torch.from_numpy(values.astype(np.float32))[None, None]
    return interpolate(tensor, (size, size), mode="bilinear", align_corners=corners)[0, 0].numpy()


@pytest.mark.parametrize("seed", range(6))
def test_ham_agrees_with_its_rule(seed: int) -> None:
    values, boxes = random_case(seed)
    x = upsampled(values, 32, corners=True)
    x = (x - x.min()) / (x.max() - x.min())
    mask = 1 / (1 + np.exp(-100.0 * (x - 0.4))) >= 0.999
    painted = np.zeros((64, 64), dtype=np.uint8)
    for x0, y0, x1, y1 in boxes:
        painted[int(y0) : int(y1), int(x0) : int(x1)] = 1
    true = np.array(Image.fromarray(painted).resize((32, 32), Image.Resampling.NEAREST)) == 1
    inside = (mask & true).sum()
    expected = [inside / max((mask | true).sum(), 1), inside / max(mask.sum(), 1)]
    assert note_ham(seen(values, boxes)) == pytest.approx(expected)


def test_ham_by_hand() -> None:
    values = np.zeros((8, 8))
    values[0:4, 0:4] = 1.0
    plain = {"image": (8, 8), "canvas": (8, 8)}
    assert note_ham(seen(values, [(0, 0, 8, 4)], **plain)).tolist() == [0.5, 1.0]
    assert note_ham(seen(values, [(0.9, 0, 8.9, 4)], **plain)).tolist() == [0.5, 1.0]  # corners are cut, not rounded
    assert note_ham(seen(values, [(0, 0, 2, 4), (2, 0, 4, 4)], **plain)).tolist() == [1.0, 1.0]  # the union of boxes
    assert note_ham(seen(np.ones((8, 8)), [(0, 0, 8, 8)], **plain)).tolist() == [0.0, 0.0]
    values[7, 7], values[6, 7] = 0.46906, 0.47  # just under and over 0.4 + ln(999) / 100
    assert note_ham(seen(values, [(0, 0, 8, 4)], **plain)).tolist() == [16 / 33, 16 / 17]
    # a wide image in a letterbox: rows 2 … 6 of the canvas
    assert note_ham(seen(values, [(0, 0, 8, 4)], image=(16, 8), canvas=(8, 8)))[0] == pytest.approx(8 / 17)


@pytest.mark.parametrize("seed", range(6))
def test_wang_agrees_with_its_rule(seed: int) -> None:
    values, boxes = random_case(seed)
    x = upsampled(values, 64, corners=False).astype(np.float64)
    x = (x - x.min()) / (x.max() - x.min()) * 255
    found = []
    for cut in (60, 180):
        parts, count = label(x >= cut, structure=np.ones((3, 3)))
        for part in range(1, count + 1):
            rows, columns = np.nonzero(parts == part)
            found.append(Box("Mass", float(columns.min()), float(rows.min()), columns.max() + 1.0, rows.max() + 1.0))
    true = Box("Mass", *boxes[0])
    iou = [box.iou(true) for box in found]
    iobb = [box.intersection(true) / box.area for box in found]
    failed = [sum(v <= t for v in iou) for t in IOU] + [sum(v <= t for v in iobb) for t in IOR]
    assert note_wang(seen(values, boxes)) == pytest.approx([max(iou), max(iobb), *failed])


def located(made, case, preset: str):
    predictions, truth = case.predictions(), case.truth()
    alignment = aligned(predictions, truth)
    how = Pass(surface=Surface(), own=predictions.header.own_rule)
    pairs, _ = look_at_pairs(predictions, truth, alignment, how, {preset: PRESETS[preset].note})
    columns = ThresholdSearch(IOU).columns(pairs, truth.patient, len(alignment.findings), None)
    loc = Localization(names=alignment.findings.names, pairs=pairs, patient=truth.patient, own=0.5, columns=columns)
    return Evaluation(title="", findings=alignment.findings, rows=tuple(PRESETS[preset].rows(pairs.noted[preset], loc, HOW)))


def two_blobs(first: float = 1.0, second: float = 1.0) -> np.ndarray:
    values = np.zeros((8, 8))
    values[0:4, 0:4], values[5:7, 5:7] = first, second
    return values


def test_wang_counts_ties_as_misses_and_divides_false_positives_by_all_boxes(made) -> None:
    case = made(["Mass", "Nodule"])
    case.image([two_blobs()] * 2, {"Mass": [(0, 0, 8, 4)]})  # IoU exactly .5; four boxes, two of each threshold
    case.image([two_blobs()] * 2, {"Mass": [(0, 0, 4, 4)]})
    case.image([two_blobs()] * 2, {"Nodule": [(5, 5, 7, 7)]})
    case.image([np.ones((8, 8))] * 2, {"Nodule": [(5, 5, 7, 7)]})
    rows = located(made, case, "wang2017")

    def at(measure: str, limit: float, finding: str) -> float:
        return rows.only_score(measure, at=limit, finding=finding).value

    assert (at("T(IoU)", 0.4, "Mass"), at("T(IoU)", 0.5, "Mass")) == (1.0, 0.5)
    assert at("T(IoU)", 0.7, "Nodule") == 0.5  # the constant map misses
    assert at("T(IoR)", 0.9, "Mass") == 1.0
    assert at("AFP", 0.4, "Mass") == pytest.approx(4 / 4)  # the small blob of both images at both thresholds, by four boxes
    assert at("AFP", 0.5, "Mass") == pytest.approx(6 / 4)
    assert at("AFP", 0.5, "Nodule") == pytest.approx(2 / 4)
    assert rows.only_score("T(IoU)", at=0.4, finding="mean").value == pytest.approx(0.75)


def slow_wsol(values, boxes, side: int, *, largest: bool) -> np.ndarray:
    """IoU at t = 0, .001 … .999."""
    x = cv2.resize(values.astype(np.float32), (224, 224), interpolation=cv2.INTER_CUBIC)
    x = (x - x.min()) / (x - x.min()).max()
    grey = (x * 255).astype(np.uint8)
    best = []
    for t in np.arange(0, 1, 0.001):
        mask = (grey > int(t * grey.max())).astype(np.uint8)
        contours = list(cv2.findContours(mask, cv2.RETR_TREE, cv2.CHAIN_APPROX_SIMPLE)[0])
        if largest:
            contours = sorted(contours, key=cv2.contourArea)[-1:]
        ious = [0.0]
        for contour in contours:
            px, py = contour[:, 0, 0], contour[:, 0, 1]
            p = (px.min(), py.min(), min(px.max() + 1, 223), min(py.max() + 1, 223))
            for box in boxes:
                g = [int(int(v) * 224 / side) for v in box]  # to whole pixels of the image first
                w = min(p[2], g[2]) - max(p[0], g[0]) + 1
                h = min(p[3], g[3]) - max(p[1], g[1]) + 1
                shared = max(w, 0) * max(h, 0)
                area = (p[2] - p[0] + 1) * (p[3] - p[1] + 1) + (g[2] - g[0] + 1) * (g[3] - g[1] + 1)
                ious.append(shared / (area - shared))
        best.append(max(ious))
    return np.array(best)


@pytest.mark.parametrize("largest", [True, False])
def test_wsol_agrees_with_its_rule(made, largest: bool) -> None:
    note = note_largest if largest else note_any
    tables = []
    for seed in (1, 2):
        values, boxes = random_case(seed)
        noted, slow = note(seen(values, boxes)), slow_wsol(values, boxes, 64, largest=largest)
        cuts = (np.arange(0, 1, 0.001) * 255).astype(int)
        assert noted[cuts] == pytest.approx(slow)
        assert set(cuts) == set(range(255))
        tables.append(slow)
    case = made(["Mass"], canvas=(64, 64))
    for seed in (1, 2):
        values, boxes = random_case(seed)
        case.image([values], {"Mass": boxes}, frame=Frame.fit((64.0, 64.0), (64, 64)))
    rows = located(made, case, "wsol-v1" if largest else "wsol-v2")
    limits = (0.5,) if largest else (0.3, 0.5, 0.7)
    expected = np.mean([np.mean([table >= limit for table in tables], axis=0).max() for limit in limits])
    assert rows.only_score("MaxBoxAcc" if largest else "MaxBoxAccV2", finding="all pairs").value == pytest.approx(expected)


def test_wsol_has_one_threshold_for_all_pairs_and_ours_one_for_each_finding(made) -> None:
    low, high = np.zeros((8, 8)), np.zeros((8, 8))
    low[0:4, 0:4], low[6, 6] = 0.2, 1.0  # its region is met below .2 only, by the largest
    high[:, :] = 0.5
    high[0:3, 0:3], high[7, 7] = 1.0, 0.0  # met above .5 only
    case = made(["Mass", "Nodule"], canvas=(224, 224))
    frame = Frame.fit((224.0, 224.0), (224, 224))
    case.image([low, low], {"Mass": [(0, 0, 112, 112)]}, frame=frame)
    case.image([high, high], {"Nodule": [(0, 0, 84, 84)]}, frame=frame)
    rows = located(made, case, "wsol-v1")
    assert rows.only_score("MaxBoxAcc", finding="all pairs").value == 0.5
    assert rows.only_score("MaxBoxAcc", finding="mean").value == 1.0


def test_wsol_takes_a_constant_map_as_zeros() -> None:
    noted = note_any(seen(np.ones((8, 8)), [(0, 0, 1, 1)]))
    assert noted == pytest.approx(np.full(255, 1 / 16))  # the pixel (0, 0), against 4 x 4 pixels
    assert note_pixels(seen(np.full((8, 8), np.nan), [(0, 0, 32, 64)]))[[0, 1002]].tolist() == [224 * 112, 224 * 112]


def test_pxap_agrees_with_its_rule(made) -> None:
    case, inside, outside = made(["Mass"], canvas=(64, 64)), [], []
    for seed in (3, 4):
        values, boxes = random_case(seed)
        case.image([values], {"Mass": boxes}, frame=Frame.fit((64.0, 64.0), (64, 64)))
        x = cv2.resize(values.astype(np.float32), (224, 224), interpolation=cv2.INTER_CUBIC)
        x = (x - x.min()) / (x - x.min()).max()
        x0, y0, x1, y1 = boxes[0]
        centers = (np.arange(224) * 64 // 224) + 0.5  # nearest neighbor looks at the pixel at or before
        true = ((centers >= y0) & (centers < y1))[:, None] & ((centers >= x0) & (centers < x1))
        inside.append(x[true])
        outside.append(x[~true])
    inside, outside = np.concatenate(inside), np.concatenate(outside)
    true = np.array([(inside >= edge).sum() for edge in EDGES[:-1]])[::-1]
    false = np.array([(outside >= edge).sum() for edge in EDGES[:-1]])[::-1]
    area = 0.0
    for step in range(1, len(true)):
        if true[step] + false[step]:
            area += true[step] / (true[step] + false[step]) * (true[step] - true[step - 1]) / len(inside)
    assert located(made, case, "pxap").only_score("PxAP", finding="all pairs").value == pytest.approx(area)


def otsu(grey: np.ndarray) -> int:
    """The cut with the greatest variance between the two sides."""
    best, cut = -1.0, 0
    for t in range(255):
        low, high = grey[grey <= t], grey[grey > t]
        if len(low) and len(high):
            between = len(low) * len(high) * (low.mean() - high.mean()) ** 2
            if between > best * (1 + 1e-9):
                best, cut = between, t
    return cut


@pytest.mark.parametrize("seed", range(4))
def test_chexlocalize_agrees_with_its_rule(seed: int) -> None:
    values, boxes = random_case(seed)
    x = upsampled(values, 64, corners=False)
    grey = ((x - x.min()) / (x - x.min()).max() * 255).astype(np.uint8)
    mask = grey > otsu(grey)
    parts, count = label(binary_fill_holes(mask), structure=np.ones((3, 3)))
    mask = np.isin(parts, [part for part in range(1, count + 1) if (parts == part).sum() > 1])
    rows, columns = np.mgrid[:64, :64] + 0.5
    x0, y0, x1, y1 = boxes[0]
    true = (columns >= x0) & (columns < x1) & (rows >= y0) & (rows < y1)
    y, at = np.unravel_index(x.argmax(), x.shape)
    expected = [(mask & true).sum() / (mask | true).sum(), float(true[y, at])]
    assert note_chexlocalize(seen(values, boxes)) == pytest.approx(expected)


def test_chexlocalize_leaves_out_empty_masks(made) -> None:
    case = (
        made(["Mass"]).image([two_blobs(1, 0)], {"Mass": [(0, 0, 4, 4)]}).image([np.ones((8, 8))], {"Mass": [(0, 0, 4, 4)]})
    )
    rows = located(made, case, "chexlocalize")
    assert (rows.only_score("mIoU", finding="Mass").value, rows.only_score("mIoU", finding="Mass").support) == (1.0, 1)
    assert rows.only_score("mIoU with misses", finding="Mass").value == 0.5
    assert rows.only_score("hit rate", finding="Mass").value == 0.5


def test_chexlocalize_fills_regions() -> None:
    ring = np.zeros((8, 8))
    ring[0:6, 0:6], ring[2:4, 2:4], ring[7, 7] = 1.0, 0.0, 1.0  # a hole, and a region of one pixel
    assert note_chexlocalize(seen(ring, [(0, 0, 6, 6)], image=(8, 8), canvas=(8, 8)))[0] == 1.0


def test_cai_ranks_boxes_by_brightness_and_counts_equal_ones_once() -> None:
    values = np.zeros((8, 8))
    values[0:6, 0:6], values[1:3, 1:3] = 0.4, 1.0
    noted = note_cai(seen(values, [(1, 1, 3, 3)], image=(8, 8), canvas=(8, 8)))
    # .3 gives the 6 x 6 square, .5 and .7 the 2 x 2
    assert noted[:2] == pytest.approx([1.0, (4 + 32 * 0.4) / 36], abs=1e-3)
    assert noted[3:5] == pytest.approx([1.0, 4 / 36])
    assert np.isnan(noted[[2, 5]]).all()
    assert np.isnan(note_cai(seen(np.ones((8, 8)), [(1, 1, 3, 3)]))).all()


def test_cai_takes_boxes_rank_by_rank_until_the_budget() -> None:
    iou = np.array([[0.2, 0.9, np.nan], [0.8, 0.1, 0.1], [0.1, 0.2, 0.9], [np.nan] * 3])
    hits, false = within_budget(iou, 0.5, budget=0.5)  # two misses for four images
    assert (hits.tolist(), false.tolist()) == ([1, 1, 0, 0], [1, 0, 1, 0])
    hits, false = within_budget(iou, 0.5, budget=0.74)  # the third miss would pass it
    assert false.sum() == 2
    hits, false = within_budget(iou, 0.5, budget=0.25)
    assert (hits.tolist(), false.tolist()) == ([0, 1, 0, 0], [1, 0, 0, 0])
    hits, false = within_budget(iou, 0.5, budget=np.inf)
    assert (hits.tolist(), false.sum()) == ([1, 1, 1, 0], 5)
    assert within_budget(np.array([[0.5]]), 0.5, np.inf)[0].tolist() == [0]  # more than T


def test_cai_uses_the_budget_of_the_published_table(made) -> None:
    case = made(["Cardiomegaly", "Nodule"])
    miss = two_blobs(0.0, 1.0)
    for _ in range(4):
        case.image([miss] * 2, {"Cardiomegaly": [(0, 0, 4, 4)], "Nodule": [(0, 0, 4, 4)]})
    rows = located(made, case, "cai2018")
    # T(IoU) .1: budgets .59 and .61, each box misses: two of four fit
    assert rows.only_score("AFP", at=0.1, finding="Cardiomegaly", rule="preset cai2018").value == 0.5
    assert rows.only_score("AFP", at=0.1, finding="Nodule", rule="preset cai2018 without budget").value == 1.0
    assert rows.only_score("T(IoU)", at=0.1, finding="mean", rule="preset cai2018 without budget").value == 0.0


def test_cai_says_whose_budgets_it_has_and_that_the_order_counts() -> None:
    assert preset_notes(["ham"], "chexpert", ["Edema"]) == []
    (order,) = preset_notes(["cai2018"], "nih", ["Mass"])
    assert "depend on that order" in order
    notes = preset_notes(["cai2018"], "chexpert", ["Cardiomegaly", "Edema", "Fracture"])
    assert notes[1:] == [
        "preset cai2018: its AFP budgets are those of ChestX-ray14, not of chexpert; read the rows without budget",
        "preset cai2018: no AFP budget was published for Edema, Fracture, which are taken without one",
    ]


def test_every_preset_survives_maps_that_say_nothing_and_turned_frames(made) -> None:
    rng = np.random.default_rng(0)
    for name in PRESETS:
        case = made(["Mass"], canvas=(32, 32))
        turned = Frame.fit((50.0, 40.0), (32, 32)).then((0.95, -0.2, 4.0, 0.2, 0.95, -3.0))
        for values in (np.zeros((6, 6)), np.full((6, 6), np.nan), rng.random((6, 6)), np.ones((6, 6))):
            case.image([values], {"Mass": [(5, 5, 30, 20), (20, 10, 45, 39)]}, frame=turned)
        rows = located(made, case, name)
        assert rows.rows
        assert all(row.value is None or 0 <= row.value <= 10 for row in rows.rows)
