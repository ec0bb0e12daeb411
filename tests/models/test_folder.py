"""A model folder gives back the same network, or refuses with a reason."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file

from chestmap.errors import BadModel, BadSettings
from chestmap.models.folder import open_model, write_model
from chestmap.storage.manifest import seal
from chestmap.training.config import config_of
from chestmap.training.train import train
from training.small import METHODS, Net, small_tree


@pytest.fixture
def folder(run_folder, tmp_path):
    return shutil.copytree(run_folder / "model", tmp_path / "model")


def edited(folder, **changes):
    about = json.loads((folder / "model.json").read_text()) | changes
    (folder / "model.json").write_text(json.dumps({key: value for key, value in about.items() if value is not None}))
    seal(folder)


def test_an_opened_model_computes_what_was_trained(run_folder, dataset):
    model = open_model(run_folder / "model", METHODS)
    trained = Net()
    trained.load_state_dict(
        {
            name.removeprefix("network."): value
            for name, value in load_file(run_folder / "1-learn" / "weights.safetensors").items()
        }
    )
    images = torch.rand(2, 1, 32, 32)
    with torch.no_grad():
        one, other = model.network(images), trained.eval()(images)
    assert torch.equal(one.logits, other.logits)
    assert torch.equal(one.maps, other.maps)
    assert not model.network.training
    assert model.findings.names == ("Effusion", "Mass", "Nodule")
    assert model.findings.resolve("pleural effusion") == "Effusion"
    assert (model.canvas.canvas, model.own_rule.threshold) == ((32, 32), 0.5)
    assert model.about["data"]["train"]["images"] == 20


def test_the_run_folder_says_how_to_do_it_again(run_folder, dataset):
    files = {path.name for path in run_folder.iterdir()}
    assert files == {"1-learn", "model", "config.toml", "environment.json", "log.csv", "run.lock"}
    before = (run_folder / "model" / "model.json").stat().st_mtime_ns
    train(config_of(small_tree(dataset), METHODS, name="x"), run_folder, write_model, progress=False)  # all is loaded
    assert (run_folder / "model" / "model.json").stat().st_mtime_ns == before
    card = (run_folder / "model" / "README.md").read_text()
    assert "Not a medical device" in card
    assert "20 images" in card


def test_a_step_made_anew_makes_the_model_anew(run_folder, dataset, tmp_path):
    folder = shutil.copytree(run_folder, tmp_path / "run")
    shutil.rmtree(folder / "1-learn")
    edited(folder / "model", findings=["stale"])
    train(config_of(small_tree(dataset), METHODS, name="x"), folder, write_model, progress=False)
    about = json.loads((folder / "model" / "model.json").read_text())
    assert about == json.loads((run_folder / "model" / "model.json").read_text())  # the same seed, so the same weights


def test_other_weights_are_refused(folder):
    content = bytearray((folder / "weights.safetensors").read_bytes())
    content[-1] ^= 1
    (folder / "weights.safetensors").write_bytes(content)
    with pytest.raises(BadModel, match=r"sha256 \w+… instead of \w+…; the file was changed or cut"):
        open_model(folder, METHODS)


@pytest.mark.parametrize("file", ["model.json", "weights.safetensors"])
def test_a_missing_file_is_named(folder, file):
    (folder / file).unlink()
    with pytest.raises(BadModel, match=file.replace(".", r"\.")):
        open_model(folder, METHODS)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format": 2}, "format 2 is newer than 1"),
        ({"format": None}, "no format number"),
        ({"method": "smallx"}, r'made by method "smallx".*did you mean "small"'),
        ({"findings": None}, "findings missing"),
        ({"findings": ["Effusion", "Mass", "Nodule", "Edema"]}, None),
    ],
)
def test_what_does_not_belong_is_refused(folder, changes, message):
    edited(folder, **changes)
    if message is None:  # the small network has three outputs whatever the findings: nothing to refuse
        open_model(folder, METHODS)
        return
    with pytest.raises(BadModel, match=message):
        open_model(folder, METHODS)


def test_settings_of_another_version_are_told(folder):
    edited(folder, settings={"name": "small", "width": 3})
    with pytest.raises(BadSettings, match=r"model.json \(chestmap .*\): width: not a setting"):
        open_model(folder, METHODS)


def test_weights_of_another_network_are_refused(folder, monkeypatch):
    other = Net(norm=False)
    from chestmap.training.optimization.checkpoint import save_weights

    edited(folder, sha256=save_weights(other, folder / "weights.safetensors"))
    with pytest.raises(BadModel, match="the weights do not fit the network"):
        open_model(folder, METHODS)


@pytest.mark.parametrize("content", ["", "[]", '{"format": "x"}', "\udcff"])
def test_a_broken_description_is_one_line(folder, content):
    (folder / "model.json").write_text(content, errors="surrogateescape")
    with pytest.raises(BadModel) as caught:
        open_model(folder, METHODS)
    assert len(str(caught.value).splitlines()) == 1
