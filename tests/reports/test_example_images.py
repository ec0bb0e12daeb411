"""Which pictures are shown, and that they show what was predicted and marked."""

from dataclasses import replace

import numpy as np
import polars as pl
import pytest

from chestmap.datasets.source import COLUMNS, Source
from chestmap.errors import BadInput
from chestmap.predictions.folder import Chunk, Header, OwnRule, PredictionsWriter, open_predictions
from chestmap.reports.example_images import PictureLimits, ScoredImages, choose, gather
from chestmap.types import Box, Findings, Frame

SIZES = ((64, 48), (48, 64), (60, 60), (60, 60), (60, 60), (60, 60))


@pytest.fixture
def source(tmp_path):
    from PIL import Image

    ids = [f"{index}.png" for index in range(6)]
    for image_id, size in zip(ids, SIZES, strict=True):
        Image.fromarray(np.linspace(0, 255, size[0] * size[1]).astype(np.uint8).reshape(size[::-1])).save(
            tmp_path / image_id
        )
    images = pl.DataFrame(
        {
            "image_id": ids,
            "patient_id": ids,
            "path": ids,
            "view": "PA",
            "age": None,
            "sex": "",
            "width": None,
            "height": None,
        },
        schema=COLUMNS,
    )
    labels = np.array([[1, 0], [1, 0], [0, 1], [1, 0], [0, -1], [0, 0]], dtype=np.int8)
    boxes = {"0.png": (Box("Mass", 16, 12, 32, 24),), "1.png": (Box("Mass", 0, 0, 12, 16), Box("Mass", 24, 32, 36, 48))}
    return Source(name="toy", findings=Findings(("Mass", "Edema")), root=tmp_path, images=images, labels=labels, boxes=boxes)


@pytest.fixture
def predictions(tmp_path, source):
    maps = np.zeros((6, 2, 8, 8), dtype=np.float16)
    maps[:, :, 3:5, 2:4] = 1
    frames = tuple(Frame.fit((float(width), float(height)), (64, 64)) for width, height in SIZES)
    writer = PredictionsWriter(
        tmp_path / "made", Header(findings=source.findings, canvas=(64, 64), model={}, own_rule=OwnRule(0.5))
    )
    scores = np.linspace(0.1, 0.9, 12).reshape(6, 2).astype(np.float32)
    for part, rows in enumerate((slice(0, 4), slice(4, 6))):
        chunk = Chunk(
            image_ids=source.ids[rows],
            patient_ids=source.ids[rows],
            frames=frames[rows],
            scores=scores[rows],
            maps=maps[rows],
        )
        writer.write(part, len(chunk), iter([chunk]))
    writer.finish()
    return open_predictions(tmp_path / "made")


def test_pictures_show_the_map_boxes_and_overlap_of_their_image(source, predictions):
    scored = ScoredImages(source.ids, {("0.png", "Mass"): 0.4, ("1.png", "Mass"): 0.1}, {"Mass": 0.6})
    found = {(one.image_id, one.finding): one for one in gather(predictions, source, scored, PictureLimits(100, longest=32))}
    first = found["0.png", "Mass"]
    assert first.image.shape == (24, 32)
    assert (first.true, first.iou, first.threshold) == ((Box("Mass", 8, 6, 16, 12),), 0.4, 0.6)
    # canvas cells 2..4 of 8 are canvas x 16..32 and y 24..40; the image of 64 x 48 lies 8 pixels down on 64 x 64
    x0, y0, x1, y1 = first.marks.boxes[0]
    assert abs(np.array([x0, y0, x1, y1]) - np.array([8, 8, 16, 16])).max() <= 1
    assert [len(found[image, "Mass"].true) for image in ("0.png", "1.png", "3.png")] == [1, 2, 0]
    assert found["4.png", "Mass"].score == pytest.approx(predictions.scores[4, 0])
    assert found["2.png", "Edema"].label == "present"
    assert ("4.png", "Edema") not in found  # neither present nor absent


def test_a_source_may_spell_findings_in_another_order(source, predictions):
    other = replace(source, findings=Findings(("Edema", "Mass")), labels=source.labels[:, ::-1].copy())
    scored = ScoredImages(source.ids, {("0.png", "Mass"): 0.4}, {})
    found = gather(predictions, other, scored, PictureLimits(100, 32))
    assert {one.label for one in found if one.image_id == "0.png" and one.finding == "Mass"} == {"present"}
    assert {one.threshold for one in found} == {0.5}


def test_nothing_in_common_is_told(source, predictions):
    with pytest.raises(BadInput, match="nothing to show"):
        gather(predictions, source, ScoredImages((), {}, {}))


def test_both_ends_of_the_ranking_are_shown():
    iou = np.concatenate([np.linspace(0, 1, 50), np.full(50, np.nan)])
    labels = np.concatenate([np.ones(70), np.zeros(30)]).astype(np.int8)
    scores = np.linspace(0, 1, 100).astype(np.float32)
    chosen = choose(scores, labels, iou, 20)
    assert len(chosen) == len(set(chosen)) == 20
    boxed = [index for index in chosen if index < 50]
    assert len(boxed) == 14
    assert {0, 1, 48, 49} <= set(boxed)
    assert any(10 < index < 40 for index in boxed)
    assert {99, 98, 97} <= set(chosen)  # the highest scores where it is absent
    assert any(50 <= index < 70 for index in chosen)


@pytest.mark.parametrize("quota", [1, 2, 3, 7, 40])
def test_no_more_are_chosen_than_asked_or_there(quota):
    rng = np.random.default_rng(quota)
    iou = np.where(rng.random(25) < 0.3, rng.random(25), np.nan)
    chosen = choose(rng.random(25).astype(np.float32), rng.integers(0, 2, 25).astype(np.int8), iou, quota)
    assert len(chosen) == len(set(chosen)) <= min(quota, 25)
    assert quota < 25 or len(chosen) == 25
