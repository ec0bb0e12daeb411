"""What is chosen on validation images is what an independent computation chooses, and what the model then does."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import typer
from scipy.special import expit, logit
from sklearn.linear_model import LogisticRegression
from typer.testing import CliRunner

from chestmap.cli import model
from chestmap.datasets.split import SplitSettings, make_split
from chestmap.errors import BadInput, Leak, Refused
from chestmap.models.calibrate import CalibrateSettings, calibrate, recalibrated, uncalibrated, write_calibration
from chestmap.models.folder import open_model, read_about
from chestmap.models.largest_box import BoxRule, boxes_of
from chestmap.models.leakage import check_split
from chestmap.predictions.folder import OwnRule
from chestmap.storage.manifest import seal
from chestmap.types import Box, Findings
from models.toy_model import BOXES, FRAME, SPLIT, Toy, toy_maps, toy_predictions
from prediction.predict_small import small_predictor
from training.small import FINDINGS, METHODS

FEW = 30
"""More than there are boxes, so that no map is read."""

app = typer.Typer()
model.add_to(app)


@pytest.fixture(scope="module")
def toy(tmp_path_factory):
    return Toy(tmp_path_factory.mktemp("toy"))


@pytest.fixture(scope="module")
def chosen(toy):
    return calibrate(toy.model, toy.predictions, toy.source, toy.split)


@pytest.fixture
def written(toy, chosen, tmp_path):
    folder = shutil.copytree(toy.model, tmp_path / "model")
    write_calibration(folder, chosen)
    return folder


def validation(toy, column=0):
    ids = toy.split.parts["validation"]
    return toy.of(ids)[:, column], toy.source.labels[toy.source.rows(ids), column]


def test_the_calibration_is_that_of_an_unpenalized_logistic_regression(toy, chosen):
    lines = chosen.as_json()["calibration"]
    for column, name in enumerate(("Effusion", "Mass")):
        z, labels = validation(toy, column)
        fit = LogisticRegression(C=np.inf, tol=1e-10).fit(z[:, None], labels)
        assert lines[name]["slope"] == pytest.approx(fit.coef_[0, 0], rel=1e-3)
        assert lines[name]["offset"] == pytest.approx(fit.intercept_[0], abs=2e-3)
    assert abs(lines["Effusion"]["slope"] - 0.5) < 0.2
    assert "Nodule" not in lines  # never present
    assert chosen.findings[2].images == (0, len(toy.split.parts["validation"]))


def test_an_operating_point_is_on_the_calibrated_score_and_loses_no_image(toy, chosen):
    """Youden's by trying every score."""
    z, labels = validation(toy)
    line, point = (chosen.as_json()[key]["Effusion"] for key in ("calibration", "operating_points"))
    called = expit(line["slope"] * z + line["offset"]) >= point
    best = max(
        (labels[z >= cut] == 1).sum() / (labels == 1).sum() - (labels[z >= cut] == 0).sum() / (labels == 0).sum()
        for cut in z
    )
    sensitivity, specificity = called[labels == 1].mean(), (~called[labels == 0]).mean()
    assert sensitivity + specificity - 1 == pytest.approx(best)
    assert chosen.findings[0].point.sensitivity == pytest.approx(sensitivity)
    for factor in (1 - 1e-6, 1 + 1e-6):  # rounding elsewhere
        np.testing.assert_array_equal(expit(line["slope"] * z + line["offset"]) * factor >= point, called)


@pytest.mark.parametrize(("aim", "rate"), [("sensitivity", 0), ("specificity", 1)])
def test_an_aim_is_reached(toy, aim, rate):
    found = calibrate(toy.model, toy.predictions, toy.source, toy.split, CalibrateSettings(aim=aim, target=0.9, least=FEW))
    z, labels = validation(toy)
    line, point = (found.as_json()[key]["Effusion"] for key in ("calibration", "operating_points"))
    called = expit(line["slope"] * z + line["offset"]) >= point
    rates = called[labels == 1].mean(), (~called[labels == 0]).mean()
    assert 0.9 <= rates[rate] < 0.95


def test_each_map_is_cut_where_its_boxes_are_met(chosen):
    """Effusion's box holds the shoulder, which is half as high as the core; Mass has the core alone."""
    levels = chosen.as_json()["thresholds"]
    assert 0.2 < levels["Effusion"] < 0.5 < levels["Mass"]
    rule, findings, scores = BoxRule(OwnRule(0.9), levels), Findings(FINDINGS), np.ones(3)
    found = {box.finding: box for box in boxes_of(findings, scores, toy_maps(), FRAME, rule)}
    own = {box.finding: box for box in boxes_of(findings, scores, toy_maps(), FRAME, BoxRule(OwnRule(0.9)))}
    for name, corners in BOXES.items():
        assert found[name].iou(Box(name, *corners)) > 0.7 > own[name].iou(Box(name, *corners))
    assert found["Nodule"].corners == own["Nodule"].corners  # without boxes the method's own rule stays
    assert chosen.findings[0].met == 1


def test_the_model_does_what_was_chosen(toy, chosen, written):
    """Scores, boxes and operating points of the predictor, by hand from those of the model before."""
    pixels = np.random.default_rng(1).random((64, 64))
    before, after = small_predictor(toy.model), small_predictor(written)
    plain, found = before.predict(pixels), after.predict(pixels)
    z, lines = logit(plain.scores.astype(np.float64)), chosen.as_json()["calibration"]
    wanted = [expit(lines[name]["slope"] * z[i] + lines[name]["offset"]) for i, name in enumerate(("Effusion", "Mass"))]
    np.testing.assert_allclose(found.scores, [*wanted, plain.scores[2]], rtol=1e-5)
    np.testing.assert_array_equal(found.maps, plain.maps)
    assert after.operating_points == chosen.as_json()["operating_points"]
    rule = BoxRule(OwnRule(0.5), chosen.as_json()["thresholds"])
    assert found.boxes == boxes_of(Findings(FINDINGS), found.scores, found.maps, found.frame, rule) != plain.boxes


def test_only_what_was_chosen_changes_in_the_folder(toy, chosen, written):
    before, after = read_about(toy.model), read_about(written)
    assert {key for key in after if key not in before} == {"calibration", "operating_points", "thresholds", "calibrated_on"}
    assert all(after[key] == before[key] for key in before)
    assert (written / "weights.safetensors").read_bytes() == (toy.model / "weights.safetensors").read_bytes()
    assert not list(written.glob("*.part"))
    open_model(written, METHODS)
    on = after["calibrated_on"]
    assert (on["split_fingerprint"], on["part"]) == (toy.split.fingerprint, "validation")
    assert on["findings"]["Effusion"]["with"] == int((validation(toy)[1] == 1).sum())


def test_predictions_that_are_calibrated_already_choose_the_same(toy, chosen, tmp_path):
    """They carry their calibration, which is taken back first."""
    lines = {"Effusion": {"slope": 2.0, "offset": -0.3}}
    z = toy.of(toy.ids)
    scores = expit(np.stack([2 * z[:, 0] - 0.3, z[:, 1], z[:, 2]], axis=1))
    again = toy_predictions(tmp_path / "again", toy.model, toy.ids, scores, calibration=lines)
    told = abs(2 * z[:, 0] - 0.3) < 10  # beyond, float32 knows little of a score near 1
    np.testing.assert_allclose(logit(uncalibrated(again)[:, 0])[told], z[told, 0], atol=1e-2)
    found = calibrate(toy.model, again, toy.source, toy.split, CalibrateSettings(least=FEW)).as_json()["calibration"]
    for name, line in chosen.as_json()["calibration"].items():
        assert found[name]["slope"] == pytest.approx(line["slope"], rel=1e-2)
    now = recalibrated(again, chosen.as_json())
    line = chosen.as_json()["calibration"]["Effusion"]
    np.testing.assert_allclose(now.scores[told, 0], expit(line["slope"] * z[told, 0] + line["offset"]), atol=1e-3)
    assert now.header.model["calibration"] == chosen.as_json()["calibration"]
    np.testing.assert_allclose(recalibrated(now, {}).scores[:, 1], expit(z[:, 1]), atol=1e-5)


def test_too_few_images_choose_nothing(toy):
    with pytest.raises(BadInput, match="no finding has 500 validation images"):
        calibrate(toy.model, toy.predictions, toy.source, toy.split, CalibrateSettings(least=500))
    few = calibrate(toy.model, toy.predictions, toy.source, toy.split, CalibrateSettings(least=FEW)).as_json()
    assert few["calibration"]
    assert not few["thresholds"]


@pytest.mark.parametrize("part", ["test", "train"])
def test_another_part_is_refused(toy, part):
    with pytest.raises(Refused, match="from validation alone"):
        calibrate(toy.model, toy.predictions, toy.source, toy.split, part=part)


def test_images_that_may_have_trained_the_model_are_refused(toy, tmp_path):
    other = make_split(toy.source, SPLIT.model_copy(update={"seed": 1}))
    with pytest.raises(Leak, match=r"split otherwise than patients .* give it as a folder"):
        calibrate(toy.model, toy.predictions, toy.source, other)
    named = make_split(toy.source, SplitSettings(name="ag-cnn"))
    with pytest.raises(Leak, match="by patients, not by ag-cnn"):
        calibrate(toy.model, toy.predictions, toy.source, named)
    is_test = {"name": "validation-is-test", "parts": dict(toy.split.parts) | {"validation": toy.split.parts["test"]}}
    with pytest.raises(Refused, match="its validation is its test"):
        calibrate(toy.model, toy.predictions, toy.source, replace(toy.split, **is_test))


def test_a_model_of_before_fingerprints_of_splits_is_compared_by_its_counts(toy):
    data = {key: value for key, value in read_about(toy.model)["data"].items() if key != "split_fingerprint"}
    assert check_split(toy.model, data, toy.source, toy.split) == []
    for changes in ({"images": data["train"]["images"] + 1}, {"labels": {name: {"present": 3} for name in FINDINGS}}):
        with pytest.raises(Leak, match="split otherwise"):
            check_split(toy.model, data | {"train": data["train"] | changes}, toy.source, toy.split)


def test_another_hospital_is_noted_not_refused(toy):
    data = read_about(toy.model)["data"] | {"source": "nih", "fingerprint": "elsewhere"}
    (note,) = check_split(toy.model, data, toy.source, toy.split)
    assert "share patients was not checked" in note


def test_another_model_and_missing_images_are_told(toy, tmp_path):
    about = read_about(toy.model) | {"sha256": "0" * 64}
    other = shutil.copytree(toy.model, tmp_path / "other")
    (other / "model.json").write_text(json.dumps(about))
    seal(other)
    with pytest.raises(Refused, match=r"made by weights .*predict with it"):
        calibrate(other, toy.predictions, toy.source, toy.split)
    half = toy_predictions(tmp_path / "half", toy.model, toy.ids[:100], expit(toy.of(toy.ids[:100])))
    assert (
        "were not predicted" in calibrate(toy.model, half, toy.source, toy.split, CalibrateSettings(least=20)).on["notes"][0]
    )
    none = toy_predictions(tmp_path / "none", toy.model, toy.ids[-9:], expit(toy.of(toy.ids[-9:])))
    with pytest.raises(BadInput, match=r"none of the .* images of validation"):
        calibrate(toy.model, none, toy.source, toy.split)


def test_the_verb_prints_what_it_chose(toy, tmp_path):
    folder, split = shutil.copytree(toy.model, tmp_path / "model"), toy.split.write(tmp_path / "split")
    options = [
        "--source",
        "folder",
        "--root",
        str(toy.source.root),
        "--set",
        "labels=labels.csv",
        "--set",
        "boxes=boxes.csv",
    ]
    command = ["model", "calibrate", str(folder), str(toy.predictions.folder), *options, "--split", str(split)]
    done = CliRunner().invoke(app, command, env={"COLUMNS": "160"}, catch_exceptions=False)
    assert done.exit_code == 0
    assert "Effusion" in done.stdout
    assert read_about(folder)["calibration"]["Mass"]["slope"] > 0
    assert "**Chosen on" in (folder / "README.md").read_text()
