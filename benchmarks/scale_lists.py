"""Memory and time of a process that plans and reads an input list, with empty work; each case in a child process.

`python benchmarks/scale_lists.py --rows 10000000 --kind parquet`
"""

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import polars as pl

ROWS = 1_000_000


def write_list(path: Path, rows: int) -> None:
    """Names of 40 characters, a million at a time."""

    def frames():
        for first in range(0, rows, ROWS):
            numbers = pl.int_range(first, min(first + ROWS, rows), eager=True).cast(pl.String).str.zfill(10)
            yield pl.DataFrame({"path": "archive/" + numbers.str.slice(0, 5) + "/film-" + numbers + "-frontal.png"})

    if path.suffix == ".csv":
        with path.open("wb") as file:
            for number, frame in enumerate(frames()):
                frame.write_csv(file, include_header=number == 0)
    else:
        pl.concat([frame.lazy() for frame in frames()]).sink_parquet(path)


def child(path: Path) -> None:
    from chestmap.prediction.job_plan import way_of, write_blocks

    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        blocks = write_blocks(Path(folder), [str(path)], way_of([str(path)], "frontal", None), {"batch_size": 4})
        planned = time.perf_counter()
        peak_of_plan = _peak()
        count = sum(len(blocks.inputs(number)) for number in range(0, blocks.parts, 16))
        size = sum(file.stat().st_size for file in Path(folder).iterdir())
    print(
        f"{path.suffix[1:]} {blocks.count:,} rows: plan {planned - start:.0f} s, peak {peak_of_plan:.0f} MB, {size / 1e6:.0f} MB on disk; "
        f"every 16th of {blocks.parts:,} blocks, {count:,} rows, read in {time.perf_counter() - planned:.0f} s, peak {_peak():.0f} MB; "
        f"torch imported: {'torch' in sys.modules}"
    )


def _peak() -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=10_000_000)
    parser.add_argument("--kind", default="parquet", choices=["parquet", "csv"])
    parser.add_argument("--list", type=Path)
    given = parser.parse_args()
    if given.list:
        child(given.list)
        return
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"list.{given.kind}"
        write_list(path, given.rows)
        print(f"list of {path.stat().st_size / 1e6:.0f} MB", flush=True)
        subprocess.run([sys.executable, __file__, "--list", str(path)], check=True)


if __name__ == "__main__":
    main()
