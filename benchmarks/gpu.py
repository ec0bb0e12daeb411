"""Training and inference on one GPU: `python benchmarks/gpu.py`, within ten minutes; prints the tables of benchmarks/gpu.md.

HAM with ResNet-50 at 512 pixels and, where it is there, the combined recipe with EfficientNet-Lite, both with random weights: images a
second, share of the processor's peak and memory, in fp32 (TF32 off) and bf16, eager and compiled; the operations that take the time of a
training step; AOTInductor and onnxruntime's CUDA provider where they are installed. Without a GPU it says so and measures nothing;
`--device cpu --side 64 --seconds 0.1` tries the script itself.
"""

from __future__ import annotations

import argparse
import gc
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode

from chestmap.methods import METHODS
from chestmap.models.graph import Graph, traced, write_onnx
from chestmap.nn.folding import folded
from chestmap.vocabulary import CHESTXRAY14

PEAKS = {"H200": 989.0, "H100": 989.0, "A100": 312.0, "L40": 362.0, "L4": 121.0, "T4": 65.0}
"""TFLOP/s of dense bf16 (fp16 on T4) matrix products, by NVIDIA's data sheets."""
RECIPES: dict[str, dict[str, Any]] = {
    "ham": {"name": "ham", "backbone": {"name": "resnet50"}},
    "combined": {"name": "combined", "backbone": {"name": "tf_efficientnet_lite0"}},
}


@dataclass(frozen=True)
class Plan:
    device: torch.device
    side: int
    train: int  # images in a batch
    infer: int
    seconds: float
    budget: float  # of the whole script
    begun: float

    @property
    def is_over(self) -> bool:
        return time.monotonic() - self.begun > self.budget

    def synchronize(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize()

    def images(self, count: int) -> Tensor:
        return torch.rand(count, 1, self.side, self.side, generator=torch.Generator().manual_seed(1)).to(self.device)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--side", type=int, default=512)
    parser.add_argument("--train", type=int, default=32)
    parser.add_argument("--infer", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--budget", type=float, default=540.0)
    parser.add_argument("--no-compile", action="store_true")
    chosen = parser.parse_args()
    if chosen.device == "cuda" and not torch.cuda.is_available():
        print("No CUDA device: nothing was measured. Run this on a machine with an NVIDIA GPU.", file=sys.stderr)
        return
    device = torch.device(chosen.device)
    plan = Plan(device, chosen.side, chosen.train, chosen.infer, chosen.seconds, chosen.budget, time.monotonic())
    print(f"{machine(device)}; torch {torch.__version__}; {plan.side} × {plan.side}; random weights\n")
    for name, tree in RECIPES.items():
        if name not in METHODS:
            print(f"The method {name} is not in this version.\n")
            continue
        print(f"### {name}, {tree['backbone']['name']}\n")
        measure(lambda tree=tree: network_of(tree, plan), plan, compiles=not chosen.no_compile)


def machine(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"


def network_of(tree: dict[str, Any], plan: Plan) -> nn.Module:
    torch.manual_seed(0)
    method = METHODS[tree["name"]]
    network = method.build(method.settings.model_validate(tree), CHESTXRAY14, (plan.side, plan.side))
    return network.to(plan.device, memory_format=torch.channels_last)


def measure(build: Callable[[], nn.Module], plan: Plan, *, compiles: bool) -> None:
    forward_tflop = flops(build(), plan)
    print(f"{1000 * forward_tflop:.1f} GFLOP an image forward; training counts three times that.\n")
    print("| what | precision | images/s | ms a batch | share of peak | memory, GiB |\n|---|---|---|---|---|---|")
    ways = [(half, compiled) for compiled in ((False, True) if compiles else (False,)) for half in (False, True)]
    for half, compiled in ways:
        for what, make, count, times in (("train", training, plan.train, 3), ("infer", inference, plan.infer, 1)):
            if plan.is_over:
                print(f"| {what} | | not measured: the time is over | | | |")
                continue
            label = f"{what}, {'compiled' if compiled else 'eager'}"
            row(
                label,
                half,
                lambda m=make, h=half, c=compiled: m(build(), plan, half=h, compiled=c),
                count,
                times * forward_tflop,
                plan,
            )
    for label, make in (("infer, AOTInductor", ahead_of_time), ("infer, onnxruntime CUDA", onnxruntime_cuda)):
        if plan.is_over:
            print(f"| {label} | | not measured: the time is over | | | |")
        else:
            row(label, "fp32", lambda m=make: m(build(), plan), plan.infer, forward_tflop, plan)
    print("\nWhat a training step in bf16, eager, spends its time on:\n")
    for line in profile(training(build(), plan, half=True, compiled=False), plan):
        print(line)
    print()


def flops(network: nn.Module, plan: Plan) -> float:
    """TFLOP of one image forward."""
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network.eval()(plan.images(1))
    return counter.get_total_flops() / 1e12


def row(label: str, kind: str, make: Callable[[], Callable[[], Any]], count: int, tflop: float, plan: Plan) -> None:
    gc.collect()
    if plan.device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    try:
        seconds = fastest(make(), plan)
    except Exception as problem:  # a program that is not there, or a kernel that is not
        print(f"| {label} | | {type(problem).__name__}: {' '.join(str(problem).split())[:100]} | | | |")
        return
    gib = torch.cuda.max_memory_allocated() / 2**30 if plan.device.type == "cuda" else 0.0
    peak = next((value for name, value in PEAKS.items() if name in machine(plan.device)), None)
    share = f"{tflop * count / seconds / peak:.0%}" if peak and kind == "bf16" else ""
    print(f"| {label} | {kind} | {count / seconds:,.1f} | {1000 * seconds:.1f} | {share} | {gib:.1f} |", flush=True)


def fastest(step: Callable[[], Any], plan: Plan) -> float:
    """Seconds of the middle call, after three that warm up or compile."""
    for _ in range(3):
        step()
    plan.synchronize()
    took, until = [], time.perf_counter() + plan.seconds
    while not took or time.perf_counter() < until:
        begun = time.perf_counter()
        step()
        plan.synchronize()
        took.append(time.perf_counter() - begun)
    return sorted(took)[len(took) // 2]


def training(network: nn.Module, plan: Plan, *, half: bool, compiled: bool) -> Callable[[], Any]:
    network.train()
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-4, fused=True)
    images = plan.images(plan.train).contiguous(memory_format=torch.channels_last)
    labels = (torch.rand(plan.train, len(CHESTXRAY14), device=plan.device) < 0.1).float()

    def loss_of(batch: Tensor) -> Tensor:
        return functional.binary_cross_entropy_with_logits(network(batch).logits.float(), labels)

    ahead = torch.compile(loss_of) if compiled else loss_of

    def step() -> None:
        with torch.autocast(plan.device.type, torch.bfloat16, enabled=half):
            loss = ahead(images)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


def inference(network: nn.Module, plan: Plan, *, half: bool, compiled: bool) -> Callable[[], Any]:
    graph = Graph(folded(network.eval())).to(plan.device, memory_format=torch.channels_last)
    images = plan.images(plan.infer).contiguous(memory_format=torch.channels_last)
    run = torch.compile(graph, dynamic=False) if compiled else graph

    def step() -> Any:
        with torch.inference_mode(), torch.autocast(plan.device.type, torch.bfloat16, enabled=half):
            return run(images)

    return step


def ahead_of_time(network: nn.Module, plan: Plan) -> Callable[[], Any]:
    program = torch.export.export(Graph(folded(network.eval())), (plan.images(plan.infer),))
    with tempfile.TemporaryDirectory() as folder:
        package = torch._inductor.aoti_compile_and_package(program, package_path=str(Path(folder) / "network.pt2"))
        loaded = torch._inductor.aoti_load_package(package)
    images = plan.images(plan.infer)
    return lambda: loaded(images)


def onnxruntime_cuda(network: nn.Module, plan: Plan) -> Callable[[], Any]:
    import onnxruntime

    if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
        raise RuntimeError("onnxruntime has no CUDA provider here; pip install onnxruntime-gpu")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "network.onnx"
        write_onnx(
            traced(Graph(folded(network.eval().cpu())), (plan.side, plan.side), "network"),
            path,
            ("images", "logits", "maps"),
            {},
        )
        session = onnxruntime.InferenceSession(path, providers=["CUDAExecutionProvider"])
    images = plan.images(plan.infer).cpu().numpy()
    return lambda: session.run(None, {"images": images})


def profile(step: Callable[[], Any], plan: Plan) -> Iterator[str]:
    """The eight operations that take most of the time, as a Markdown table."""
    from torch.profiler import ProfilerActivity
    from torch.profiler import profile as watch

    cuda = plan.device.type == "cuda"
    kinds = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if cuda else [])]
    step()
    with watch(activities=kinds) as seen:
        step()
        plan.synchronize()
    name = "self_device_time_total" if cuda else "self_cpu_time_total"
    found = sorted(seen.key_averages(), key=lambda one: -getattr(one, name))
    whole = sum(getattr(one, name) for one in found) or 1
    yield "| operation | share | calls |\n|---|---|---|"
    for one in found[:8]:
        yield f"| `{one.key[:60]}` | {getattr(one, name) / whole:.0%} | {one.count} |"


if __name__ == "__main__":
    main()
