import re

import pytest
import timm
import torch
from safetensors.torch import save_file

from chestmap.errors import BadModel, BadSettings
from chestmap.nn.backbone import Backbone, BackboneSettings


def meta(**settings):
    with torch.device("meta"):
        return Backbone(BackboneSettings(**settings))


@pytest.mark.parametrize(
    ("name", "stride", "channels"),
    [
        ("resnet18", 8, 512), ("resnet34", 16, 512), ("resnet152", 32, 2048), ("densenet121", 16, 1024),
        ("efficientnet_b0", 16, 320), ("convnext_tiny", 8, 768),
    ],
)  # fmt: skip
def test_channels_and_stride_are_as_told(name, stride, channels):
    net = meta(name=name, output_stride=stride, stages=(2, 3, 4))
    assert (net.channels, net.stride) == (channels, stride)
    features = net.stages(torch.empty(1, 1, 64, 96, device="meta"))
    told = [(1, net.channels_of[k], 64 // net.stride_of[k], 96 // net.stride_of[k]) for k in (2, 3, 4)]
    assert [tuple(one.shape) for one in features] == told


def test_resnet50_at_stride_8_gives_64_by_64_of_512():
    net = meta(name="resnet50", output_stride=8)
    assert net(torch.empty(1, 1, 512, 512, device="meta")).shape == (1, 2048, 64, 64)
    layers = dict(net.features.named_modules())
    assert [layers[f"layer{k}.1.conv2"].dilation[0] for k in (1, 2, 3, 4)] == [1, 1, 2, 4]
    assert [layers[f"layer{k}.0.conv2"].stride[0] for k in (1, 2, 3, 4)] == [1, 2, 1, 1]


@pytest.mark.parametrize("stride", [8, 16])
def test_dilation_keeps_what_the_strided_network_computes(stride):
    """Every fourth (second) position of the dilated map is the map of the strided network: weights mean the same in both."""
    nets = []
    for one in (stride, 32):
        torch.manual_seed(0)
        nets.append(Backbone(BackboneSettings(name="resnet18", output_stride=one)).eval())
    images, step = torch.rand(1, 1, 96, 64), 32 // stride
    torch.testing.assert_close(nets[0](images)[:, :, ::step, ::step], nets[1](images), atol=1e-4, rtol=1e-4)


def test_dilated_densenet_looks_as_far_as_the_strided_one():
    net = meta(name="densenet121", output_stride=8)
    kept = {name.split(".")[0]: layer for name, layer in net.features.named_modules() if name.endswith("denselayer1.conv2")}
    assert [layer.dilation[0] for layer in kept.values()] == [1, 1, 2, 4]
    assert all(layer.padding == layer.dilation for layer in kept.values())


def test_input_is_normalized_inside():
    net = Backbone(BackboneSettings(name="resnet18", mean=0.4, std=0.2)).eval()
    images = torch.rand(1, 1, 32, 32)
    torch.testing.assert_close(net(images), net.features((images - 0.4) / 0.2)[-1])


@pytest.fixture
def rgb_weights(tmp_path):
    torch.manual_seed(0)
    whole = timm.create_model("resnet18")
    save_file(whole.state_dict(), tmp_path / "resnet18.safetensors")
    return whole.eval(), tmp_path / "resnet18.safetensors"


def test_local_weights_of_three_channels_see_grey_images_the_same(rgb_weights):
    whole, path = rgb_weights
    net = Backbone(BackboneSettings(name="resnet18", weights=str(path))).eval()
    assert net.features.conv1.in_channels == 1
    images = torch.rand(1, 1, 64, 64)
    three = ((images - 0.5) / 0.5).expand(-1, 3, -1, -1)
    torch.testing.assert_close(net(images), whole.forward_features(three), atol=1e-4, rtol=1e-4)


def test_local_weights_fit_a_densenet_and_a_dilated_network(tmp_path, rgb_weights):
    _, path = rgb_weights
    dilated = Backbone(BackboneSettings(name="resnet18", output_stride=8, weights=str(path), stages=(3, 4)))
    assert [tuple(one.shape[1:]) for one in dilated.stages(torch.rand(1, 1, 32, 32))] == [(256, 4, 4), (512, 4, 4)]
    whole = timm.create_model("densenet121", in_chans=1)
    save_file(whole.state_dict(), tmp_path / "dense.safetensors")
    net = Backbone(
        BackboneSettings(name="densenet121", output_stride=32, weights=str(tmp_path / "dense.safetensors"))
    ).eval()
    images = torch.rand(1, 1, 64, 64)
    torch.testing.assert_close(net(images), whole.eval().forward_features((images - 0.5) / 0.5), atol=1e-4, rtol=1e-4)


def test_weights_that_do_not_fit_are_listed(rgb_weights, tmp_path):
    state = timm.create_model("resnet18").state_dict()
    state.pop("layer1.0.conv1.weight")
    state["layer2.0.bn1.weight"] = torch.ones(3)
    state["extra.weight"] = torch.ones(1)
    save_file(state, tmp_path / "odd.safetensors")
    settings = BackboneSettings(name="resnet18", weights=str(tmp_path / "odd.safetensors"))
    with pytest.raises(BadModel) as caught:
        Backbone(settings)
    message = str(caught.value)
    assert "\n" not in message
    for part in (
        "layer1.0.conv1.weight is missing",
        "layer2.0.bn1.weight is (3,) instead of (128,)",
        "extra.weight is not of this",
    ):
        assert part in message


@pytest.mark.parametrize("content", [None, b"\x80\x04pickle"])
def test_no_file_and_no_safetensors(tmp_path, content):
    path = tmp_path / "weights.safetensors"
    if content:
        path.write_bytes(content)
    with pytest.raises(BadModel, match="cannot be read as safetensors"):
        Backbone(BackboneSettings(name="resnet18", weights=str(path)))


def test_imagenet_without_network_says_what_to_do(monkeypatch):
    real = timm.create_model

    def offline(name, *, pretrained=False, **options):
        if pretrained:
            raise OSError("no route to host")
        return real(name, pretrained=False, **options)

    monkeypatch.setattr(timm, "create_model", offline)
    with pytest.raises(BadModel, match=re.escape('"timm/resnet50.tv_in1k"')) as caught:
        Backbone(BackboneSettings(name="resnet50.tv_in1k", weights="imagenet"))
    assert "safetensors" in str(caught.value)
    meta(name="resnet50.tv_in1k", weights="imagenet")  # on the meta device nothing is fetched


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"name": "resnet5"}, 'did you mean "resnet50"'),
        ({"name": "vit_tiny_patch16_224", "output_stride": 8}, "strides of 8 and 16 need a network that timm can dilate"),
        ({"name": "vit_tiny_patch16_224", "output_stride": 32}, "has stride 16; set output_stride to it"),
        ({"name": "resnet18", "stages": (4, 3)}, "expected ascending"),
        ({"name": "resnet18", "stages": ()}, "expected ascending"),
    ],
)
def test_settings_that_cannot_be(settings, message):
    with pytest.raises(BadSettings, match=re.escape(message)):
        meta(**settings)


def test_checkpointing_gives_the_same_gradients():
    grads = []
    for checkpointing in (False, True):
        torch.manual_seed(0)
        net = Backbone(BackboneSettings(name="resnet18", checkpointing=checkpointing))
        net(torch.full((2, 1, 32, 32), 0.3) + torch.linspace(0, 0.5, 32)).square().mean().backward()
        grads.append(net.features.layer2[0].conv1.weight.grad)
    torch.testing.assert_close(*grads)
