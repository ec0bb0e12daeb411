"""What the pack and the loader bring, as Markdown: `python benchmarks/loader.py [folder of shared data]`, about a minute.

Absolute times depend on what else the machine does; ratios within one run are what counts.
"""

import resource
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch

from chestmap.data.augment import AugmentSettings
from chestmap.data.canvas import on_canvas
from chestmap.data.image import read_radiograph
from chestmap.data.loader import Loader, LoaderSettings, Part
from chestmap.data.nih import NihSettings, read_nih
from chestmap.data.pack import Pack, PackSettings, make_pack

SECONDS = 1.5
IMAGES = 320
BATCH = 16
AUGMENTS = {
    "none": None,
    "flip": AugmentSettings(),
    "flip, crop of 1.00–1.12": AugmentSettings(scale=(1.0, 1.12), inside=True),
    "the same, rotation, intensities": AugmentSettings(
        scale=(1.0, 1.12), inside=True, rotate_degrees=10, brightness=0.1, contrast=0.1, gamma=0.1
    ),
}


def rate(work: Callable[[], int], seconds: float = SECONDS) -> float:
    """Images a second over calls that return how many they made."""
    work()
    start, count = time.perf_counter(), 0
    while time.perf_counter() - start < seconds:
        count += work()
    return count / (time.perf_counter() - start)


def decoding(paths: list[Path], settings: PackSettings) -> float:
    turn = iter(paths * 10_000)

    def one() -> int:
        on_canvas(read_radiograph(next(turn)), settings)
        return 1

    return rate(one)


def reading(pack: Pack) -> float:
    generator = np.random.default_rng(0)

    def some() -> int:
        for row in generator.integers(0, len(pack.ids), 100):
            pack.images[row].copy()
        return 100

    return rate(some, 1.0)


def loading(part: Part, workers: int, augment: AugmentSettings | None) -> tuple[float, float]:
    """Batches a second, and seconds to the first batch."""
    loader = Loader(part, LoaderSettings(batch_size=BATCH, workers=workers), augment=augment)

    def batches() -> Iterator[int]:
        for epoch in range(10_000):
            for batch in loader.epoch(epoch):
                yield len(batch)

    start = time.perf_counter()
    turn = batches()
    next(turn)
    first = time.perf_counter() - start
    return rate(lambda: next(turn)) / BATCH, first


def memory() -> str:
    own, children = (resource.getrusage(who).ru_maxrss / 1024 for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return f"{own:.0f} MB in the process, {children:.0f} MB in the largest worker (both with the pack's pages that they touched)"


def main() -> None:
    shared = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parents[2] / "shared" / "data"
    source = read_nih(NihSettings(root=shared / "nih"))
    source = source.select(np.arange(0, len(source), len(source) // IMAGES)[:IMAGES])
    raw = sorted((shared / "raw").glob("*.png"))
    stored = [source.path(row) for row in range(0, len(source), 16)]
    print(
        "| canvas | decode 1024 px PNG, images/s | decode 512 px PNG | random reads from the pack | pack / 1024 | pack / 512 |"
    )
    print("|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        parts = {}
        for side in (512, 224):
            settings = PackSettings(width=side, height=side)
            start = time.perf_counter()
            pack = make_pack(source, Path(folder) / str(side), settings, progress=False)
            made = len(pack) / (time.perf_counter() - start)
            large, small, read = decoding(raw, settings), decoding(stored, settings), reading(pack)
            print(f"| {side} | {large:.0f} | {small:.0f} | {read:.0f} | {read / large:.0f}× | {read / small:.0f}× |")
            parts[side] = Part.of(source, pack, source.ids), made
        print(
            f"\nPacking with all cores: {', '.join(f'{made:.0f} images/s at {side} px' for side, (_, made) in parts.items())}.\n"
        )
        print(
            f"| canvas | augmentation | 0 workers, batches of {BATCH}/s | 1 worker | 2 workers | first batch with 2 workers, s |"
        )
        print("|---|---|---|---|---|---|")
        for side, (part, _) in parts.items():
            for name, augment in AUGMENTS.items():
                rates, first = zip(*(loading(part, workers, augment) for workers in (0, 1, 2)), strict=True)
                print(f"| {side} | {name} | {' | '.join(f'{one:.1f}' for one in rates)} | {first[-1]:.2f} |")
    print(f"\nPeak memory: {memory()}; torch {torch.__version__}, {torch.get_num_threads()} threads.")


if __name__ == "__main__":
    main()
