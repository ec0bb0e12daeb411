"""Memory and time of a process that plans and reads an input list, with empty work; each case in a child process.

`python benchmarks/scale_lists.py --rows 10000000 --kind parquet`; `--shards 64` makes the whole job of them instead, with a network and a decoder
that give the same canvas and maps each time, half of the shards, then all (resumed), then two again with nothing to do.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import polars as pl

from chestmap.imaging.canvas import CanvasSettings, on_canvas
from chestmap.prediction.decoding import Decoded, Identity
from chestmap.prediction.job import JobSettings, Shard, open_job, predict_shard
from chestmap.prediction.job_plan import BlockSizes, way_of, write_blocks
from chestmap.prediction.providers import FileProvider
from chestmap.predictions.header import OwnRule
from chestmap.types import Radiograph
from chestmap.vocabulary import CHESTXRAY14

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
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        way, sizes = way_of(str(path), "frontal", None), BlockSizes(batch_size=4)
        blocks = write_blocks(Path(folder), FileProvider([str(path)]).frames(), way, sizes)
        planned = time.perf_counter()
        peak_of_plan = _peak()
        count = sum(len(blocks.inputs(number)) for number in range(0, blocks.parts, 16))
        size = sum(file.stat().st_size for file in Path(folder).iterdir())
    print(
        f"{path.suffix[1:]} {blocks.count:,} rows: plan {planned - start:.0f} s, peak {peak_of_plan:.0f} MB, {size / 1e6:.0f} MB on disk; "
        f"every 16th of {blocks.parts:,} blocks, {count:,} rows, read in {time.perf_counter() - planned:.0f} s, peak {_peak():.0f} MB; "
        f"torch imported: {'torch' in sys.modules}"
    )


class SameFilm(FileProvider):
    """Every input is the same small film, and none changed since."""

    def decode(self, inputs, reading, workers, count):  # noqa: ARG002
        film = Radiograph(image_id="x", patient_id="x", view="PA", pixels=np.full((16, 16), 0.5, np.float32))
        canvas, frame = on_canvas(film, reading.canvas)
        for one in inputs:
            yield one, Decoded(canvas=canvas, frame=frame, image_id=one.key, patient_id=one.key, identity=Identity("0" * 32))

    def contents(self, inputs, known):
        return [one.content for one in known[: len(inputs)]]


class SameAnswer:
    """A predictor whose network takes no time: 14 scores and maps of 4 x 4."""

    findings = CHESTXRAY14
    forward = SimpleNamespace(engine="none", device="cpu", precision=32)

    def __init__(self) -> None:
        canvas = CanvasSettings(width=16, height=16)
        method = SimpleNamespace(name="none")
        self.model = SimpleNamespace(
            method=method, sha256="0" * 64, about={"data": {}}, canvas=canvas, own_rule=OwnRule(0.5), folder=Path("none")
        )

    def raw(self, images):
        return np.full((len(images), 14), 0.5, np.float32), np.full((len(images), 14, 4, 4), 0.5, np.float16)


def shards_of(path: Path, count: int) -> None:
    """As `count` processes would make them, one after the other in this one."""
    predictor, settings = SameAnswer(), JobSettings(batch_size=32, show_patient=True)
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "out"
        for what, numbers in (
            ("half of the shards", range(count // 2)),
            ("all, resumed", range(count)),
            ("two of them again", range(2)),
        ):
            begin, before, took, images = time.perf_counter(), time.process_time(), [], 0
            for number in numbers:
                mine = time.process_time()
                job = open_job(predictor, SameFilm([str(path)]), out, settings, count)
                images += predict_shard(job, Shard(number, count), 0, progress=False).images
                took.append(time.process_time() - mine)
            print(
                f"{what}: {time.perf_counter() - begin:.0f} s, {time.process_time() - before:.0f} s of processor, a shard "
                f"{np.median(took):.1f} (most {max(took):.1f}), peak {_peak():.0f} MB, {job.blocks.parts:,} parts",
                flush=True,
            )


def _peak() -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=10_000_000)
    parser.add_argument("--kind", default="parquet", choices=["parquet", "csv"])
    parser.add_argument("--shards", type=int, default=0)
    parser.add_argument("--list", type=Path)
    given = parser.parse_args()
    if given.list:
        shards_of(given.list, given.shards) if given.shards else child(given.list)
        return
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"list.{given.kind}"
        write_list(path, given.rows)
        print(f"list of {path.stat().st_size / 1e6:.0f} MB", flush=True)
        subprocess.run([sys.executable, __file__, "--list", str(path), "--shards", str(given.shards)], check=True)


if __name__ == "__main__":
    main()
