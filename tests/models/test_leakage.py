"""What `chestmap evaluate` and `compare` refuse: images that trained the model, whether a split hides them or none is named."""

import json
from dataclasses import replace

import cv2
import numpy as np
import pytest
from scipy.special import expit

from chestmap.cli.score import scores_of
from chestmap.datasets.folder import FolderSettings, read_folder
from chestmap.datasets.split import SplitSettings, make_split
from chestmap.datasets.training_hashes import TrainingHashes
from chestmap.errors import BadInput, Leak
from chestmap.imaging.canvas import CanvasSettings, on_canvas
from chestmap.imaging.pack_rows import pixel_hash
from chestmap.models.folder import read_about
from chestmap.models.leakage import check_seen
from chestmap.predictions.folder import open_predictions
from models.toy_model import Toy, toy_predictions, toy_source

QUICK = ["resamples=1"]


@pytest.fixture(scope="module")
def toy(tmp_path_factory):
    return Toy(tmp_path_factory.mktemp("toy"))


@pytest.fixture(scope="module")
def told(toy, tmp_path_factory):
    """Predictions of all images, as `chestmap predict` writes them: with what the model was trained on."""
    folder, data = tmp_path_factory.mktemp("told") / "all", read_about(toy.model)["data"]
    return toy_predictions(folder, toy.model, toy.source.ids, expit(toy.of(toy.source.ids)), data=data).folder


def test_the_split_that_trained_the_model_is_scored(toy, told):
    assert scores_of(told, toy.source, toy.split, "test", QUICK).about["images"] == len(toy.split.parts["test"])


def test_another_split_is_refused(toy, told):
    other = make_split(toy.source, SplitSettings(name="patients", validation=0.4, test=0.4, seed=1))
    assert set(other.parts["test"]) & set(toy.split.parts["train"])
    with pytest.raises(Leak, match=r"split otherwise than patients.*name the split"):
        scores_of(told, toy.source, other, "test", QUICK)


def test_all_images_of_the_training_source_are_refused(toy, told):
    with pytest.raises(Leak, match=r"images of this folder trained its model, by the split patients; name that split"):
        scores_of(told, toy.source, None, "test", QUICK)


def test_images_of_another_source_are_scored_with_a_note(toy, told, tmp_path, capsys):
    other, _ = toy_source(tmp_path / "other", images=300)
    assert other.fingerprint != toy.source.fingerprint
    assert scores_of(told, other, None, "test", QUICK).about["images"] == 300
    assert scores_of(told, other, make_split(other, SplitSettings(name="patients")), "test", QUICK).about["images"] > 0
    assert capsys.readouterr().err.count("whether they share patients was not checked") == 2


def test_predictions_that_tell_no_training_pass_with_a_note(toy, capsys):
    assert scores_of(toy.predictions.folder, toy.source, None, "test", QUICK).about["images"] == len(toy.ids)
    assert "whether these images trained its model is not known" in capsys.readouterr().err


def test_training_images_are_refused_and_a_misspelt_part_is_told(toy, told):
    with pytest.raises(Leak, match="--part train: these images trained its model"):
        scores_of(told, toy.source, toy.split, "train", QUICK)
    with pytest.raises(BadInput, match='did you mean "test"'):
        scores_of(told, toy.source, toy.split, "tset", QUICK)


@pytest.fixture(scope="module")
def remembered(toy, tmp_path_factory):
    """Predictions of all images by a model that keeps hashes of its training images."""
    ids = toy.split.parts["train"]
    patients = toy.source.images["patient_id"][toy.source.rows(ids)].to_list()
    data = read_about(toy.model)["data"] | {
        "fingerprint": "of another copy",
        "seen": TrainingHashes.of("folder", ids, patients).as_dict(),
    }
    folder = tmp_path_factory.mktemp("remembered") / "all"
    return toy_predictions(folder, toy.model, toy.source.ids, expit(toy.of(toy.source.ids)), data=data).folder


def test_another_copy_of_the_training_images_is_refused_whatever_its_fingerprint(toy, remembered):
    count = len(toy.split.parts["train"])
    with pytest.raises(Leak, match=rf"{count} of these 400 images, and {count // 2} of their patients, trained the model"):
        scores_of(remembered, toy.source, None, "test", QUICK)
    other = make_split(toy.source, SplitSettings(name="patients", validation=0.4, test=0.4, seed=1))
    with pytest.raises(Leak, match="trained the model"):
        scores_of(remembered, toy.source, other, "test", QUICK)


def test_images_that_provably_did_not_train_are_scored_whatever_the_split_is_called(toy, remembered, capsys):
    held = replace(toy.split, name="my-own", parts=dict(toy.split.parts) | {"train": ()})
    assert scores_of(remembered, toy.source, held, "test", QUICK).about["images"] == len(toy.split.parts["test"])
    assert "none of their patients trained the model: checked by its hashes" in capsys.readouterr().err


def test_images_under_other_names_are_scored_and_not_called_proven(toy, remembered, capsys):
    renamed = replace(toy.source, name="stranger")
    held = toy.split.parts["test"]
    told = check_seen(remembered, open_predictions(remembered).header.model["data"], renamed, held, (64, 64))
    assert "was not checked" in told[0]


def test_a_picture_under_another_id_is_recognized(tmp_path):
    """Three films of a stranger, of which one is a copy of one that trained the model, under another id."""
    rng = np.random.default_rng(0)
    films = [rng.integers(0, 255, (32, 32)).astype(np.uint8) for _ in range(3)]
    for number, film in enumerate(films):
        cv2.imwrite(str(tmp_path / f"s{number}.png"), film)
    (tmp_path / "labels.csv").write_text("image,patient_id,Mass\n" + "".join(f"s{n}.png,p{n},1\n" for n in range(3)))
    source = read_folder(FolderSettings(root=tmp_path, labels="labels.csv"))
    canvas, _ = on_canvas(source[1].radiograph, CanvasSettings(width=16, height=16))
    known, strange = pixel_hash(canvas.tobytes()), pixel_hash(b"another")
    data = {"seen": TrainingHashes.of("nih", ["a.png"], ["1"], [known, strange]).as_dict()}
    with pytest.raises(Leak, match="1 of 3 images that were looked at have the pixels of images that trained the model"):
        check_seen(tmp_path, data, source, source.ids, (16, 16))
    told = check_seen(tmp_path, data, source, [source.ids[0], source.ids[2]], (16, 16))
    assert "none of 2 that were looked at its pixels" in told[0]
    data = {"seen": TrainingHashes.of("nih", ["a.png"], ["1"]).as_dict()}  # of a model that keeps no pixels
    assert "under other ids was not checked" in check_seen(tmp_path, data, source, source.ids, (16, 16))[0]


def test_hashes_come_back_as_they_were_kept_and_tell_nobody():
    seen = TrainingHashes.of("nih", ["a.png", "b.png"], ["1", "2", ""], [b"x"], salt="s")
    again = TrainingHashes.from_dict(json.loads(json.dumps(seen.as_dict())), "model")
    assert (again.counts, again.salt, again.same_pixels([b"x", b"y"])) == ((2, 2), "s", 1)
    assert again.overlap(["b.png", "c.png"], ["2", "3", ""]).__dict__ == {"images": 1, "patients": 1}
    assert (
        TrainingHashes.of("nih", ["a.png"], ["1"]).as_dict()["images"]
        != TrainingHashes.of("nih", ["a.png"], ["1"]).as_dict()["images"]
    )
