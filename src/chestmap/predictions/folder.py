"""Reads and writes the predictions folder: scores and maps of many images.

predictions.json             findings, canvas, model, the method's own rule; "complete" is true once every part is there
part-00000/scores.parquet    image_id, patient_id, width, height, frame (10 numbers), one float32 column per finding
part-00000/maps.npy          float16 [image, finding, h, w], raw and non-negative, rows as in the parquet file
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from jaxtyping import Float16, Float32

from chestmap.errors import BadInput, BadModel, Refused
from chestmap.predictions.header import FORMAT, GREATEST, Header, HeaderFile, OwnRule
from chestmap.predictions.part_maps import PartMaps
from chestmap.predictions.part_writer import Chunk, GrowingPart
from chestmap.settings import checked
from chestmap.storage.addresses import is_address, without_scheme
from chestmap.storage.atomic import write_text
from chestmap.storage.download import Copy
from chestmap.storage.json_file import read_json
from chestmap.storage.manifest import SUMS, is_sealed, seal, unseal, verified, verified_bytes
from chestmap.storage.results_folder import HEADER, ResultsFolder, place_of
from chestmap.types import Findings, Frame, Prediction
from chestmap.vocabulary import folder_findings

__all__ = [
    "GREATEST", "Chunk", "GrowingPart", "Header", "OwnRule", "Predictions", "PredictionsWriter", "open_predictions", "read_header",
]  # fmt: skip

AGAIN = "run the same `chestmap predict` again"
BESIDE_SCORES = ("image_id", "patient_id", "width", "height", "frame")


class PredictionsWriter:
    """Writes parts that are there whole or not at all, so that a killed job goes on with the missing ones.

    `out` may be an address; `folder` is where parts are made, on this machine. Which images they are of is the job's to check.
    """

    def __init__(self, out: Path | str | ResultsFolder, header: Header) -> None:
        self.place, self.header = place_of(out), header
        self.folder = folder = self.place.folder
        folder.mkdir(parents=True, exist_ok=True)
        self.place.bring_header()
        if not (folder / HEADER).exists():
            self.reopen()
        else:
            check_same(self.place, read_header(folder), header)

    def _write_header(self, *, complete: bool, parts: int = 0) -> None:
        """Writes predictions.json.

        Its sum is written last when the folder is complete, and removed first when it is not.
        """
        text = json.dumps(self.header.as_json(complete=complete, parts=parts), indent=1)
        if complete and is_sealed(self.folder) and (self.folder / HEADER).read_text(encoding="utf-8") == text:
            return
        unseal(self.folder)
        write_text(self.folder / HEADER, text)
        if complete:
            seal(self.folder, [HEADER])
        for name in (HEADER, SUMS) if complete else (SUMS, HEADER):
            self.place.send(name)

    def has(self, part: int) -> bool:
        """Whether a part is complete, here or at the address."""
        return self.place.has(part)

    def write(self, part: int, count: int, chunks: Iterator[Chunk]) -> None:
        """One part of `count` images, given as chunks in order."""
        growing = self.grow(part)
        for chunk in chunks:
            growing.add(chunk)
        if growing.done != count or not count:
            raise Refused(f"{growing.final}: {growing.done} images came for a part of {count}")
        growing.commit()

    def grow(self, part: int) -> GrowingPart:
        """A part with a number of images that is not known yet."""
        return GrowingPart(self.place, part, self.header.findings)

    def reopen(self) -> None:
        """From here to `finish` the folder counts as unfinished."""
        self._write_header(complete=False)

    def finish(self, parts: int | None = None) -> None:
        """`parts` is how many there are, where the caller knows: the listing of a store may be late."""
        self._write_header(complete=True, parts=len(self.place.parts()) if parts is None else parts)


def check_same(place: ResultsFolder, earlier: Mapping[str, Any], header: Header) -> None:
    """Refused where a folder was made by another model, or in another way."""
    if differing := _differing(earlier, header.as_json(complete=False)):
        raise Refused(
            f"{place}: holds other predictions ({'; '.join(differing)}); give a new folder, or the same model and settings"
        )


def _differing(earlier: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Each setting that differs, by name; which images they are, and how far the folder is, does not count."""
    before, after = _flat(earlier), _flat(now)
    return [
        f"{key} was {_shown(before, key)}, is {_shown(after, key)}"
        for key in sorted({*before, *after})
        if before.get(key) != after.get(key) and key not in {"complete", "parts", "data", "dataset"}
    ]


def _flat(tree: Mapping[str, Any]) -> dict[str, Any]:
    """The header as one level of names, to tell which settings differ."""
    found: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, Mapping) and key in {"model", "forward", "own_rule"}:
            found |= {
                name if key != "model" or name != "data" else "training data": one for name, one in _flat(value).items()
            }
        else:
            found[key] = value
    return found


def _shown(tree: Mapping[str, Any], key: str) -> str:
    text = str(tree.get(key, "not recorded"))
    return text if len(text) <= 40 else f"{text[:36]}…"


@dataclass(frozen=True, eq=False)
class Predictions:
    """A complete predictions folder; scores are in memory, maps stay on disk until they are asked for."""

    folder: Path
    header: Header
    table: pl.DataFrame  # the rows of every scores.parquet, in order
    parts: tuple[Float16[np.ndarray, "_image finding h w"] | PartMaps, ...]

    def __len__(self) -> int:
        return len(self.table)

    @property
    def findings(self) -> Findings:
        """The findings, in the order of score columns and maps."""
        return self.header.findings

    @cached_property
    def image_ids(self) -> tuple[str, ...]:
        """Image ids in the order of the rows."""
        return tuple(self.table["image_id"])

    @cached_property
    def scores(self) -> Float32[np.ndarray, "image finding"]:
        """Scores in [0, 1], as one array."""
        return self.table.select(self.findings.names).to_numpy()

    def chunks(self, size: int = 256) -> Iterator[Chunk]:
        """All rows in order, at most `size` at a time and never across parts."""
        first = 0
        for maps in self.parts:
            for start in range(0, len(maps), size):
                yield self._chunk(first + start, maps[start : start + size])
            first += len(maps)

    def _chunk(self, first: int, maps: Float16[np.ndarray, "image finding h w"]) -> Chunk:
        rows = self.table[first : first + len(maps)]
        frames = tuple(Frame.from_list(numbers) for numbers in rows["frame"].to_list())
        scores = self.scores[first : first + len(maps)]
        return Chunk(
            image_ids=tuple(rows["image_id"]), patient_ids=tuple(rows["patient_id"]), frames=frames, scores=scores, maps=maps
        )

    def __getitem__(self, row: int) -> Prediction:
        """One image; its maps are read when they are used."""
        first = 0
        for maps in self.parts:
            if row < first + len(maps):
                return next(self._each(self._chunk(row, maps[row - first : row - first + 1])))
            first += len(maps)
        raise IndexError(row)

    def __iter__(self) -> Iterator[Prediction]:
        for chunk in self.chunks():
            yield from self._each(chunk)

    def _each(self, chunk: Chunk) -> Iterator[Prediction]:
        for row, image_id in enumerate(chunk.image_ids):
            yield Prediction(
                image_id, chunk.patient_ids[row], self.findings, chunk.scores[row], chunk.maps[row], chunk.frames[row]
            )


def open_predictions(folder: Path | str, cache: Path = Path("cache")) -> Predictions:
    """The predictions of a folder; an unfinished or damaged one is an error with a remedy.

    Those at an address are fetched into `cache`, where what has not changed there since stays.
    """
    if isinstance(folder, str):
        return open_predictions(fetched_predictions(folder, cache))
    found = read_header(folder)
    if not found["complete"]:
        raise BadModel(f"{folder}: predictions are unfinished; run the same `chestmap predict` again to finish them")
    verified(folder, HEADER, AGAIN)
    names = _part_names(folder, found.get("parts"))
    tables, maps = zip(*(read_part(folder / name, found["findings"]) for name in names), strict=True)
    header = Header(
        findings=folder_findings(found["findings"]),
        canvas=(found["canvas"][0], found["canvas"][1]),
        model=found["model"],
        own_rule=OwnRule(**found["own_rule"]),
        data=found["data"],
        part_size=found["part_size"],
        dataset=found.get("dataset", {}),
    )
    return Predictions(folder, header, pl.concat(tables), maps)


def fetched_predictions(text: str, cache: Path = Path("cache")) -> Path:
    """The folder on this machine: the one that is meant, or a copy of what evaluation needs of the one at an address."""
    path = without_scheme(text)
    if not is_address(path):
        return Path(path)

    copy = Copy(path, cache)
    for wanted in (HEADER, SUMS):
        copy.fetch(wanted, lambda name, wanted=wanted: name == wanted)
    if not (copy.folder / "predictions.json").exists():
        raise BadModel(f"{text}: no predictions.json; expected a folder that `chestmap predict --out` wrote")
    if read_header(copy.folder)["complete"]:
        copy.fetch("part-", lambda name: name.endswith(("/scores.parquet", "/maps.npy", f"/{SUMS}")))
    return copy.folder


def _part_names(folder: Path, count: int | None = None) -> Sequence[str]:
    names = sorted(entry.name for entry in folder.glob("part-?????"))
    if count and len(names) != count:
        raise BadModel(f"{folder}: holds {len(names)} of {count} parts; expected all, without a gap; predict again")
    if not names or names != [f"part-{number:05d}" for number in range(len(names))]:
        raise BadModel(f"{folder}: parts {names}: expected part-00000, part-00001 … without a gap; predict again")
    return names


def read_header(folder: Path) -> dict[str, Any]:
    """Read and check predictions.json; one line where it is missing or damaged."""
    path = folder / "predictions.json"
    try:
        header = read_json(path, "predict again")
    except FileNotFoundError:
        raise BadModel(f"{folder}: no predictions.json; expected a folder written by `chestmap predict`") from None
    form = header.get("format") if isinstance(header, dict) else "?"
    if form != FORMAT:
        raise BadModel(f"{path}: format {form!r:.40}; this version reads {FORMAT}")
    try:
        checked(HeaderFile, header, name="predictions.json")
        folder_findings(header["findings"])
    except BadInput as error:
        raise BadModel(f"{folder}: {'; '.join(str(error).splitlines()[:3])}; predict again") from None
    return header


def read_part(folder: Path, findings: Sequence[str]) -> tuple[pl.DataFrame, PartMaps]:
    """Scores and maps of a part, verified."""
    remedy = "delete this part and predict again"
    scores, maps_file = verified_bytes(folder, "scores.parquet", remedy), verified(folder, "maps.npy", remedy)
    try:
        table = pl.read_parquet(BytesIO(scores))
        maps = np.load(maps_file, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, pl.exceptions.PolarsError, pl.exceptions.PanicException) as error:
        said = " ".join(str(error).split())[:200]
        raise BadModel(f"{folder}: cannot be read ({said}); delete this part and predict again") from None
    if table.columns != [*BESIDE_SCORES, *findings] or maps.shape[:2] != (len(table), len(findings)):
        raise BadModel(f"{folder}: {len(table)} rows of {table.columns} and maps {maps.shape} do not fit; predict again")
    return table, PartMaps(folder / "maps.npy", maps.shape)
