"""Running a network on images, by one of several programs, in the precision that the machine is good at.

torch      eager, batch norm folded; nothing to wait for
compile    torch.compile with frozen weights; compiled kernels are kept on disk
onnx       onnxruntime, from a graph that is kept on disk; fp32
openvino   OpenVINO, from the same graph

Maps leave the device on the network's own grid.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float, Float32
from torch import Tensor, nn

from chestmap.errors import BadInput
from chestmap.inference.model_folder import Model
from chestmap.nn.folding import folded
from chestmap.settings import Settings

EngineName = Literal["torch"]
Precision = Literal[32, "bf16"]
Images = Float[Tensor, "batch 1 h w"]
Arrays = tuple[Float32[np.ndarray, "batch finding"], Float32[np.ndarray, "batch finding map_h map_w"]]


class ForwardSettings(Settings):
    """`auto` takes what the machine has; see `chosen`."""

    engine: Literal["auto", EngineName] = "auto"
    device: Literal["auto", "cpu", "cuda"] = "auto"
    precision: Literal["auto", Precision] = "auto"


@dataclass(frozen=True, eq=False)
class Forward:
    """`forward(images)` gives logits and raw maps as fp32 arrays; images are on the canvas, in [0, 1], on any device.

    For one caller at a time; scores are not calibrated.
    """

    engine: EngineName
    device: str
    precision: Precision
    compute: Callable[[Images], Arrays]

    def __call__(self, images: Images) -> Arrays:
        return self.compute(images)


def open_forward(model: Model, settings: ForwardSettings | None = None) -> Forward:
    """The model's network, left as it is, made ready by copy."""
    engine, device, precision = chosen(settings or ForwardSettings())
    return Forward(engine, device, precision, _eager(folded(model.network), torch.device(device), precision))


def chosen(settings: ForwardSettings) -> tuple[EngineName, str, Precision]:
    """Engine, device and precision without `auto`: CUDA where there is one; bf16 where matrix products are faster in it."""
    if settings.device == "cuda" and not torch.cuda.is_available():
        raise BadInput('device "cuda": torch finds no CUDA device; use "auto" or "cpu"')
    device = "cuda" if settings.device != "cpu" and torch.cuda.is_available() else "cpu"
    engine: EngineName = "torch" if settings.engine == "auto" else settings.engine
    precision: Precision = settings.precision if settings.precision != "auto" else "bf16" if has_bf16(device) else 32
    return engine, device, precision


def has_bf16(device: str) -> bool:
    """Whether bf16 is faster than fp32: AMX on a CPU (AVX-512's own bf16 is not), tensor cores from Ampere on."""
    if device == "cuda":
        return torch.cuda.get_device_capability()[0] >= 8
    return torch.cpu._is_amx_tile_supported()


def _eager(network: nn.Module, device: torch.device, precision: Precision) -> Callable[[Images], Arrays]:
    """Channels-last pays in bf16 and on CUDA; in fp32 on a CPU it costs a little."""
    half = precision == "bf16"
    kind = torch.channels_last if half or device.type == "cuda" else torch.contiguous_format
    network.to(device).to(memory_format=kind)  # pyright: ignore[reportCallIssue] -- not typed

    def compute(images: Images) -> Arrays:
        with torch.inference_mode(), torch.autocast(device.type, torch.bfloat16, enabled=half):
            output = network(images.to(device, non_blocking=True).contiguous(memory_format=kind))
        return output.logits.float().cpu().numpy(), output.maps.float().cpu().numpy()

    return compute
