"""Reads a pack: a dataset decoded once to canvas size, at memory speed for any number of workers and processes.

On disk: `images.bin` (uint8, one canvas after another), `state.bin` (a record for each row: size, source file's size, time and
hash, hash of the pixels), `ids.txt`, `set_aside.csv`, and `pack.json` with the fingerprint of all pixels.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from hashlib import blake2b
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Int64, UInt8

from chestmap.datasets.source import Source
from chestmap.errors import BadModel
from chestmap.imaging.canvas import CanvasSettings, canvas_frame
from chestmap.imaging.pack_rows import pixel_hash
from chestmap.progress import Report, progress_of
from chestmap.storage.json_file import json_of
from chestmap.storage.manifest import is_sealed, sums_of, verified_bytes
from chestmap.types import Frame

FORM = 1
"""Raised when the pixels that packing makes of a file change."""

NEW, PACKED, ASIDE = 0, 1, 2
STATE = np.dtype([
    ("status", "u1"), ("width", "<f4"), ("height", "<f4"), ("bytes", "<i8"), ("mtime", "<i8"),
    ("content", "u1", 16), ("pixels", "u1", 16),
])  # fmt: skip
PACK_AGAIN = "delete the folder and pack again"
SAMPLE = 8
"""Rows checked by their pixels when a pack is opened."""


RECORDS = ("ids.txt", "pack.json", "set_aside.csv", "state.bin")
"""Sealed when packing is finished; each row's pixels have their hash in state.bin."""

RECORDS_CHANGED = "its records changed after packing"


class PackSettings(CanvasSettings):
    """The canvas of a pack."""


class Walk(NamedTuple):
    """How an epoch goes through a pack: so many `rows` lie together, `window` such shards are mixed at a time (0: all of them)."""

    rows: int = 0
    window: int = 0
    streams: int = 1

    @property
    def changes_order(self) -> bool:
        """Whether reading in this order differs from a plain shuffle."""
        return bool(self.window) or self.streams > 1


@dataclass(frozen=True, eq=False)
class Pack:
    """Reads the canvases of a dataset by row, from a file that all processes share.

    `ids` are in row order and include the images that were set aside, with meaningless rows; `rows` refuses those.
    """

    folder: Path
    settings: PackSettings
    source: str  # name of the source that it was made from
    ids: tuple[str, ...]
    state: np.ndarray = field(repr=False)
    fingerprint: str = ""
    set_aside: Mapping[str, str] = field(default_factory=dict)  # image id → reason

    def __len__(self) -> int:
        """The images that can be read."""
        return int((self.state["status"] == PACKED).sum())

    def __reduce__(self) -> tuple[object, ...]:
        return open_pack, (self.folder,)  # a worker process maps the file itself

    @cached_property
    def images(self) -> UInt8[np.ndarray, "row height width"]:
        """A map of the file: what is read stays in the system's page cache, shared by all processes."""
        shape = (len(self.ids), self.settings.height, self.settings.width)
        return np.memmap(self.folder / "images.bin", dtype=np.uint8, mode="r", shape=shape)

    @property
    def walk(self) -> Walk:
        """How an epoch walks over the images: freely, since they are mapped from a local file."""
        return Walk()

    @cached_property
    def row_of(self) -> dict[str, int]:
        """Row numbers of the images that were packed; those that were set aside are missing."""
        return {image_id: row for row, image_id in enumerate(self.ids) if self.state["status"][row] == PACKED}

    @property
    def set_aside_line(self) -> str:
        """How many images could not be read, the first of them and why; empty where all could."""
        for image_id, reason in sorted(self.set_aside.items()):
            count, listed = len(self.set_aside), self.folder / "set_aside.csv"
            return f"{count:,} of {len(self.ids):,} images cannot be read, such as {image_id}: {reason}; all are in {listed}"
        return ""

    def rows(self, ids: Iterable[str]) -> Int64[np.ndarray, "image"]:
        """Rows of `images`; an image without pixels is an error that gives the reason."""
        ids = list(ids)
        if missing := [image_id for image_id in ids if image_id not in self.row_of]:
            reason = self.set_aside.get(missing[0], "it is not in the pack; pack the source again")
            raise BadModel(
                f"{self.folder}: {len(missing)} of {len(ids)} images have no pixels, the first is {missing[0]}: {reason}"
            )
        return np.array([self.row_of[image_id] for image_id in ids], dtype=np.int64)

    def pixels(self, rows: Int64[np.ndarray, "image"]) -> UInt8[np.ndarray, "image height width"]:
        """Rows of `images`, each compared with its hash when this process reads it first."""
        found = np.asarray(self.images[rows])
        for place in np.flatnonzero(~self._compared[rows]):
            row = int(rows[place])
            if pixel_hash(np.ascontiguousarray(found[place]).data) != self.state["pixels"][row].tobytes():
                raise BadModel(
                    f'{self.folder}: the pixels of {self.ids[row]} changed after packing; run "chestmap data pack … --verify", '
                    "which mends what is damaged"
                )
            self._compared[row] = True
        return found

    @cached_property
    def _compared(self) -> Bool[np.ndarray, "row"]:
        """Marks the rows that this process has compared with their hash, none at first."""
        return np.zeros(len(self.ids), dtype=bool)

    def frame(self, row: int | np.integer) -> Frame:
        """Where the row's image lies on the canvas, in the source's image space."""
        size = float(self.state["width"][row]), float(self.state["height"][row])
        return canvas_frame(size, self.settings)

    def damaged(self, rows: Int64[np.ndarray, "row"] | None = None, *, progress: bool | Report = False) -> list[str]:
        """Ids of images with other pixels than those packed; all are looked at unless `rows` are given."""
        chosen = np.flatnonzero(self.state["status"] == PACKED) if rows is None else rows
        damaged = []
        with progress_of("verify", len(chosen), show=progress) as advance:
            for row in chosen:
                if pixel_hash(self.images[row].tobytes()) != self.state["pixels"][row].tobytes():
                    damaged.append(self.ids[row])
                advance(1)
        return damaged


def open_pack(folder: Path, source: Source | None = None, settings: PackSettings | None = None) -> Pack:
    """Refused where it is damaged, unfinished, of another canvas, or without the images of `source`."""
    about = read_about(folder)
    if about is None:
        raise BadModel(f'{folder}: not a pack (no pack.json); make one with "chestmap data pack"')
    if not about["complete"]:
        raise BadModel(f'{folder}: packing was not finished; run "chestmap data pack" again, it goes on where it stopped')
    sums_of(folder, PACK_AGAIN)
    pack = mapped(folder, about)
    check_fits(pack, source, settings)
    if what := damage(pack):
        raise BadModel(f'{folder}: damaged ({what}); run "chestmap data pack" again, it mends what is damaged')
    return pack


def damage(pack: Pack) -> str:
    """Names what a quick look finds wrong; empty where nothing is.

    It compares the records with the fingerprint, and `SAMPLE` rows, spread over the pack, with their hashes.
    """
    if fingerprint_of(pack) != pack.fingerprint:
        return RECORDS_CHANGED
    good = np.flatnonzero(pack.state["status"] == PACKED)
    sample = np.unique(np.linspace(0, len(good) - 1, SAMPLE).astype(np.int64)) if len(good) else good
    damaged = pack.damaged(good[sample])
    return f"the pixels of {damaged[0]} changed after packing" if damaged else ""


def check_fits(pack: Pack, source: Source | None, settings: PackSettings | None) -> None:
    """Refuses a pack that was made from another dataset, for another canvas, or before images were added."""
    if settings is not None and settings != pack.settings:
        raise BadModel(
            f"{pack.folder}: holds {canvas_name(pack.settings)}, asked for {canvas_name(settings)}; choose another folder for this canvas"
        )
    if source is None:
        return
    if source.name != pack.source:
        raise BadModel(f"{pack.folder}: holds images of {pack.source}, not of {source.name}; choose another folder")
    known = set(pack.ids)
    if missing := [image_id for image_id in source.ids if image_id not in known]:
        raise BadModel(
            f"{pack.folder}: lacks {len(missing)} of the {len(source)} images of {source.name}, the first is {missing[0]}; "
            "pack the source again"
        )


def canvas_name(settings: PackSettings) -> str:
    """Names a canvas in messages: width, height and fit."""
    return f"{settings.width}×{settings.height} {settings.fit}"


def fingerprint_of(pack: Pack) -> str:
    """Hashes canvas, ids, sizes and pixels, whatever the order of the rows.

    It takes the pixels' hashes from `state` and reads no pixels. Images that were set aside do not count.
    """
    order = sorted(np.flatnonzero(pack.state["status"] == PACKED), key=pack.ids.__getitem__)
    state = pack.state[order]
    digest = blake2b(canvas_name(pack.settings).encode(), digest_size=8)
    digest.update("\n".join(pack.ids[row] for row in order).encode())
    for name in ("width", "height", "pixels"):
        digest.update(np.ascontiguousarray(state[name]).tobytes())
    return digest.hexdigest()


def read_about(folder: Path) -> dict[str, Any] | None:
    """Reads `pack.json`; none where there is no pack. A pack of another form is refused."""
    try:
        about = json_of(_record(folder, "pack.json"), folder / "pack.json", PACK_AGAIN)
        about["settings"] = PackSettings.model_validate(about["settings"])
        if about["form"] != FORM:
            raise BadModel(
                f"{folder}: a pack of form {about['form']!s:.40}, this version reads form {FORM}; delete it and pack again"
            )
        return {"fingerprint": "", **about, "complete": bool(about["complete"]), "source": str(about["source"])}
    except (FileNotFoundError, NotADirectoryError):
        return None
    except BadModel:
        raise
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise BadModel(
            f"{folder}/pack.json: not readable ({error.__class__.__name__}); delete the folder, pack again"
        ) from None


def _record(folder: Path, name: str, *, compare: bool = True) -> bytes:
    """Reads one of a pack's records, compared with its sum once the pack is sealed.

    A pack that is being made has no sums yet.
    """
    if compare and is_sealed(folder):
        return verified_bytes(folder, name, PACK_AGAIN)
    return (folder / name).read_bytes()


def mapped(folder: Path, about: dict[str, Any], *, compare: bool = True) -> Pack:
    """Opens a pack without reading its pixels; files that disagree in length are refused."""
    try:
        ids = tuple(_record(folder, "ids.txt", compare=compare).decode("utf-8").split("\n")[:-1])
        records = _record(folder, "state.bin", compare=compare)
        state = np.frombuffer(records, dtype=STATE, count=len(records) // STATE.itemsize).copy()
        size = (folder / "images.bin").stat().st_size
        reasons = read_reasons(folder, compare=compare)
    except OSError as error:
        raise BadModel(f"{error.filename}: {error.strerror}; delete the folder and pack again") from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise BadModel(f"{folder}: ids.txt or set_aside.csv is damaged ({type(error).__name__}); {PACK_AGAIN}") from None
    settings = about["settings"]
    if about["complete"] and not (len(ids) == len(state) and size == len(ids) * settings.width * settings.height):
        raise BadModel(
            f"{folder}: {len(ids)} ids, {len(state)} records and {size} bytes of pixels disagree; delete it, pack again"
        )
    return Pack(folder, settings, about["source"], ids, state, about["fingerprint"], reasons)


def read_reasons(folder: Path, *, compare: bool = True) -> dict[str, str]:
    """Why images were set aside; where an image is listed twice, the later line counts."""
    if not (folder / "set_aside.csv").is_file():
        return {}
    text = _record(folder, "set_aside.csv", compare=compare).decode("utf-8")
    rows = csv.DictReader(io.StringIO(text, newline=""))
    return {row["image_id"]: row["reason"] or "" for row in rows if row.get("image_id")}
