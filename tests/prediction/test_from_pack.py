"""Predictions on disk are what the network says, row by row, and survive a kill."""

import json
import shutil

import numpy as np
import polars as pl
import pytest
import torch

from chestmap.errors import BadInput, BadModel, Refused
from chestmap.models.folder import open_model
from chestmap.models.predictor import Predictor
from chestmap.packs.build import PackSettings
from chestmap.prediction.from_pack import PredictSettings, predict_part
from chestmap.predictions.folder import open_predictions
from chestmap.training.training_data import open_part
from training.small import METHODS, data_settings

SETTINGS = PredictSettings(batch_size=3, part_size=16, device="cpu")


@pytest.fixture(scope="module")
def model(run_folder):
    return open_model(run_folder / "model", METHODS)


@pytest.fixture(scope="module")
def everything(dataset):
    return open_part(data_settings(dataset), "all", progress=False)


@pytest.fixture(scope="module")
def predicted(model, everything, tmp_path_factory):
    folder = tmp_path_factory.mktemp("predictions") / "all"
    return predict_part(model, everything, folder, SETTINGS, progress=False)


def test_every_image_has_its_scores_and_maps(model, everything, predicted):
    assert predicted.image_ids == everything.ids
    assert [len(maps) for maps in predicted.parts] == [16, 16, 8]
    images = torch.from_numpy(everything.pack.images[everything.pack_rows][:, None] / np.float32(255))
    with torch.no_grad():
        output = model.network(images)
    np.testing.assert_allclose(predicted.scores, output.logits.sigmoid().numpy(), atol=1e-6)
    maps = np.concatenate(predicted.parts)
    assert maps.dtype == np.float16
    np.testing.assert_allclose(maps, output.maps.numpy(), rtol=1e-3, atol=1e-5)
    for prediction, image_id in zip(predicted, everything.ids, strict=True):
        assert prediction.image_id == image_id
        assert prediction.frame == everything.base_frame(image_id)
        assert prediction.patient_id == f"p{int(image_id[:3]) // 2}"


def test_the_columns_are_those_of_the_design(predicted):
    table = pl.read_parquet(predicted.folder / "part-00001" / "scores.parquet")
    assert table.columns == ["image_id", "patient_id", "width", "height", "frame", "Effusion", "Mass", "Nodule"]
    assert table["Mass"].dtype == pl.Float32
    assert len(table["frame"][0]) == 10
    about = json.loads((predicted.folder / "predictions.json").read_text())
    assert about["complete"]
    assert about["own_rule"] == {"threshold": 0.5, "normalize": True}


def test_a_killed_job_goes_on_with_the_missing_parts(model, everything, predicted, tmp_path, monkeypatch):
    seen, real = [], Predictor.raw

    def dying(self, images):
        seen.append(len(images))
        if len(seen) == 8:  # in the second part
            raise KeyboardInterrupt
        return real(self, images)

    monkeypatch.setattr(Predictor, "raw", dying)
    with pytest.raises(KeyboardInterrupt):
        predict_part(model, everything, tmp_path, SETTINGS, progress=False)
    with pytest.raises(BadModel, match="predictions are unfinished; run the same"):
        open_predictions(tmp_path)
    again = predict_part(model, everything, tmp_path, SETTINGS, progress=False)
    assert sum(seen[8:]) == 24  # all but the first part
    np.testing.assert_array_equal(again.scores, predicted.scores)
    assert not list(tmp_path.glob("*.making*"))


def test_predictions_of_other_images_are_not_mixed(model, everything, predicted):
    with pytest.raises(Refused, match="holds 24 images that are not among these inputs"):
        predict_part(model, everything.select(np.arange(16)), predicted.folder, SETTINGS, progress=False)
    assert len(open_predictions(predicted.folder)) == 40


def test_bf16_agrees_roughly(model, everything, predicted, tmp_path):
    half = predict_part(
        model, everything, tmp_path, SETTINGS.model_copy(update={"precision": "bf16", "workers": 1}), progress=False
    )
    np.testing.assert_allclose(half.scores, predicted.scores, atol=0.02)


def test_another_canvas_is_refused(model, dataset, tmp_path):
    part = open_part(data_settings(dataset, pack=PackSettings(width=24, height=32)), "test", progress=False)
    with pytest.raises(
        BadInput, match=r"sees 32×32 letterbox, the pack .* is 24×32 letterbox; pack the images for this model"
    ):
        predict_part(model, part, tmp_path, SETTINGS, progress=False)


def test_chunks_hold_all_rows_in_order(predicted):
    chunks = list(predicted.chunks(5))
    assert sum(map(len, chunks)) == 40
    assert max(map(len, chunks)) == 5
    assert tuple(one for chunk in chunks for one in chunk.image_ids) == predicted.image_ids
    np.testing.assert_array_equal(np.concatenate([chunk.scores for chunk in chunks]), predicted.scores)


def damage(folder, how):
    part = folder / "part-00001"
    match how:
        case "gap":
            part.rename(folder / "part-00007")
        case "cut":
            (part / "maps.npy").write_bytes((part / "maps.npy").read_bytes()[:100])
        case "columns":
            table = pl.read_parquet(part / "scores.parquet")
            table.drop("Mass").write_parquet(part / "scores.parquet")
        case "json":
            (folder / "predictions.json").write_text("{")
        case "format":
            (folder / "predictions.json").write_text('{"format": 9}')
        case "nothing":
            (folder / "predictions.json").unlink()


@pytest.mark.parametrize("how", ["gap", "cut", "columns", "json", "format", "nothing"])
def test_damaged_predictions_are_refused(predicted, tmp_path, how):
    folder = shutil.copytree(predicted.folder, tmp_path / "copy")
    damage(folder, how)
    with pytest.raises(BadModel) as caught:
        open_predictions(folder)
    assert str(folder) in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


HEADERS = {
    "findings missing": ({"findings": None}, "findings: missing"),
    "findings a text": ({"findings": "Mass"}, "findings: input should be a valid list"),
    "findings of numbers": ({"findings": [1]}, "findings.0: input should be a valid string"),
    "no findings": ({"findings": []}, "findings: list should have at least 1 item"),
    "findings twice": ({"findings": ["Mass", "mass"]}, "names must be present and differ"),
    "canvas of one": ({"canvas": [32]}, "canvas: list should have at least 2 items"),
    "canvas of nothing": ({"canvas": [0, 32]}, "expected width and height of at least 1"),
    "complete in words": ({"complete": "yes"}, "complete: input should be a valid boolean"),
    "rule a number": ({"own_rule": 5}, "own_rule: input should be"),
    "rule without threshold": ({"own_rule": {}}, "own_rule.threshold: missing"),
    "rule of infinity": ({"own_rule": {"threshold": 1e999}}, "own_rule.threshold: input should be a finite number"),
    "model a list": ({"model": []}, "model: input should be"),
    "part size of half": ({"part_size": 0.5}, "part_size: input should be"),
    "data a number": ({"data": 7}, "data: input should be a valid string"),
    "a flipped bit in a key": ({"data": None, "eata": ""}, "eata: not a setting (got ''); did you mean \"data\"?"),
}


@pytest.mark.parametrize("case", HEADERS)
def test_a_header_of_other_kinds_is_refused(predicted, tmp_path, case):
    changes, message = HEADERS[case]
    header = json.loads((predicted.folder / "predictions.json").read_text()) | changes
    header = {key: value for key, value in header.items() if value is not None}
    (tmp_path / "predictions.json").write_text(json.dumps(header))
    with pytest.raises(BadModel) as caught:
        open_predictions(tmp_path)
    assert message in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1
