"""Time and peak memory of one HAM training step (ResNet-50, stride 8), in each way to run it, as ratios within one run.

    python benchmarks/training.py [--sides 256 512] [--batch 2] [--steps 3] [--compile] [--threads N]

Every way has a process of its own, so that peak memory is its own, and they take turns step by step, so that a busy minute hits
all of them. Prints Markdown for benchmarks/training.md.
"""

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import time
from contextlib import nullcontext

import numpy as np
import torch

WAYS = {
    "fp32": (torch.float32, False),
    "fp32 channels-last": (torch.float32, True),
    "bf16": (torch.bfloat16, False),
    "bf16 channels-last": (torch.bfloat16, True),
}


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--sides", type=int, nargs="+", default=[256, 512])
    options.add_argument("--batch", type=int, default=2)
    options.add_argument("--steps", type=int, default=3)
    options.add_argument("--compile", action="store_true", help="also with torch.compile, whose first step takes minutes")
    options.add_argument("--threads", type=int, default=os.cpu_count())
    options.add_argument("--one", help=argparse.SUPPRESS)
    chosen = options.parse_args()
    torch.set_num_threads(chosen.threads)
    if chosen.one:
        one_way(**json.loads(chosen.one))
        return
    limits = {kind: matmul_limit(kind) for kind in (torch.float32, torch.bfloat16)}
    print(
        f"{machine()}, {chosen.threads} threads, torch {torch.__version__}; batch {chosen.batch}, median of {chosen.steps} steps."
    )
    print(f"Matrix product: fp32 {limits[torch.float32]:,.0f} GFLOP/s, bf16 {limits[torch.bfloat16]:,.0f} GFLOP/s.\n")
    for side in chosen.sides:
        table(side, chosen, limits)


def table(side: int, chosen: argparse.Namespace, limits: dict[torch.dtype, float]) -> None:
    ways: dict[str, tuple[torch.dtype, Worker]] = {}
    for name, (kind, channels_last) in WAYS.items():
        for compiled in (False, True) if chosen.compile and channels_last else (False,):
            setting = {"side": side, "batch": chosen.batch, "half": kind is torch.bfloat16}
            worker = Worker(chosen.threads, setting | {"channels_last": channels_last, "compiled": compiled})
            ways[name + (" compiled" if compiled else "")] = kind, worker
    results = {name: [worker.step()] for name, (_, worker) in ways.items()}
    for _ in range(chosen.steps):
        for name, (_, worker) in ways.items():
            results[name].append(worker.step())
    seconds = {name: float(np.median([one["seconds"] for one in steps[1:]])) for name, steps in results.items()}
    print(f"### {side}×{side}\n")
    print("| way | s per step | × | GFLOP/s | of the limit | peak memory above start | first step |")
    print("|---|---|---|---|---|---|---|")
    for name, (kind, worker) in ways.items():
        last, speed = results[name][-1], results[name][-1]["gflop"] / seconds[name]
        print(
            f"| {name} | {seconds[name]:.2f} | {seconds['fp32'] / seconds[name]:.2f} | {speed:,.0f} | {speed / limits[kind]:.0%} "
            f"| {last['memory_gb']:.2f} GB | {results[name][0]['seconds']:.1f} s |"
        )
        worker.end()
    print(flush=True)


class Worker:
    """A process that does a step whenever it gets a line."""

    def __init__(self, threads: int, setting: dict[str, object]) -> None:
        command = [sys.executable, __file__, "--threads", str(threads), "--one", json.dumps(setting)]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def step(self) -> dict[str, float]:
        self.process.stdin.write("step\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())

    def end(self) -> None:
        self.process.stdin.close()
        self.process.wait()


def one_way(*, side: int, batch: int, half: bool, channels_last: bool, compiled: bool) -> None:
    """A step is what the loop does: forward with all of eq. 7, backward, Adam."""
    from torch.utils.flop_counter import FlopCounterMode

    from chestmap.methods import ham
    from chestmap.vocabulary import CHESTXRAY14

    torch.manual_seed(0)
    settings = ham.HamSettings()
    task = ham.Attend(ham.build(settings, CHESTXRAY14, (side, side)), settings, CHESTXRAY14).train()
    data = example(side, batch)
    if channels_last:
        task.to(memory_format=torch.channels_last)
    optimizer = torch.optim.Adam(task.parameters(), lr=1e-5)
    autocast = torch.autocast("cpu", torch.bfloat16) if half else nullcontext()

    def step() -> None:
        with autocast:
            terms = task(data)
        torch.stack([value.float() for value in terms.values()]).sum().backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    with FlopCounterMode(display=False) as counter:
        small = example(64, batch)
        torch.stack([value.float() for value in task(small).values()]).sum().backward()
    optimizer.zero_grad(set_to_none=True)
    gflop = (
        counter.get_total_flops() / 1e9 * (side / 64) ** 2
    )  # convolutions, which are nearly all of it, grow with the area
    for child in task.network.children() if compiled else ():
        child.compile()
    start = memory_gb()
    for _ in sys.stdin:
        seconds = timed(step)
        print(json.dumps({"seconds": seconds, "gflop": gflop, "memory_gb": memory_gb() - start}), flush=True)


def example(side: int, batch: int):
    from chestmap.tensors import Batch
    from chestmap.types import Box, Frame
    from chestmap.vocabulary import CHESTXRAY14

    random = torch.Generator().manual_seed(1)
    labels = (torch.rand(batch, 14, generator=random) < 0.2).float()
    labels[:, 0] = 1.0
    frame, box = Frame.fit((side, side), (side, side)), Box("Atelectasis", side * 0.2, side * 0.3, side * 0.5, side * 0.6)
    images = torch.rand(batch, 1, side, side, generator=random)
    return Batch(
        images=images,
        labels=labels,
        frames=(frame,) * batch,
        boxes=((box,),) * batch,
        ids=tuple(map(str, range(batch))),
        findings=CHESTXRAY14,
    )


def timed(step) -> float:
    begun = time.perf_counter()
    step()
    return time.perf_counter() - begun


def matmul_limit(kind: torch.dtype, size: int = 2048) -> float:
    """GFLOP/s, the best of a few."""
    one, other = torch.rand(size, size).to(kind), torch.rand(size, size).to(kind)
    return 2 * size**3 / min(timed(lambda: one @ other) for _ in range(8)) / 1e9


def memory_gb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9


def machine() -> str:
    with open("/proc/cpuinfo") as file:  # noqa: PTH123
        name = next((line.partition(":")[2].strip() for line in file if line.startswith("model name")), platform.processor())
    return f"{name}, {os.cpu_count()} cores"


if __name__ == "__main__":
    main()
