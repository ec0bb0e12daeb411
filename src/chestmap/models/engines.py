"""Running a network on images, by one of several programs, in the precision that the machine is good at.

torch      eager, batch norm folded; nothing to wait for
compile    torch.compile with frozen weights; its kernels are kept on disk
onnx       onnxruntime, from a graph that is kept on disk; CPU, fp32
openvino   OpenVINO, from the same graph; CPU

Maps leave the device on the network's own grid.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float, Float32
from torch import Tensor, nn

from chestmap.errors import BadInput
from chestmap.models.folder import Model
from chestmap.models.graph import Graph, cached_onnx, compiled_by_openvino, needed
from chestmap.nn.folding import folded
from chestmap.nn.weights import cache_folder
from chestmap.settings import Settings

EngineName = Literal["torch", "compile", "onnx", "openvino"]
Precision = Literal[32, "bf16"]
Images = Float[Tensor, "batch 1 h w"]
Arrays = tuple[Float32[np.ndarray, "batch finding"], Float32[np.ndarray, "batch finding map_h map_w"]]
Compute = Callable[[Images], Arrays]


class ForwardSettings(Settings):
    """`auto` takes what the machine has; see `chosen`. bf16 moves boxes a little, so it is never taken unasked (docs/export.md)."""

    engine: Literal["auto", EngineName] = "auto"
    device: Literal["auto", "cpu", "cuda"] = "auto"
    precision: Literal["auto", Precision] = 32


@dataclass(frozen=True, eq=False)
class Forward:
    """`forward(images)` gives logits and raw maps as fp32 arrays; images are on the canvas, in [0, 1], on any device.

    For one caller at a time; logits are not calibrated.
    """

    engine: EngineName
    device: str
    precision: Precision
    compute: Compute

    def __call__(self, images: Images) -> Arrays:
        return self.compute(images)


def open_forward(model: Model, settings: ForwardSettings | None = None) -> Forward:
    """The model's network made ready by copy; the model itself stays as it is."""
    engine, device, precision = chosen(settings or ForwardSettings())
    network = folded(model.network)
    if engine == "torch":
        compute = _eager(network, torch.device(device), precision)
    elif engine == "compile":
        compute = _compiled(network, torch.device(device), precision)
    elif engine == "onnx":
        compute = _onnx(model, network)
    else:
        compute = _openvino(model, network, precision)
    return Forward(engine, device, precision, compute)


def chosen(settings: ForwardSettings) -> tuple[EngineName, str, Precision]:
    """Engine, device and precision without `auto`: CUDA where there is one; bf16 where matrix products are faster in it."""
    engine: EngineName = "torch" if settings.engine == "auto" else settings.engine
    if settings.device == "cuda" and not torch.cuda.is_available():
        raise BadInput('device "cuda": torch finds no CUDA device; use "auto" or "cpu"')
    processor_only = engine in ("onnx", "openvino")
    if processor_only and settings.device == "cuda":
        raise BadInput(f'engine "{engine}" runs on the CPU; use the engines torch or compile for device "cuda"')
    device = "cpu" if processor_only or settings.device == "cpu" or not torch.cuda.is_available() else "cuda"
    if engine == "onnx" and settings.precision == "bf16":
        raise BadInput('engine "onnx" computes in fp32; use the engines torch, compile or openvino for bf16')
    if settings.precision != "auto":
        return engine, device, settings.precision
    return engine, device, "bf16" if engine != "onnx" and has_bf16(device) else 32


def has_bf16(device: str) -> bool:
    """Whether bf16 is faster than fp32: AMX on a CPU (AVX-512's own bf16 is not), tensor cores from Ampere on."""
    if device == "cuda":
        return torch.cuda.get_device_capability()[0] >= 8
    return torch.cpu._is_amx_tile_supported()


def _eager(network: nn.Module, device: torch.device, precision: Precision) -> Compute:
    """Channels-last pays in bf16 and on CUDA; in fp32 on a CPU it costs a little."""
    half = precision == "bf16"
    kind = torch.channels_last if half or device.type == "cuda" else torch.contiguous_format
    graph = Graph(network).to(device).to(memory_format=kind)  # pyright: ignore[reportCallIssue] -- not typed

    def compute(images: Images) -> Arrays:
        with torch.inference_mode(), torch.autocast(device.type, torch.bfloat16, enabled=half):
            logits, maps = graph(images.to(device, non_blocking=True).contiguous(memory_format=kind))
        return logits.float().cpu().numpy(), maps.float().cpu().numpy()

    return compute


def _compiled(network: nn.Module, device: torch.device, precision: Precision) -> Compute:
    """One size of batch, so that nothing is compiled twice: single images on a CPU, where that costs nothing; else the first."""
    if not any(shutil.which(name) for name in (os.environ.get("CXX", "g++"), "g++", "clang++")):
        raise BadInput('engine "compile" needs a C++ compiler, which was not found; install g++, or use another engine')
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(cache_folder() / "inductor"))
    half, size = precision == "bf16", 1 if device.type == "cpu" else 0
    graph = Graph(network).to(device).to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    compiled = torch.compile(graph, dynamic=False, options={"freezing": True})

    def compute(images: Images) -> Arrays:
        nonlocal size
        size = size or len(images)
        found: list[Arrays] = []
        with torch.inference_mode(), torch.autocast(device.type, torch.bfloat16, enabled=half):
            for some in images.split(size):
                filled = torch.cat([some, some.new_zeros(size - len(some), *some.shape[1:])])
                logits, maps = compiled(filled.to(device, non_blocking=True).contiguous(memory_format=torch.channels_last))
                found.append((logits[: len(some)].float().cpu().numpy(), maps[: len(some)].float().cpu().numpy()))
        return np.concatenate([logits for logits, _ in found]), np.concatenate([maps for _, maps in found])

    return compute


def _onnx(model: Model, network: nn.Module) -> Compute:
    runtime = needed("onnxruntime")
    options = runtime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3
    session = runtime.InferenceSession(cached_onnx(model, network), options, providers=["CPUExecutionProvider"])

    def compute(images: Images) -> Arrays:
        logits, maps = session.run(["logits", "maps"], {"images": images.cpu().numpy()})
        return logits, maps

    return compute


def _openvino(model: Model, network: nn.Module, precision: Precision) -> Compute:
    """Without a hint OpenVINO would take bf16 wherever the processor knows it."""
    hints = {
        "INFERENCE_PRECISION_HINT": "bf16" if precision == "bf16" else "f32",
        "INFERENCE_NUM_THREADS": torch.get_num_threads(),
        "CACHE_DIR": str(cache_folder() / "openvino"),
    }
    request = compiled_by_openvino(cached_onnx(model, network), hints).create_infer_request()

    def compute(images: Images) -> Arrays:
        found = request.infer({"images": images.cpu().numpy()})
        return np.array(found["logits"], dtype=np.float32), np.array(found["maps"], dtype=np.float32)

    return compute
