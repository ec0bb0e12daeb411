"""What `chestmap evaluate` and `compare` refuse: images that trained the model, whether a split hides them or none is named."""

import pytest
from scipy.special import expit

from chestmap.cli.score import scores_of
from chestmap.datasets.split import SplitSettings, make_split
from chestmap.errors import Leak
from chestmap.models.folder import read_about
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


def test_predictions_that_tell_no_training_pass(toy):
    assert scores_of(toy.predictions.folder, toy.source, None, "test", QUICK).about["images"] == len(toy.ids)
