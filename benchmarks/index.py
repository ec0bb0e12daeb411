"""Seconds to open a source and the memory of its index, as a Markdown table: `python benchmarks/index.py [DATA]`.

DATA holds `nih-full`, `chexpert` and `vindr`, the publishers' tables; without it they are looked for in ../shared/data.
"""

import gc
import platform
import statistics
import sys
import time
import tracemalloc
from pathlib import Path

from chestmap.datasets import open_source, source_settings
from chestmap.datasets.source import Source

SOURCES = {
    "nih-full": {"name": "nih"},
    "chexpert": {"name": "chexpert", "small": False},
    "vindr": {"name": "vindr"},
}
TIMES = 5


def megabytes(source: Source, tracked: int) -> float:
    """Python's objects as tracked, and the buffers of polars, which its allocator hides."""
    return (tracked + source.images.estimated_size()) / 1e6


def measure(root: Path) -> str:
    settings = source_settings(SOURCES[root.name] | {"root": str(root)})
    seconds, worked = [], []
    for _ in range(TIMES):
        start, busy = time.perf_counter(), time.process_time()
        open_source(settings)
        seconds.append(time.perf_counter() - start)
        worked.append(time.process_time() - busy)
    gc.collect()
    tracemalloc.start()
    source = open_source(settings)
    gc.collect()
    opened = megabytes(source, tracemalloc.get_traced_memory()[0])
    assert len(source.row_of) == len(source)
    used = megabytes(source, tracemalloc.get_traced_memory()[0])
    tracemalloc.stop()
    boxes = sum(map(len, source.boxes.values()))
    return (
        f"| {source.name} | {len(source):,} | {boxes:,} | {min(seconds):.2f} | {statistics.median(seconds):.2f} "
        f"| {statistics.median(worked):.2f} | {opened:.0f} | {used:.0f} |"
    )


def main() -> None:
    data = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parents[2] / "shared" / "data"
    print(f"Python {platform.python_version()}, {platform.machine()}, best and median of {TIMES}\n")
    print("| source | images | boxes | best s | median s | CPU s | MB opened | MB with ids and rows looked up |")
    print("|---|---|---|---|---|---|---|---|")
    for folder in SOURCES:
        if (data / folder).is_dir():
            print(measure(data / folder))


if __name__ == "__main__":
    main()
