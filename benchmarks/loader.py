"""What the pack and the loader bring, as Markdown: `python benchmarks/loader.py [folder of shared data]`, about a minute.

Absolute times depend on what else the machine does; ratios within one run, and processor time, are what counts.
"""

import resource
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch

from chestmap.datasets.nih import NihSettings, read_nih
from chestmap.imaging.canvas import on_canvas
from chestmap.imaging.read import read_radiograph
from chestmap.packs.augment import AugmentSettings
from chestmap.packs.build import Pack, PackSettings, make_pack
from chestmap.packs.loader import Loader, LoaderSettings, Part

SECONDS = 1.0
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


def rate(work: Callable[[], int]) -> tuple[float, float]:
    """Images a second, and milliseconds of this process's own time for each; `work` returns how many images it made."""
    work()
    start, own, count = time.perf_counter(), time.process_time(), 0
    while time.perf_counter() - start < SECONDS:
        count += work()
    return count / (time.perf_counter() - start), 1000 * (time.process_time() - own) / count


def decoding(paths: list[Path], settings: PackSettings) -> tuple[float, float]:
    turn = iter(paths * 10_000)

    def one() -> int:
        on_canvas(read_radiograph(next(turn)), settings)
        return 1

    return rate(one)


def reading(pack: Pack) -> tuple[float, float]:
    generator = np.random.default_rng(0)

    def some() -> int:
        for row in generator.integers(0, len(pack.ids), 100):
            pack.images[row].copy()
        return 100

    return rate(some)


def loading(part: Part, workers: int, augment: AugmentSettings | None) -> tuple[float, float, float]:
    """Batches a second, this process's milliseconds for an image, and seconds to the first batch."""
    loader = Loader(part=part, settings=LoaderSettings(batch_size=BATCH, workers=workers), augment=augment)

    def batches() -> Iterator[int]:
        for epoch in range(10_000):
            for batch in loader.epoch(epoch):
                yield len(batch)

    start = time.perf_counter()
    turn = batches()
    next(turn)
    first = time.perf_counter() - start
    images, own = rate(lambda: next(turn))
    return images / BATCH, own, first


def against_decoding(pack: Pack, raw: list[Path], stored: list[Path]) -> str:
    speeds = [decoding(raw, pack.settings), decoding(stored, pack.settings), reading(pack)]
    large, small, read = (own for _, own in speeds)
    cells = " | ".join(f"{images:,.0f} ({own:.3g})" for images, own in speeds)
    return f"| {pack.settings.width} | {cells} | {large / read:.0f}× | {small / read:.0f}× |"


def of_batches(part: Part, name: str, augment: AugmentSettings | None) -> str:
    none, one, two = (loading(part, workers, augment) for workers in (0, 1, 2))
    cells = f"{none[0]:.1f} ({none[1]:.2f}) | {one[0]:.1f} | {two[0]:.1f} | {two[2]:.2f}"
    return f"| {part.pack.settings.width} | {name} | {cells} |"


def memory() -> str:
    own, children = (resource.getrusage(who).ru_maxrss / 1024 for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return f"{own:.0f} MB in the process, {children:.0f} MB in the largest worker (both with the pack's pages that they touched)"


def main() -> None:
    torch.set_num_threads(1)
    shared = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parents[2] / "shared" / "data"
    source = read_nih(NihSettings(root=shared / "nih"))
    source = source.select(np.arange(0, len(source), len(source) // IMAGES)[:IMAGES])
    raw, stored = sorted((shared / "raw").glob("*.png")), [source.path(row) for row in range(64)]
    with tempfile.TemporaryDirectory() as folder:
        sides = (512, 224)
        packs = [
            make_pack(source, Path(folder) / str(side), PackSettings(width=side, height=side), progress=False)
            for side in sides
        ]
        print("Images a second (milliseconds of processor time for each, on which the ratios rest):\n")
        print("| canvas | decode 1024 px PNG | decode 512 px PNG | random reads from the pack | pack / 1024 | pack / 512 |")
        print("|---|---|---|---|---|---|")
        for pack in packs:
            print(against_decoding(pack, raw, stored))
        print(f"\nBatches of {BATCH} a second:\n")
        print(
            "| canvas | augmentation | 0 workers (processor ms per image) | 1 worker | 2 workers | first batch of 2 workers, s |"
        )
        print("|---|---|---|---|---|---|")
        for pack in packs:
            for name, augment in AUGMENTS.items():
                print(of_batches(Part.of(source, pack, source.ids), name, augment))
    print(f"\nPeak memory: {memory()}; torch {torch.__version__}, one thread.")


if __name__ == "__main__":
    main()
