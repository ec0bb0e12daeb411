"""Prediction shared by processes that know nothing of each other: an array of Slurm, an indexed job of Kubernetes, a cluster.

The unit is the block of the input list that becomes one part. It may be done by anybody, again, or by two at once: a part is written
beside under a name of its own and renamed, and the first one stays. Whoever finds all parts there completes the folder.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from secrets import token_hex

import numpy as np
import polars as pl

from chestmap.errors import BadInput, Refused
from chestmap.models.batch_size import chosen_batch_size
from chestmap.models.predictor import Predictor, images_of
from chestmap.packs.build import cores
from chestmap.prediction.completing import FAILED, Share, complete, part_folder, share_of
from chestmap.prediction.decoding import Decoded, Failed, Input, Reading, decode_all
from chestmap.prediction.job_plan import Blocks, Gone, shared_blocks, way_of
from chestmap.prediction.stream import WORTH_A_PROCESS, StreamSettings, header_of, reading_for, scored
from chestmap.prediction.writer import OnPart
from chestmap.predictions.folder import Chunk, GrowingPart, PredictionsWriter, read_header
from chestmap.progress import progress_of
from chestmap.storage.results_folder import Place, place_of

Decode = Callable[[Iterable[Input]], Iterator[tuple[Input, Decoded | Failed]]]
"""Inputs to what became of them, in order; those of later blocks may be taken ahead."""


@dataclass(frozen=True)
class Shard:
    """Parts `index`, `index + count`, …; the whole where nobody else helps."""

    index: int = 0
    count: int = 1

    def __post_init__(self) -> None:
        if not 0 <= self.index < self.count:
            raise BadInput(f"shard {self.index}/{self.count}: allowed are 0/{self.count} to {self.count - 1}/{self.count}")

    @classmethod
    def parse(cls, text: str) -> Shard:
        found = re.fullmatch(r"(\d{1,6})/(\d{1,6})", text.strip())
        if not found or found[2] == "0":
            raise BadInput(f'--shard "{text}": expected i/n, such as 0/8 to 7/8')
        return cls(int(found[1]), int(found[2]))


@dataclass(frozen=True, eq=False)
class Job:
    """One folder that is being filled, as each of its processes opens it."""

    predictor: Predictor
    writer: PredictionsWriter
    blocks: Blocks
    reading: Reading

    @property
    def out(self) -> Path:
        return self.writer.folder

    @property
    def place(self) -> Place:
        return self.writer.place

    def there(self) -> set[int]:
        return {number for number in self.place.parts() if number < self.blocks.parts}

    def predict(self, numbers: Iterable[int], decode: Decode, tell: Callable[[int], None] | None = None) -> Iterator[int]:
        """Makes parts, in the order given, and yields the number of each."""
        ahead: deque[tuple[int, int]] = deque()

        def inputs() -> Iterator[Input]:
            for number in numbers:
                block = self.blocks.inputs(number)
                ahead.append((number, len(block)))
                yield from block

        part: _Part | None = None
        for source, found in decode(inputs()):
            if part is None:
                part = _Part.begin(self, *ahead.popleft())
            part.take(source, found)
            if tell is not None:
                tell(1)
            if part.seen == part.size:
                part.commit()
                yield part.number
                part = None

    def inputs_of(self, number: int) -> list[Input]:
        """Those of a finished part, in the order of its rows."""
        by_key = {source.key: source for source in self.blocks.inputs(number)}
        return [by_key[key] for key in pl.read_parquet(part_folder(self.out, number) / "inputs.parquet")["key"]]


@dataclass(eq=False)
class _Part:
    """A part while it is made. Its batches are cut at its own images, so that its numbers depend on nothing else."""

    job: Job
    number: int
    size: int
    growing: GrowingPart
    seen: int = 0
    batch: list[tuple[Input, Decoded]] = field(default_factory=list)
    kept: list[Input] = field(default_factory=list)
    failed: list[tuple[str, str]] = field(default_factory=list)

    @classmethod
    def begin(cls, job: Job, number: int, size: int) -> _Part:
        return cls(job, number, size, job.writer.grow(number, f"-{token_hex(8)}"))

    def take(self, source: Input, found: Decoded | Failed) -> None:
        self.seen += 1
        if isinstance(found, Decoded):
            self.batch.append((source, found))
        else:
            self.failed.append((found.name, found.reason))
        if self.batch and (len(self.batch) == self.job.blocks.batch_size or self.seen == self.size):
            self._predict()

    def _predict(self) -> None:
        chunk, kept, failed = scored(self.job.predictor, self.batch)
        self.failed += [(one.name, one.reason) for _, one in failed]
        self.kept += kept
        self.batch = []
        self._add(chunk)

    def _add(self, chunk: Chunk) -> None:
        try:
            self.growing.add(chunk)
        except FileNotFoundError:  # another process made the same part, and completed the folder
            if not self.growing.final.is_dir():
                raise

    def commit(self) -> None:
        if not self.kept:
            self._add(_nothing_of(self.job.predictor))
        try:
            pl.DataFrame({"key": [one.key for one in self.kept]}, {"key": pl.String}).write_parquet(
                self.growing.place / "inputs.parquet"
            )
            if self.failed:
                pl.DataFrame(self.failed, FAILED, orient="row").write_parquet(self.growing.place / "failed.parquet")
            self.growing.commit()
        except FileNotFoundError:
            if not self.growing.final.is_dir():
                raise


def _nothing_of(predictor: Predictor) -> Chunk:
    """No image, but maps of the right size."""
    width, height = predictor.model.canvas.canvas
    scores, maps = predictor.raw(images_of(np.zeros((1, height, width), np.uint8)))
    return Chunk((), (), (), scores[:0], maps[:0])


def open_job(
    predictor: Predictor, given: Sequence[str], out: Path | str | Place, settings: StreamSettings, shards: int = 1
) -> Job:
    """Joins the work on a folder, or begins it."""
    place = place_of(out)
    place.folder.mkdir(parents=True, exist_ok=True)
    earlier = read_header(place.folder) if (place.folder / "predictions.json").exists() else {}
    reading = reading_for(predictor, settings)
    way = way_of(given, settings.views, reading.pseudonyms.key)

    def sizes() -> dict[str, int]:
        batch_size = settings.batch_size or earlier.get("model", {}).get("forward", {}).get("batch_size")
        if batch_size is None:
            batch_size = chosen_batch_size(predictor.forward, predictor.model.canvas.canvas)
        part_size = settings.part_size or earlier.get("part_size") or 0
        return {"batch_size": batch_size, "part_size": part_size, "shards": shards}

    for _ in range(5):
        try:
            blocks = shared_blocks(place, given, way, sizes)
            break
        except Gone:  # completed at this very moment
            continue
    else:
        raise Refused(f"{place}: other processes complete it again and again; wait until they have ended")
    header = header_of(predictor, blocks.batch_size, blocks.part_size, blocks.data)
    job = Job(predictor, PredictionsWriter(place, header), blocks, reading)
    if earlier.get("complete") and len(job.there()) < blocks.parts:
        job.writer.reopen()
    return job


def predict_shard(
    job: Job, shard: Shard, workers: int | None = None, *, on_part: OnPart | None = None, progress: bool = True
) -> Share:
    """One process's share of the parts. `on_part` hears of each of them, also of those that were there."""
    own = range(shard.index, job.blocks.parts, shard.count)
    there = job.there()
    missing = [number for number in own if number not in there]
    left = job.blocks.inputs_in(missing)
    if workers is None:
        workers = min(cores(), 8, left // WORTH_A_PROCESS)
    try:
        with progress_of("predict", left, show=progress) as advance:
            for _ in job.predict(missing, lambda inputs: decode_all(inputs, job.reading, workers), advance):
                pass
        if on_part is not None:
            job.place.bring(own)
            for number in own:
                on_part(part_folder(job.out, number), job.inputs_of(number))
        return complete(job, own)
    except Gone:
        if not read_header(job.out)["complete"]:
            raise Refused(f"{job.out / 'plan'}: is gone while parts are missing; call again") from None
        return share_of(job.out, range(job.blocks.parts))
