"""Fills a predictions folder: a plan of blocks, a part for each block, and the folder is complete when all parts are there.

Files, lists, object stores and datasets are providers of one job. A plain call is shard 0/1 of it; tasks of Slurm or Kubernetes are
further shards, and actors of Ray make single parts. A part may be made by anybody, again, or by two at once: the first one stays.
Batches are cut at a block's own images, so that scores are the same to the last bit, whichever process makes it and whatever was killed.
A part that is there is taken as it is only while its inputs hold what they held: a changed one is predicted anew.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from io import BytesIO
from pathlib import Path
from typing import Literal

import polars as pl
from pydantic import Field

from chestmap.errors import BadInput, Refused
from chestmap.imaging.read import DEFAULTS, ReadSettings
from chestmap.models.batch_size import chosen_batch_size
from chestmap.models.predictor import Predictor
from chestmap.prediction.completing import Share, complete, share_of
from chestmap.prediction.decoding import DecodeSettings, Input
from chestmap.prediction.job_plan import Blocks, BlockSizes, FinishedWork, Keys, PlanGone, shared_blocks, way_of
from chestmap.prediction.part_inputs import (
    REMEDY,
    STATE,
    changed_inputs,
    inputs_of,
    part_folder,
    read_inputs,
)
from chestmap.prediction.part_maker import GrowingBlock, OnPart, PartWriterThread
from chestmap.prediction.providers import FileProvider, Provider, Results
from chestmap.prediction.pseudonym import Pseudonyms, own_key
from chestmap.predictions.folder import Header, PredictionsWriter, check_same, read_header
from chestmap.progress import progress_of
from chestmap.settings import Settings
from chestmap.storage.locks import exclusive
from chestmap.storage.manifest import SUMS, verified_bytes
from chestmap.storage.results_folder import ResultsFolder, place_of


class JobSettings(Settings):
    """What is not set is chosen: by what an earlier call to the same folder chose, else by machine, canvas and number of inputs."""

    batch_size: int | None = Field(default=None, ge=1)
    workers: int | None = Field(default=None, ge=0)
    part_size: int | None = Field(default=None, ge=1)
    show_patient: bool = False  # keep patient ids, and file names that identify the patient, as they are
    views: Literal["frontal", "any"] = "frontal"


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
        """Reads `i/n`, such as `0/8`, as the command line takes it."""
        found = re.fullmatch(r"(\d{1,6})/(\d{1,6})", text.strip())
        if not found or found[2] == "0":
            raise BadInput(f'--shard "{text}": expected i/n, such as 0/8 to 7/8')
        return cls(int(found[1]), int(found[2]))


@dataclass(frozen=True, eq=False, kw_only=True)
class Job:
    """One folder that is being filled, as each of its processes opens it."""

    predictor: Predictor
    provider: Provider
    writer: PredictionsWriter
    blocks: Blocks
    reading: DecodeSettings

    @property
    def out(self) -> Path:
        """The local folder that is being filled; of a remote folder it is the working copy."""
        return self.writer.folder

    @property
    def place(self) -> ResultsFolder:
        """Where the folder lies, here or at an address."""
        return self.writer.place

    def existing_parts(self) -> set[int]:
        """Numbers of parts that are complete. Parts beyond the plan belong to an earlier, longer list and do not count."""
        return {number for number in self.place.parts() if number < self.blocks.parts}

    def missing(self, numbers: Iterable[int]) -> tuple[list[int], int]:
        """Parts that are to be made, and how many inputs of others changed since; these parts are removed."""
        numbers, there, changed = list(numbers), self.existing_parts(), 0
        known = [number for number in numbers if number in there]
        self.place.bring(known, *KNOWN)
        for number in known:
            if count := changed_inputs(self.out, number, self.blocks.inputs(number), self.provider):
                changed += count
                self._drop(number)
        there = self.existing_parts() if changed else there
        missing = [number for number in numbers if number not in there]
        if missing and read_header(self.out)["complete"]:
            self.writer.reopen()
        return missing, changed

    def _drop(self, number: int) -> None:
        """What was made of the part goes first, so that nothing of it can outlive the part."""
        self.place.bring([number], "scores.parquet")
        scores = BytesIO(verified_bytes(part_folder(self.out, number), "scores.parquet", REMEDY))
        for name in pl.read_parquet(scores, columns=["image_id"])["image_id"]:
            for made in (*(f"{kind}/{name}" for kind in MADE), f"overlays/{name}.png"):
                if self.place.afar or (self.out / made).exists():
                    self.place.remove(made)
        self.place.drop_part(number)

    def predict(
        self, numbers: Iterable[int], decode: Callable[[Iterable[Input]], Results], on_part: OnPart
    ) -> Iterator[int]:
        """Makes parts, in the order given; yields how many inputs each step took. A thread writes while the network runs."""
        ahead: deque[tuple[int, list[Input]]] = deque()

        def inputs() -> Iterator[Input]:
            for number in numbers:
                block = self.blocks.inputs(number)
                ahead.append((number, block))
                yield from block

        with PartWriterThread() as writing:
            part: GrowingBlock | None = None
            for source, found in decode(inputs()):
                if part is None:
                    number, block = ahead.popleft()
                    size, growing = self.blocks.batch_size, self.writer.grow(number)
                    part = GrowingBlock(
                        predictor=self.predictor, batch_size=size, writing=writing, growing=growing, block=block
                    )
                part.take(source, found)
                yield 1
                if part.seen == len(part.block):
                    writing.submit(part.commit, on_part)
                    part = None
            writing.finish()


MADE = ("overlays", "dicom", "scores", "seg", "pmap")
"""Folders of what `--write` makes of single images."""

KNOWN = (SUMS, "inputs.parquet", "failed.parquet", STATE)
"""Files of a part that say what it was made of."""


def header_of(predictor: Predictor, batch_size: int, part_size: int, data: str = "") -> Header:
    """What must not differ between two calls to one folder; the way of computing is part of it."""
    model = predictor.model
    ran = {name: getattr(predictor.forward, name, "") for name in ("engine", "device", "precision")}
    chosen = {key: model.about[key] for key in ("calibration", "thresholds") if model.about.get(key)}
    about = {"method": model.method.name, "sha256": model.sha256, "data": model.about["data"], **chosen}
    about["forward"] = ran | {"batch_size": batch_size}
    return Header(
        findings=predictor.findings,
        canvas=model.canvas.canvas,
        model=about,
        own_rule=model.own_rule,
        data=data,
        part_size=part_size,
    )


def reading_for(predictor: Predictor, settings: JobSettings, *, hides: bool = True) -> DecodeSettings:
    """Names and ids of a dataset are its publisher's, who has seen to them."""
    pseudonyms = Pseudonyms(own_key() if hides and not settings.show_patient else None)
    return DecodeSettings(predictor.model.canvas, pseudonyms, ReadSettings(views=settings.views) if hides else DEFAULTS)


def open_job(
    predictor: Predictor, provider: Provider, out: Path | str | ResultsFolder, settings: JobSettings, shards: int = 1
) -> Job:
    """Joins the work on a folder, or begins it."""
    place = place_of(out)
    place.folder.mkdir(parents=True, exist_ok=True)
    earlier = read_header(place.folder) if (place.folder / "predictions.json").exists() else {}
    reading = reading_for(predictor, settings, hides=provider.hides)
    way = way_of(provider.asked, reading.settings.views, reading.pseudonyms.key)

    def sizes() -> BlockSizes:
        batch_size = settings.batch_size or earlier.get("model", {}).get("forward", {}).get("batch_size")
        if batch_size is None:
            batch_size = chosen_batch_size(predictor.forward, predictor.model.canvas.canvas)
        part_size = settings.part_size or earlier.get("part_size") or 0
        return BlockSizes(batch_size=batch_size, part_size=part_size, shards=shards)

    if earlier:
        now = header_of(predictor, sizes().batch_size, earlier.get("part_size", 0))
        check_same(place, earlier, now)  # before a plan of other sizes is left there
    for _ in range(5):
        try:
            before = FinishedWork(data=earlier.get("data", ""), keys=lambda: _finished_keys(place))
            blocks = shared_blocks(place, provider, way, sizes, before)
            break
        except PlanGone:  # completed at this very moment
            continue
    else:
        raise Refused(f"{place}: other processes complete it again and again; wait until they have ended")
    header = replace(header_of(predictor, blocks.batch_size, blocks.part_size, blocks.data), dataset=dict(provider.dataset))
    if settings.batch_size not in (None, blocks.batch_size):
        check_same(place, header.as_json(complete=False), header_of(predictor, settings.batch_size, blocks.part_size))
    writer = PredictionsWriter(place, header)
    if earlier.get("data", blocks.data) != blocks.data:
        writer.reopen()
    job = Job(predictor=predictor, provider=provider, writer=writer, blocks=blocks, reading=reading)
    if earlier.get("complete") and len(job.existing_parts()) < blocks.parts:
        writer.reopen()
    return job


def _finished_keys(place: ResultsFolder) -> Keys:
    """Of the parts up to the first that is missing."""
    there = place.parts()
    numbers = range(next(number for number in range(len(there) + 1) if number not in there))
    place.bring(numbers, *KNOWN)
    return [read_inputs(place.folder, number)["key"].to_list() for number in numbers]


def predict_shard(
    job: Job, shard: Shard, workers: int | None = None, *, on_part: OnPart | None = None, progress: bool = True
) -> Share:
    """One process's share of the parts. `on_part` is called with each of them, also with those that were there."""
    own, tell = range(shard.index, job.blocks.parts, shard.count), on_part or _ignore_part
    try:
        missing, changed = job.missing(own)
        left = job.blocks.inputs_in(missing)
        if on_part is not None:
            there = [number for number in own if number not in set(missing)]
            job.place.bring(there)
            for number in there:
                on_part(part_folder(job.out, number), inputs_of(job.out, number, job.blocks.inputs(number)))
        with progress_of("predict", left, show=progress) as advance:
            for count in job.predict(missing, lambda inputs: job.provider.decode(inputs, job.reading, workers, left), tell):
                advance(count)
        return complete(job, own, changed)
    except PlanGone:
        if not read_header(job.out)["complete"]:
            raise Refused(f"{job.out / 'plan'}: is gone while parts are missing; call again") from None
        return share_of(job.out, range(job.blocks.parts))


def _ignore_part(folder: Path, inputs: Sequence[Input]) -> None:
    pass


def predict_all(
    predictor: Predictor,
    provider: Provider | Sequence[str],
    out: Path | str | ResultsFolder,
    settings: JobSettings | None = None,
    *,
    on_part: OnPart | None = None,
    progress: bool = True,
) -> Share:
    """The whole of a job in this process; a second such call to the same folder is refused."""
    place, settings = place_of(out), settings or JobSettings()
    place.folder.mkdir(parents=True, exist_ok=True)
    given = FileProvider(provider) if isinstance(provider, Sequence) else provider
    refusal = f"{place}: another call is writing here; wait for it, or give another folder"
    with nullcontext() if place.afar else exclusive(place.folder / ".lock", refusal):
        job = open_job(predictor, given, place, settings)
        return predict_shard(job, Shard(), settings.workers, on_part=on_part, progress=progress)
