"""Writes a part of a predictions folder while images come.

A part grows under a temporary name and gets its own in one step. Scores are float32, maps float16.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from io import BytesIO
from secrets import token_hex
from typing import Any

import numpy as np
import polars as pl
from jaxtyping import Float16, Float32

from chestmap.predictions.header import GREATEST
from chestmap.storage.atomic import sync
from chestmap.storage.manifest import is_sealed, seal
from chestmap.storage.results_folder import ResultsFolder
from chestmap.types import Findings, Frame


@dataclass(frozen=True, eq=False, kw_only=True)
class Chunk:
    """Rows that belong together; `maps` may be a read-only memory map."""

    image_ids: tuple[str, ...]
    patient_ids: tuple[str, ...]
    frames: tuple[Frame, ...]
    scores: Float32[np.ndarray, "image finding"]
    maps: Float16[np.ndarray, "image finding h w"]

    def __len__(self) -> int:
        return len(self.image_ids)


class GrowingPart:
    """A part while images come; until `commit` nothing of it counts. Further files of the part may be put into `made`.

    Several processes may make the same part: the first one stays. Maps go through the file, never through a map of it: a full
    disk is then an error, not a signal that kills.
    """

    def __init__(self, where: ResultsFolder, number: int, findings: Findings) -> None:
        self.where, self.number, self.findings, self.done = where, number, findings, 0
        self.final = where.folder / f"part-{number:05d}"
        self.made = self.final.with_name(f"{self.final.name}.making-{token_hex(8)}")
        self.made.mkdir()
        self._tables: list[pl.DataFrame] = []
        self._shape: tuple[int, ...] = ()

    def add(self, chunk: Chunk) -> None:
        """Append rows to the part."""
        with (self.made / "maps.npy").open("ab") as maps:
            if not self._shape:
                self._shape = chunk.maps.shape[1:]
                maps.write(_npy_header((0, *self._shape)))
            maps.write(np.ascontiguousarray(np.clip(chunk.maps, 0, GREATEST), dtype="<f2").data)
        self._tables.append(_table(chunk, self.findings))
        self.done += len(chunk)

    def commit(self) -> None:
        """Seal the part and give it its name; where another process was first, its part stays."""
        with (self.made / "maps.npy").open("r+b") as maps:
            maps.write(_npy_header((self.done, *self._shape)))
        pl.concat(self._tables).write_parquet(self.made / "scores.parquet")
        seal(self.made)
        for path in (*self.made.iterdir(), self.made):
            sync(path)
        if self.final.is_dir() and not is_sealed(self.final):
            shutil.rmtree(self.final)  # of a process that was killed
        try:
            self.made.replace(self.final)
        except OSError:
            if not is_sealed(self.final):
                raise
            shutil.rmtree(self.made)
        sync(self.final.parent)
        self.where.send_part(self.number)


def _npy_header(shape: tuple[int, ...]) -> bytes:
    """NumPy pads it, so that the first number may grow without moving what follows."""
    stream = BytesIO()
    np.lib.format.write_array_header_1_0(stream, {"descr": "<f2", "fortran_order": False, "shape": shape})
    return stream.getvalue()


def _table(chunk: Chunk, findings: Findings) -> pl.DataFrame:
    """The rows of a chunk: ids, sizes, frames as ten numbers, and a column of scores for each finding."""
    columns: dict[str, Any] = {
        "image_id": pl.Series(chunk.image_ids, dtype=pl.String),
        "patient_id": pl.Series(chunk.patient_ids, dtype=pl.String),
        "width": np.array([frame.image[0] for frame in chunk.frames], dtype=np.float32),
        "height": np.array([frame.image[1] for frame in chunk.frames], dtype=np.float32),
        "frame": np.array([frame.as_list() for frame in chunk.frames], dtype=np.float64).reshape(-1, 10),
    }
    columns |= {name: chunk.scores[:, index] for index, name in enumerate(findings)}
    return pl.DataFrame(columns)
