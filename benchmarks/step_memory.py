"""What memory costs a training step on a CPU: `python benchmarks/step_memory.py`, five minutes of one core.

EfficientNet-Lite0 at 256 px, 16 images, forward, backward and AdamW in one thread. Each way has a process of its own, which prints
processor seconds in the program and in the kernel, and page faults, for a step. Prints Markdown for benchmarks/training.md.
"""

import os
import resource
import subprocess
import sys

WAYS = {
    "as torch does": (False, False),
    "freed memory kept": (True, False),
    "huge pages": (False, True),
    "both": (True, True),
}
STEPS, ROUNDS = 3, 2


def main() -> None:
    if len(sys.argv) > 1:
        measure(keep=WAYS[sys.argv[1]][0])
        return
    print("| memory | program, s | kernel, s | faults | greatest memory |\n|---|---:|---:|---:|---:|")
    for _ in range(ROUNDS):
        for name, (_, huge) in WAYS.items():
            environment = os.environ | ({"THP_MEM_ALLOC_ENABLE": "1"} if huge else {})
            done = subprocess.run(
                [sys.executable, __file__, name], env=environment, check=True, capture_output=True, text=True
            )
            print(f"| {name} | {done.stdout.strip()} |", flush=True)


def measure(*, keep: bool) -> None:
    import timm
    import torch

    from chestmap.storage.freed_memory import OF_STEPS, keep_freed_memory

    torch.set_num_threads(1)
    if keep:
        keep_freed_memory(OF_STEPS)
    network = timm.create_model("efficientnet_lite0", num_classes=14)
    optimizer, images = torch.optim.AdamW(network.parameters(), 1e-3), torch.randn(16, 3, 256, 256)
    begun = resource.getrusage(resource.RUSAGE_SELF)
    for step in range(STEPS + 1):
        if step == 1:
            begun = resource.getrusage(resource.RUSAGE_SELF)
        optimizer.zero_grad()
        network(images).square().mean().backward()
        optimizer.step()
    ended = resource.getrusage(resource.RUSAGE_SELF)
    program, kernel = ended.ru_utime - begun.ru_utime, ended.ru_stime - begun.ru_stime
    faults = (ended.ru_minflt - begun.ru_minflt) // STEPS
    print(f"{program / STEPS:.2f} | {kernel / STEPS:.2f} | {faults:,} | {ended.ru_maxrss / 1e6:.2f} GB")


if __name__ == "__main__":
    main()
