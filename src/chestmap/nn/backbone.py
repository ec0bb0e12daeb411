"""timm networks as feature maps of a known stride, for images of one channel in [0, 1]."""

from pathlib import Path
from typing import Annotated, Any, Literal

import timm
import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn

from chestmap.errors import BadModel, BadSettings, did_you_mean
from chestmap.nn.weights import of_model, starting_weights
from chestmap.settings import Settings

Stage = Annotated[int, Field(ge=1, le=4)]


class BackboneSettings(Settings):
    """`name` is any timm model that offers features, with timm's tag where the weights matter ("resnet50.tv_in1k")."""

    name: str = "resnet50"
    output_stride: Literal[8, 16, 32] = 32
    weights: str = (
        "none"  # or imagenet, a safetensors file with timm's names, a model folder, torchxrayvision:NAME (docs/weights.md)
    )
    stages: tuple[Stage, ...] = (4,)  # ascending; the last stage is 4, whatever timm counts before it
    mean: float = 0.5  # HAM's code; with the summed stem it equals three equal channels
    std: Annotated[float, Field(gt=0)] = 0.5
    checkpointing: bool = False  # computes activations twice to save memory; batch norm then counts every batch twice


class Backbone(nn.Module):
    """Features of the last stage, or of several.

    Strides below 32 come from dilation: where a stage gives up its stride, later 3x3 convolutions look 2 or 4 times as far
    (resnet at 8: strides 1, 2, 1, 1 and dilations 1, 1, 2, 4; as in timm and Yu 2017 the first convolution after a removed
    stride keeps the dilation before it, so that pretrained weights see what they were trained on).

    Built on the meta device no weights are looked for: they are about to come from a model folder.
    """

    def __init__(self, settings: BackboneSettings) -> None:
        super().__init__()
        if list(settings.stages) != sorted(set(settings.stages)) or not settings.stages:
            raise BadSettings(f"backbone stages {settings.stages}: expected ascending numbers from 1 to 4")
        self.mean, self.std = settings.mean, settings.std
        self.features = _features(settings)
        info: Any = self.features.feature_info
        self.channels_of = dict(zip(settings.stages, info.channels(), strict=True))
        strides = [min(stride, settings.output_stride) for stride in info.reduction()]
        self.stride_of = dict(zip(settings.stages, strides, strict=True))
        last = settings.stages[-1]
        self.channels, self.stride = self.channels_of[last], self.stride_of[last]
        if last == 4 and self.stride != settings.output_stride:
            raise BadSettings(
                f"backbone {settings.name} has stride {self.stride}; set output_stride to it (got {settings.output_stride})"
            )
        if settings.checkpointing:
            self.features.set_grad_checkpointing()

    def stages(self, images: Float[Tensor, "batch 1 height width"]) -> list[Float[Tensor, "batch _channel _h _w"]]:
        """One feature map for each of the settings' `stages`, in their order."""
        return self.features((images - self.mean) / self.std)

    def forward(self, images: Float[Tensor, "batch 1 height width"]) -> Float[Tensor, "batch channel h w"]:
        return self.stages(images)[-1]


def check_backbones(settings: object) -> None:
    """Refuses a name that timm does not have, anywhere in a method's settings; before images are packed for hours."""
    if isinstance(settings, BackboneSettings) and not timm.is_model(settings.name):
        hint = did_you_mean(settings.name.split(".")[0], timm.list_models())
        raise BadSettings(f'backbone "{settings.name}" is no model of timm {timm.__version__}{hint}')
    if isinstance(settings, Settings):
        for key in type(settings).model_fields:
            check_backbones(getattr(settings, key))


def _features(settings: BackboneSettings) -> Any:
    """The timm network cut at its stages; `FeatureInfo` holds the channels and strides."""
    name = settings.name
    check_backbones(settings)
    options: dict[str, Any] = {
        "features_only": True, "in_chans": 1, "out_indices": tuple(stage - 5 for stage in settings.stages)
    }  # fmt: skip
    dense = name.startswith("densenet")
    if settings.output_stride < 32 and not dense:
        options["output_stride"] = settings.output_stride
    try:
        net = _weighted(settings, options)
    except (TypeError, AssertionError, AttributeError) as error:
        raise BadSettings(
            f"backbone {name} at output_stride = {settings.output_stride} is not possible ({error or 'refused by timm'}); "
            "strides of 8 and 16 need a network that timm can dilate (resnet, efficientnet, convnext) or a densenet"
        ) from None
    return _dilated_densenet(net, settings.output_stride) if dense else net


def _weighted(settings: BackboneSettings, options: dict[str, Any]) -> nn.Module:
    if settings.weights == "none" or torch.get_default_device().type == "meta":
        return timm.create_model(settings.name, pretrained=False, **options)
    if Path(settings.weights).is_dir():
        net = timm.create_model(settings.name, pretrained=False, **options)
        net.load_state_dict(of_model(Path(settings.weights), net.state_dict()))
        return net
    if settings.weights != "imagenet":
        source = {"state_dict": starting_weights(settings.weights, settings.name, settings.mean, settings.std)}
        net = timm.create_model(settings.name, pretrained=True, pretrained_cfg_overlay=source, **options)
        del net.pretrained_cfg  # which would keep a second copy of the weights
        return net
    try:
        return timm.create_model(settings.name, pretrained=True, **options)
    except (OSError, RuntimeError, ValueError) as error:
        config = timm.get_pretrained_cfg(settings.name)
        origin = config.hf_hub_id if config and config.hf_hub_id else f"timm/{settings.name}"
        raise BadModel(
            f"imagenet weights of {settings.name} could not be fetched ({type(error).__name__}); fetch model.safetensors of "
            f'"{origin}" from the Hugging Face hub where there is a network, and set weights = "/path/of/model.safetensors"'
        ) from None


def _dilated_densenet(net: nn.Module, output_stride: int) -> nn.Module:
    """What timm does not do: leave out the pooling of late transitions and dilate the blocks behind them."""
    stride, dilation = 4, 1
    for name, child in net.named_children():
        if "transition" in name:
            if stride >= output_stride:
                child.pool, dilation = nn.Identity(), dilation * 2
            else:
                stride *= 2
        for layer in child.modules():
            if "denseblock" in name and isinstance(layer, nn.Conv2d) and layer.kernel_size == (3, 3):
                layer.dilation = layer.padding = (dilation, dilation)
    return net
