"""From a stream of inputs to a predictions folder, however many there are; what a killed call has finished is not done again.

Processes decode, this one runs the network, a thread writes. Parts hold a fixed number of readable images in the order of
the inputs, and batches never cross parts: what is left after a kill is cut into the same batches, so scores are the same to the
last bit. Beside scores and maps a part holds `inputs.parquet`: a hash of each input's name, by which the next call knows it.
"""

from __future__ import annotations

import csv
import fcntl
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from secrets import token_hex
from typing import Literal

import numpy as np
import polars as pl
from pydantic import Field

from chestmap.errors import BadInput, Diverged, Refused
from chestmap.imaging.read import ReadSettings
from chestmap.models.batch_size import chosen_batch_size
from chestmap.models.predictor import Predictor, images_of
from chestmap.packs.build import cores
from chestmap.prediction.decoding import Decoded, Failed, Input, Reading, decode_all
from chestmap.prediction.from_pack import chosen_by
from chestmap.prediction.inputs import Inputs
from chestmap.prediction.pseudonym import Pseudonyms, own_key
from chestmap.prediction.writer import OnPart, Writing
from chestmap.predictions.folder import Chunk, Header, PredictionsWriter, read_header
from chestmap.progress import progress_of
from chestmap.reports.result_tables import safe_cell
from chestmap.settings import Settings
from chestmap.storage.results_folder import Place, place_of

WORTH_A_PROCESS = 32
"""With fewer images for each, processes that decode cost more time to start than they save."""

PARTS = 64
"""So many parts are aimed at, so that a kill costs little; a part holds 64 to 4,096 images."""


class StreamSettings(Settings):
    """What is not set is chosen: by what an earlier call to the same folder chose, else by machine, canvas and number of inputs."""

    batch_size: int | None = Field(default=None, ge=1)
    workers: int | None = Field(default=None, ge=0)
    part_size: int | None = Field(default=None, ge=1)
    show_patient: bool = False  # keep patient ids, and file names that tell of the patient, as they are
    views: Literal["frontal", "any"] = "frontal"


@dataclass(frozen=True)
class Outcome:
    """`images` are all in the folder, `failed` those that this call could not read."""

    images: int
    failed: tuple[Failed, ...]
    passed_over: int


def predict_inputs(
    predictor: Predictor,
    inputs: Inputs,
    out: Path | str | Place,
    settings: StreamSettings | None = None,
    *,
    on_part: OnPart | None = None,
    progress: bool = True,
) -> Outcome:
    """`on_part` hears of each finished part, also of those of earlier calls, with its inputs in the order of its rows."""
    place = place_of(out)
    place.folder.mkdir(parents=True, exist_ok=True)
    with _alone(place.folder):
        place.begin("inputs.parquet")
        stream = _Stream.begin(predictor, inputs, place, settings or StreamSettings())
        with progress_of("predict", stream.left, show=progress) as advance:
            stream.run(on_part or _nothing, advance)
        return stream.end()


def _nothing(folder: Path, inputs: Sequence[Input]) -> None:
    pass


@contextmanager
def _alone(out: Path) -> Iterator[None]:
    """Two calls that write the same parts would mix them; the lock goes with the process that holds it."""
    with (out / ".lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Refused(f"{out}: another call is writing here; wait for it, or give another folder") from None
        yield


@dataclass(eq=False)
class _Done:
    """Where each input of earlier calls stands."""

    place: dict[str, tuple[int, int]] = field(default_factory=dict)  # key of an input → part and row
    sizes: list[int] = field(default_factory=list)

    @classmethod
    def read(cls, out: Path) -> _Done:
        done = cls()
        while (folder := out / f"part-{len(done.sizes):05d}").is_dir():
            try:
                keys = pl.read_parquet(folder / "inputs.parquet")["key"].to_list()
            except (OSError, pl.exceptions.PolarsError):
                raise Refused(f"{folder}: was not predicted from files; give a new folder") from None
            done.place |= {key: (len(done.sizes), row) for row, key in enumerate(keys)}
            done.sizes.append(len(keys))
        return done


@dataclass(eq=False)
class _Stream:
    predictor: Predictor
    inputs: Inputs
    writer: PredictionsWriter
    reading: Reading
    done: _Done
    left: int  # inputs that are not predicted yet
    batch_size: int
    workers: int
    failed: list[tuple[str, Failed]] = field(default_factory=list)  # with the input's own name
    hidden: dict[str, str] = field(default_factory=dict)  # parts of paths that tell of a patient
    images: int = 0

    @classmethod
    def begin(cls, predictor: Predictor, inputs: Inputs, place: Place, settings: StreamSettings) -> _Stream:
        """Counts the inputs, and settles what the folder's files will say of how they were made."""
        out = place.folder
        earlier = read_header(out) if (out / "predictions.json").exists() else {}
        done = _Done.read(out)
        keys = {source.key for source in inputs} if done.place else None
        total = inputs.count() if keys is None else len(keys)
        if not total:
            raise BadInput(
                f"{', '.join(inputs.given)[:200]}: no PNG, JPEG or DICOM file among {inputs.passed_over} files; name images"
            )
        if keys is not None and (gone := done.place.keys() - keys):
            raise Refused(f"{place}: holds {len(gone)} images that are not among these inputs; give a new folder for others")
        batch_size = settings.batch_size or earlier.get("model", {}).get("forward", {}).get("batch_size")
        if batch_size is None:
            batch_size = chosen_batch_size(predictor.forward, predictor.model.canvas.canvas)
        part_size = settings.part_size or earlier.get("part_size") or min(max(64, -(-total // PARTS)), 4096)
        left = total - len(done.place)
        workers = settings.workers
        if workers is None:
            workers = min(cores(), 8, left // WORTH_A_PROCESS)
        writer = PredictionsWriter(place, header_of(predictor, batch_size, part_size))
        return cls(predictor, inputs, writer, reading_for(predictor, settings), done, left, batch_size, workers)

    def run(self, on_part: OnPart, advance: Callable[[int], None]) -> None:
        """The network runs here; whatever goes wrong while writing comes up here, too."""
        if self.left:
            self.writer.reopen()
        with Writing(self.writer, len(self.done.sizes), on_part) as writing:
            batch: list[tuple[Input, Decoded]] = []
            for source, found in decode_all(self._undone(on_part), self.reading, self.workers):
                self._learn(source, found)
                if isinstance(found, Decoded):
                    batch.append((source, found))
                else:
                    self.failed.append((source.name, found))
                advance(1)
                if len(batch) == min(self.batch_size, writing.room):
                    self._predict(batch, writing)
                    batch = []
            if batch:
                self._predict(batch, writing)
            writing.finish()
        self.images = writing.images + sum(self.done.sizes)

    def _undone(self, on_part: OnPart) -> Iterator[Input]:
        """Inputs that are not predicted yet; those that are tell their part as soon as all of it has come by."""
        inside: dict[int, dict[int, Input]] = {}
        for source in self.inputs:
            place = self.done.place.get(source.key)
            if place is None:
                yield source
                continue
            part, row = place
            rows = inside.setdefault(part, {})
            rows[row] = source
            if len(rows) == self.done.sizes[part]:
                on_part(self.writer.folder / f"part-{part:05d}", [rows[place] for place in sorted(rows)])
                del inside[part]

    def _predict(self, batch: list[tuple[Input, Decoded]], writing: Writing) -> None:
        chunk, kept, failed = scored(self.predictor, batch)
        self.failed += failed
        if kept:
            writing.add(chunk, kept)

    def _learn(self, source: Input, found: Decoded | Failed) -> None:
        """Which parts of paths were hidden, so that a broken file in the same folder does not tell them."""
        name = found.image_id if isinstance(found, Decoded) else found.name
        if name != source.name:
            before, after = source.name.split("/"), name.split("/")
            self.hidden |= {one: other for one, other in zip(before, after, strict=False) if one != other}

    def end(self) -> Outcome:
        """The folder is complete; errors.csv lists what is not in it."""
        out = self.writer.folder
        for leftover in out.glob("part-*.making"):
            shutil.rmtree(leftover)
        failed = [Failed(self._shown(found.name), found.reason) for _, found in self.failed]
        write_errors(out / "errors.csv", failed)
        self.writer.place.send("errors.csv")
        if self.images:
            self.writer.finish()
        return Outcome(self.images, tuple(failed), self.inputs.passed_over)

    def _shown(self, name: str) -> str:
        return "/".join(self.hidden.get(part, part) for part in name.split("/"))


def scored(predictor: Predictor, batch: list[tuple[Input, Decoded]]) -> tuple[Chunk, list[Input], list[tuple[str, Failed]]]:
    """An image whose scores are no numbers is set aside; where all are, the weights are to blame."""
    scores, maps = predictor.raw(images_of(np.stack([one.canvas for _, one in batch])))
    good = np.isfinite(scores).all(axis=1)
    if not good.any() and not _sees_an_empty_canvas(predictor):
        raise Diverged(f"{predictor.model.folder}: no score of {len(batch)} images is a finite number; check the weights")
    failed = [
        (batch[row][0].name, Failed(batch[row][1].image_id, "its scores are no finite numbers: check the image"))
        for row in np.flatnonzero(~good)
    ]
    kept = [batch[row] for row in np.flatnonzero(good)]
    ids, patients = tuple(one.image_id for _, one in kept), tuple(one.patient_id for _, one in kept)
    chunk = Chunk(ids, patients, tuple(one.frame for _, one in kept), scores[good], maps[good])
    return chunk, [source for source, _ in kept], failed


def _sees_an_empty_canvas(predictor: Predictor) -> bool:
    """Whether an empty canvas has finite scores, so that it is the images that are wrong."""
    width, height = predictor.model.canvas.canvas
    return bool(np.isfinite(predictor.raw(images_of(np.zeros((1, height, width), np.uint8)))[0]).all())


def header_of(predictor: Predictor, batch_size: int, part_size: int, data: str = "") -> Header:
    """What must not differ between two calls to one folder; the way of computing is part of it."""
    model = predictor.model
    ran = {name: getattr(predictor.forward, name, "") for name in ("engine", "device", "precision")}
    about = {"method": model.method.name, "sha256": model.sha256, "data": model.about["data"], **chosen_by(model)}
    about["forward"] = ran | {"batch_size": batch_size}
    return Header(predictor.findings, model.canvas.canvas, about, model.own_rule, data, part_size)


def reading_for(predictor: Predictor, settings: StreamSettings) -> Reading:
    pseudonyms = Pseudonyms(None if settings.show_patient else own_key())
    return Reading(predictor.model.canvas, pseudonyms, ReadSettings(views=settings.views))


def write_errors(path: Path, failed: Iterable[Failed]) -> None:
    """Nothing is written where nothing went wrong."""
    rest = iter(failed)
    first = next(rest, None)
    if first is None:
        path.unlink(missing_ok=True)
        return
    beside = path.with_name(f"{path.name}.{token_hex(4)}.part")
    with beside.open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(("input", "reason"))
        table.writerows((safe_cell(one.name), one.reason) for one in chain([first], rest))
    beside.replace(path)
