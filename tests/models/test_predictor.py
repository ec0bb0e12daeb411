"""Predictions in memory: calibrated scores, boxes where evaluation would cut them, findings that were learned and no others."""

import json
import shutil
from io import BytesIO

import numpy as np
import pytest
from PIL import Image
from scipy.special import expit, logit

import chestmap
from chestmap.errors import BadImage, BadModel
from chestmap.methods import METHODS as ALL
from chestmap.models.largest_box import BoxRule, boxes_of
from chestmap.predictions.folder import OwnRule
from chestmap.storage.manifest import seal
from chestmap.types import Findings, Frame, Radiograph
from prediction.predict_small import small_predictor
from training.small import METHODS


@pytest.fixture(scope="module")
def predictor(run_folder):
    return small_predictor(run_folder / "model")


@pytest.fixture
def edited(run_folder, tmp_path):
    def edit(**changes):
        folder = shutil.copytree(run_folder / "model", tmp_path / "model")
        about = json.loads((folder / "model.json").read_text())
        (folder / "model.json").write_text(json.dumps(about | changes))
        seal(folder)
        return folder

    return edit


def test_three_lines_of_a_notebook(run_folder, dataset, monkeypatch):
    monkeypatch.setitem(ALL, "small", METHODS["small"])
    found = chestmap.load(run_folder / "model").predict(dataset / "000.png")
    assert found.image_id == "000"
    assert found.scores.shape == (3,)
    assert Image.open(BytesIO(found._repr_png_())).size == found.show().size
    assert np.ptp(np.asarray(found.show(longest=64)), axis=(0, 1)).min() > 100


def test_a_path_an_array_and_a_radiograph_say_the_same(predictor, dataset):
    pixels = np.asarray(Image.open(dataset / "003.png"))
    wanted = predictor.predict(dataset / "003.png")
    for given in (
        pixels,
        pixels.astype(np.uint16) * 257,
        pixels / 255.0,
        Radiograph(pixels=np.float32(pixels / 255.0), image_id="x"),
    ):
        found = predictor.predict(given)
        np.testing.assert_allclose(found.scores, wanted.scores, atol=1e-6)
        assert found.boxes == wanted.boxes
    many = predictor.predict_many([Radiograph(pixels=np.float32(pixels / 255.0), image_id="x")] * 3)
    np.testing.assert_allclose(many[2].scores, wanted.scores, atol=1e-6)
    assert predictor.predict_many([]) == []


@pytest.mark.parametrize(
    "bad", [np.zeros((4, 4, 2)), np.zeros((0, 4)), np.full((32, 32), np.nan), np.full((32, 32), 2.0), np.zeros((4, 4), int)]
)
def test_an_array_that_is_no_picture_is_refused(predictor, bad):
    with pytest.raises(BadImage, match="expected"):
        predictor.predict(bad)


def test_scores_are_calibrated_by_slope_and_offset(predictor, edited, dataset):
    lines = {"Mass": {"slope": 2.0, "offset": -1.0}, "Nodule": {"slope": 0.5, "offset": 0.25}}
    plain, found = (
        predictor.predict(dataset / "004.png"),
        small_predictor(edited(calibration=lines)).predict(dataset / "004.png"),
    )
    values = logit(plain.scores.astype(np.float64))
    np.testing.assert_allclose(
        found.scores, [plain.scores[0], expit(2 * values[1] - 1), expit(values[2] / 2 + 0.25)], rtol=1e-5
    )


def test_a_finding_without_a_label_in_training_is_absent(predictor, edited, dataset):
    data = predictor.model.about["data"]
    labels = data["train"]["labels"] | {"Mass": {"present": 0, "absent": 0}}
    found = small_predictor(edited(data=data | {"train": data["train"] | {"labels": labels}})).predict(dataset / "004.png")
    plain = predictor.predict(dataset / "004.png")
    assert found.findings.names == ("Effusion", "Nodule")
    np.testing.assert_array_equal(found.scores, plain.scores[[0, 2]])
    np.testing.assert_array_equal(found.maps, plain.maps[[0, 2]])


def test_labels_are_counted_when_a_model_is_written(predictor, data):
    labels = predictor.model.about["data"]["train"]["labels"]
    column = data.train.labels[:, 1]
    assert labels["Mass"] == {"present": int((column == 1).sum()), "absent": int((column == 0).sum())}


@pytest.mark.parametrize(
    "changes",
    [
        {"calibration": {"Hernia": {"slope": 1, "offset": 0}}},
        {"calibration": {"Mass": {"slope": 1}}},
        {"calibration": {"Mass": {"slope": float("nan"), "offset": 0}}},
        {"thresholds": {"Mass": "high"}},
        {"operating_points": ["Mass"]},
    ],
)
def test_a_damaged_calibration_is_one_line(edited, changes):
    with pytest.raises(BadModel) as caught:
        small_predictor(edited(**changes))
    assert "model.json: " in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


def test_a_pickle_in_place_of_weights_is_refused(edited):
    import hashlib
    import pickle

    content = pickle.dumps({"weight": 1})
    folder = edited(sha256=hashlib.sha256(content).hexdigest())
    (folder / "weights.safetensors").write_bytes(content)
    with pytest.raises(BadModel, match="no safetensors file"):
        small_predictor(folder)


FINDINGS = Findings(("Mass", "Nodule"))


def test_a_box_around_the_largest_region_by_hand():
    """An 8 x 8 map over an image of 64 x 64: cell (y, x) has its center at 8x + 4, and the map falls off linearly around it."""
    maps = np.zeros((2, 8, 8), np.float16)
    maps[0, 2, 3] = 1.0  # the peak, alone
    maps[0, 5:7, 4:7] = 0.75  # larger and lower
    frame = Frame.fit((64, 64), (64, 64))
    (box,) = boxes_of(FINDINGS, np.array([0.8, 0.9]), maps, frame, BoxRule(OwnRule(0.7)))
    assert box.finding == "Mass"
    assert box.score == pytest.approx(0.8 * 0.75 / (15 / 16) ** 2)  # no pixel center lies on the peak itself
    x0, y0, x1, y1 = box.corners
    assert 34 <= x0 <= 36
    assert 52 <= x1 <= 54
    assert 42 <= y0 <= 44
    assert 52 <= y1 <= 54
    (other,) = boxes_of(FINDINGS, np.array([0.8, 0.9]), maps, frame, BoxRule(OwnRule(0.7), {"Mass": 0.9}))
    assert other.score == pytest.approx(0.8, rel=0.1)
    assert other.x0 < 28 < other.x1


def test_empty_and_broken_maps_give_no_box():
    maps = np.stack([np.full((4, 4), 0.3), np.full((4, 4), np.nan)]).astype(np.float16)
    assert boxes_of(FINDINGS, np.ones(2), maps, Frame.fit((9, 7), (8, 8)), BoxRule(OwnRule(0.5))) == ()


def test_boxes_lie_in_image_pixels_without_the_canvas_border():
    """Twice as wide as high on a square canvas: the map's lower half is partly border, which the image does not have."""
    maps = np.zeros((1, 8, 8), np.float16)
    maps[0, 2:4, 0:4] = 1
    frame = Frame.fit((200, 100), (8, 8))
    (box,) = boxes_of(Findings(("Mass",)), np.ones(1), maps, frame, BoxRule(OwnRule(0.5)))
    assert box.corners[0] == 0
    assert 90 <= box.x1 <= 110
    assert box.y0 == 0
    assert 40 <= box.y1 <= 60
