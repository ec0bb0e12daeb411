"""Runs a network on images, by one of several programs, in the precision that the machine is good at.

onnx       onnxruntime, from the graph in the model folder, or one that is kept in the cache; CPU, fp32
openvino   OpenVINO, from the same graph; CPU
torch      eager, batch norm folded; nothing to wait for
compile    torch.compile with frozen weights; its kernels are kept on disk

The first two import no torch where the model folder holds its graph. Maps leave the device on the network's own grid.
"""

from __future__ import annotations

import platform
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, Literal

import numpy as np
from jaxtyping import Float32
from pydantic import Field

from chestmap.errors import BadInput
from chestmap.models.folder import Model
from chestmap.models.runtimes import is_installed, request_of, session_of
from chestmap.settings import Settings, cache_folder

EngineName = Literal["torch", "compile", "onnx", "openvino"]
Precision = Literal[32, "bf16"]
Arrays = tuple[Float32[np.ndarray, "batch finding"], Float32[np.ndarray, "batch finding map_h map_w"]]
Compute = Callable[[Any], Arrays]
PROCESSOR_ONLY = ("onnx", "openvino")
LIBRARY = {"onnx": "onnxruntime", "openvino": "openvino"}


class ForwardSettings(Settings):
    """`auto` takes what the machine has; see `chosen`. bf16 moves boxes a little, so it is never taken unasked (docs/export.md)."""

    engine: Literal["auto", EngineName] = "auto"
    device: Literal["auto", "cpu", "cuda"] = "auto"
    precision: Literal["auto", Precision] = 32
    threads: int | None = Field(default=None, ge=1)  # on a CPU; all cores that the process may use by default


@dataclass(frozen=True, eq=False, kw_only=True)
class Forward:
    """`forward(images)` gives logits and raw maps as fp32 arrays; images are on the canvas, in [0, 1].

    For one caller at a time; logits are not calibrated.
    """

    engine: EngineName
    device: str
    precision: Precision
    compute: Compute
    why: str = ""  # one line, where the engine was chosen by measurement

    def __call__(self, images: Any) -> Arrays:
        return self.compute(images)


def open_forward(model: Model, settings: ForwardSettings | None = None) -> Forward:
    """The model's network made ready by copy; the model itself stays as it is.

    `auto` takes what `chestmap model tune` found to be fastest here, and else what `chosen` gives.
    """
    settings, why = _measured(model, settings or ForwardSettings())
    engine, device, precision = chosen(settings, graph=model.graph is not None)
    if engine == "onnx":
        compute = onnx_compute(_graph_of(model), settings.threads)
    elif engine == "openvino":
        compute = _openvino(_graph_of(model), precision, settings.threads)
    else:
        _needs_torch(model)
        if settings.threads:
            import_module("torch").set_num_threads(settings.threads)
        make = import_module("chestmap.models.torch_engines")
        network = import_module("chestmap.nn.folding").folded(model.network)
        compute = (make.eager if engine == "torch" else make.compiled)(network, device, precision)
    return Forward(engine=engine, device=device, precision=precision, compute=compute, why=why)


def _measured(model: Model, settings: ForwardSettings) -> tuple[ForwardSettings, str]:
    if (
        settings.engine != "auto"
        or not (cache_folder() / "engines").is_dir()
        or settings.device == "cuda"
        or (settings.device == "auto" and has_cuda())
    ):
        return settings, ""
    way = import_module("chestmap.models.tuned").tuned(model, settings.precision)
    return (way.settings, f"{way}: the fastest way that was measured here") if way else (settings, "")


def chosen(settings: ForwardSettings, *, graph: bool = False) -> tuple[EngineName, str, Precision]:
    """Engine, device and precision without `auto`.

    CUDA where there is one; else the model's own graph where a program for it is installed, and torch where none is. bf16 where
    matrix products are faster in it.
    """
    asked = settings.engine
    if asked in PROCESSOR_ONLY and settings.device == "cuda":
        raise BadInput(f'engine "{asked}" runs on the CPU; use the engines torch or compile for device "cuda"')
    if settings.device == "cuda" and not has_cuda():
        raise BadInput('device "cuda": torch finds no CUDA device; use "auto" or "cpu"')
    cuda = asked not in PROCESSOR_ONLY and settings.device != "cpu" and has_cuda()
    device = "cuda" if cuda else "cpu"
    engine: EngineName = _auto(settings, graph=graph and not cuda) if asked == "auto" else asked
    if engine == "onnx" and settings.precision == "bf16":
        raise BadInput('engine "onnx" computes in fp32; use the engines torch, compile or openvino for bf16')
    if settings.precision != "auto":
        return engine, device, settings.precision
    return engine, device, "bf16" if engine != "onnx" and has_bf16(device) else 32


def _auto(settings: ForwardSettings, *, graph: bool) -> EngineName:
    """Onnxruntime does not compute in bf16, and OpenVINO starts more slowly."""
    half = settings.precision == "bf16" or (settings.precision == "auto" and has_bf16("cpu"))
    order: tuple[EngineName, ...] = ("openvino",) if half else ("onnx", "openvino")
    for name in order:
        if graph and is_installed(LIBRARY[name]):
            return name
    return "torch"


def has_cuda() -> bool:
    """Ask torch, which takes seconds to load, only where there is a driver."""
    if not is_installed("torch") or not (Path("/dev/nvidia0").exists() or Path("/dev/dxg").exists()):
        return False
    return import_module("torch").cuda.is_available()


def has_bf16(device: str) -> bool:
    """Whether bf16 is faster than fp32: AMX on a CPU (AVX-512's own bf16 is not), tensor cores from Ampere on."""
    if device == "cuda":
        return import_module("torch").cuda.get_device_capability()[0] >= 8
    return {"amx_tile", "amx_bf16"} <= processor_flags()


def processor_flags() -> set[str]:
    """Instruction sets of the processor, such as `avx512_vnni`; empty where the system does not list them."""
    return set(_of_processor("flags").split())


def processor_name() -> str:
    """The model of the processor, by which tuned settings are kept apart."""
    return _of_processor("model name") or platform.processor() or platform.machine()


def _of_processor(key: str) -> str:
    """What Linux tells of the processor; elsewhere nothing is known."""
    path = Path("/proc/cpuinfo")
    lines = path.read_text(encoding="ascii", errors="replace").splitlines() if path.is_file() else []
    return next((line.partition(":")[2].strip() for line in lines if line.startswith(key)), "")


def _needs_torch(model: Model) -> None:
    if is_installed("torch"):
        return
    if model.graph is not None:
        raise BadInput(
            f'{model.folder}: no program is installed that runs its graph; pip install "chestmap[infer]" brings onnxruntime'
        )
    raise BadInput(
        f"{model.folder}: holds no graph, so it needs torch, which is not installed; where torch is, run "
        f'`chestmap export {model.folder} --into`, or pip install "chestmap[train]"'
    )


def _graph_of(model: Model) -> Path:
    """The folder's own; else one that is made with torch and kept in the cache."""
    if model.graph:
        return model.graph
    _needs_torch(model)
    return import_module("chestmap.models.graph").cached_onnx(model)


def onnx_compute(path: Path, threads: int | None = None) -> Compute:
    """Opens an ONNX graph: a function from images [batch, 1, h, w] in [0, 1] to logits and maps."""
    session = session_of(path, threads)

    def compute(images: Any) -> Arrays:
        logits, maps = session.run(["logits", "maps"], {"images": np.asarray(images, dtype=np.float32)})
        return logits, maps

    return compute


def _openvino(path: Path, precision: Precision, threads: int | None = None) -> Compute:
    request = request_of(path, "bf16" if precision == "bf16" else "f32", cache_folder() / "openvino", threads)

    def compute(images: Any) -> Arrays:
        found = request.infer({"images": np.asarray(images, dtype=np.float32)})
        return np.array(found["logits"], dtype=np.float32), np.array(found["maps"], dtype=np.float32)

    return compute
