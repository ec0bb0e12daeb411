"""timm networks as feature maps of a known stride, for images of one channel in [0, 1].

A backbone gives maps [batch, channel, h, w] at its stride. Networks of timm expect three channels; the stem is summed over
them once. Frozen stages can be computed once and kept (`data.views`).
"""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any, Literal

import timm
import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn

from chestmap.errors import BadModel, BadSettings, did_you_mean
from chestmap.nn.trunk import Pyramid, Trunk, in_order
from chestmap.nn.weights import model_place, of_model, starting_weights
from chestmap.settings import Settings

Images = Float[Tensor, "batch _pixels height width"]  # of one channel, or the kept features of a frozen trunk
Stage = Annotated[int, Field(ge=1, le=4)]


class BackboneSettings(Settings):
    """`name` is any timm model that offers features, with timm's tag where the weights matter ("resnet50.tv_in1k")."""

    name: str = "resnet50"
    output_stride: Literal[8, 16, 32] = 32
    weights: str = "none"  # or imagenet, a safetensors file with timm's names, a model folder, starter, torchxrayvision:NAME (docs/weights.md)
    stages: tuple[Stage, ...] = (4,)  # ascending; the last stage is 4, whatever timm counts before it
    mean: float = 0.5  # HAM's code; with the summed stem it equals three equal channels
    std: Annotated[float, Field(gt=0)] = 0.5
    frozen: Annotated[int, Field(ge=0, le=3)] = 0  # so many first stages do not learn; their norms stand still too
    pyramid: Annotated[int, Field(ge=0)] = (
        0  # channels in which `stages` are joined on the finest one's grid; 0: the last alone
    )
    checkpointing: bool = False  # computes activations twice to save memory; batch norm then counts every batch twice


class Backbone(nn.Module):
    """Features of the last stage, or of several.

    Strides below 32 come from dilation: where a stage gives up its stride, later 3x3 convolutions look 2 or 4 times as far
    (resnet at 8: strides 1, 2, 1, 1 and dilations 1, 1, 2, 4; as in timm and Yu 2017 the first convolution after a removed
    stride keeps the dilation before it, so that pretrained weights see what they were trained on).

    `watched`, where it is a list, gets the last stage's features of every pass that learns.

    Built on the meta device no weights are looked for: they are about to come from a model folder.
    """

    watched: list[Tensor] | None = None

    def __init__(self, settings: BackboneSettings) -> None:
        super().__init__()
        if list(settings.stages) != sorted(set(settings.stages)) or not settings.stages:
            raise BadSettings(f"backbone stages {settings.stages}: expected ascending numbers from 1 to 4")
        self.mean, self.std = settings.mean, settings.std
        self.features = _features(settings)
        info: Any = self.features.feature_info
        found = _found_stages(settings)
        self.channels_of = dict(zip(found, info.channels(), strict=True))
        strides = [min(stride, settings.output_stride) for stride in info.reduction()]
        self.stride_of = dict(zip(found, strides, strict=True))
        last = settings.stages[-1]
        self.channels, self.stride = self.channels_of[last], self.stride_of[last]
        self.wanted, self.trunk, self.pyramid = settings.stages, None, None
        if settings.frozen:
            kept = tuple(stage for stage in found if stage <= settings.frozen)
            self.trunk, self.order = Trunk(kept, self.channels_of, self.stride_of), (in_order(self.features, settings.name),)
            for module in self.still():
                module.requires_grad_(requires_grad=False)
        if last == 4 and self.stride != settings.output_stride:
            raise BadSettings(
                f"backbone {settings.name} has stride {self.stride}; set output_stride to it (got {settings.output_stride})"
            )
        if settings.checkpointing:
            self.features.set_grad_checkpointing()
        if settings.pyramid:
            self.pyramid = Pyramid([self.channels_of[stage] for stage in settings.stages], settings.pyramid)
            self.channels, self.stride = settings.pyramid, self.stride_of[settings.stages[0]]

    def stages(self, images: Images) -> list[Float[Tensor, "batch _channel _h _w"]]:
        """One feature map for each of the settings' `stages`, in their order; of images, or of what `kept` gave of them."""
        found = self._stages(images)
        if self.watched is not None and found[-1].requires_grad:
            self.watched.append(found[-1])
        return found

    def _stages(self, images: Images) -> list[Float[Tensor, "batch _channel _h _w"]]:
        """The maps of the wanted stages, the coarsest last.

        Frozen stages run without gradients, or come packed in `images`.
        """
        if self.trunk is None:
            return self.features((images - self.mean) / self.std)
        if images.shape[1] == 1:
            with torch.no_grad():
                early = self._early(images)
        else:
            early = self.trunk.unpack(images)
        maps, x = list(early), early[-1]
        for module, ends in self.order[0][self._cut() :]:
            x = module(x)
            if ends:
                maps.append(x)
        return [one for stage, one in zip(self.channels_of, maps, strict=True) if stage in self.wanted]

    def forward(self, images: Images) -> Float[Tensor, "batch channel h w"]:
        """The last map, or the joined pyramid, for images [batch, 1, h, w] in [0, 1]."""
        return self.joined(self.stages(images))

    def joined(self, maps: list[Float[Tensor, "batch _channel _h _w"]]) -> Float[Tensor, "batch channel h w"]:
        """What `forward` gives, of what `stages` gave."""
        return maps[-1] if self.pyramid is None else self.pyramid(maps)

    @torch.no_grad()
    def kept(self, images: Float[Tensor, "batch 1 height width"]) -> Float[Tensor, "batch kept h w"]:
        """What the frozen stages make of images, in one tensor, which `stages` and `forward` take in place of the images."""
        if self.trunk is None:
            raise BadSettings("backbone frozen = 0: there are no frozen stages whose features could be kept")
        return self.trunk.pack(self._early(images))

    def _early(self, images: Float[Tensor, "batch 1 height width"]) -> list[Tensor]:
        maps, x = [], (images - self.mean) / self.std
        for module, ends in self.order[0][: self._cut()]:
            x = module(x)
            if ends:
                maps.append(x)
        return maps

    def _cut(self) -> int:
        """How many modules are frozen: up to the end of the last kept stage."""
        assert self.trunk is not None
        ends = [number for number, (_, is_end) in enumerate(self.order[0]) if is_end]
        return ends[len(self.trunk.kept) - 1] + 1

    def still(self) -> list[nn.Module]:
        """Modules of the frozen stages, which training leaves as they are."""
        return [module for module, _ in self.order[0][: self._cut()]] if self.trunk else []

    def train(self, mode: bool = True) -> "Backbone":  # noqa: FBT001, FBT002 -- torch's own signature
        """Sets the mode, but keeps batch norms of frozen stages in evaluation."""
        super().train(mode)
        for module in self.still():
            module.eval()
        return self


def _found_stages(settings: BackboneSettings) -> tuple[int, ...]:
    """Those that are asked for, and with frozen stages all from the first of these to the last frozen one."""
    if not settings.frozen:
        return settings.stages
    first = min(settings.stages[0], settings.frozen)
    return tuple(sorted({*settings.stages, *range(first, settings.frozen + 1)}))


def check_backbones(settings: object) -> None:
    """Refuses a name that timm does not have, anywhere in a method's settings; before images are packed for hours."""
    if isinstance(settings, BackboneSettings) and not timm.is_model(settings.name):
        hint = did_you_mean(settings.name.split(".")[0], timm.list_models())
        raise BadSettings(f'backbone "{settings.name}" is no model of timm {timm.__version__}{hint}')
    if isinstance(settings, Settings):
        for key in type(settings).model_fields:
            check_backbones(getattr(settings, key))


@contextmanager
def watched_features(module: nn.Module, *, on: bool = True) -> Iterator[list[Tensor]]:
    """What the backbones of `module` hand to its heads while this lasts; gradients of single losses are taken there."""
    found: list[Tensor] = []
    backbones = [
        one
        for one in module.modules()
        if on and isinstance(one, Backbone) and any(value.requires_grad for value in one.parameters())
    ]
    for backbone in backbones:
        backbone.watched = found
    try:
        yield found
    finally:
        for backbone in backbones:
            backbone.watched = None


def _features(settings: BackboneSettings) -> Any:
    """The timm network cut at its stages; `FeatureInfo` holds the channels and strides."""
    name = settings.name
    check_backbones(settings)
    options: dict[str, Any] = {
        "features_only": True, "in_chans": 1, "out_indices": tuple(stage - 5 for stage in _found_stages(settings))
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
    """Makes the network with the weights that the settings name; on the meta device with none, since a model folder brings
    its own.
    """
    if settings.weights == "none" or torch.get_default_device().type == "meta":
        return timm.create_model(settings.name, pretrained=False, **options)
    if (folder := model_place(settings.weights)) is not None:
        net = timm.create_model(settings.name, pretrained=False, **options)
        net.load_state_dict(of_model(folder, net.state_dict()))
        return net
    if settings.weights != "imagenet":
        source = {"state_dict": starting_weights(settings.weights, settings.name, settings.mean, settings.std)}
        with _quiet():
            net = timm.create_model(settings.name, pretrained=True, pretrained_cfg_overlay=source, **options)
        del net.pretrained_cfg  # which would keep a second copy of the weights
        return net
    try:
        with _quiet():
            return timm.create_model(settings.name, pretrained=True, **options)
    except (OSError, RuntimeError, ValueError) as error:
        config = timm.get_pretrained_cfg(settings.name)
        origin = config.hf_hub_id if config and config.hf_hub_id else f"timm/{settings.name}"
        raise BadModel(
            f"imagenet weights of {settings.name} could not be fetched ({type(error).__name__}); fetch model.safetensors of "
            f'"{origin}" from the Hugging Face hub where there is a network, and set weights = "/path/of/model.safetensors"'
        ) from None


@contextmanager
def _quiet() -> Iterator[None]:
    """Keeps timm's remarks on heads that features leave out from the user; `starting_weights` checks names and shapes."""
    logger = logging.getLogger("timm")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


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
