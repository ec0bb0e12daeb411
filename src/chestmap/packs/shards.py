"""Keeps a pack in shards of fixed size at any fsspec address, read through a bounded folder on this machine.

At the address: `shards.json` (the index, written last), the pack's records, and `.npy` files of uint8 [row, height, width] with
the same number of rows each but the last. All but the index carry a hash of their content in their names: publishing a pack that
changed sends what changed, and readers of the older index go on with its content.
"""

from __future__ import annotations

import io
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8
from pydantic import Field, field_validator, model_validator

from chestmap.datasets.source import Source
from chestmap.errors import BadInput, BadModel
from chestmap.packs.pack import PACKED, STATE, Pack, PackSettings, Walk, check_fits, fingerprint_of
from chestmap.progress import Report, progress_of
from chestmap.settings import Settings, checked
from chestmap.storage.bounded_cache import ShardCache, StoredFile
from chestmap.storage.json_file import json_of
from chestmap.storage.stores import failures, store

FORM = 1


class ShardSettings(Settings):
    """Where a pack lies in shards, as `chestmap data pack … --shards` wrote it, and how training goes through them.

    With `window`, an epoch takes shards in an order of its own and mixes the images of so many of them at a time, so that a cache
    which holds `streams * window` shards fetches each once; 0 mixes all, as without shards. Images of a batch come in equal shares
    from `streams` such walks (a divisor of the batch size, else their greatest common one): with as many streams as processes, each
    process reads shards of its own. Both shape the order, the number of processes does not.
    """

    address: str
    cache_gb: float = Field(default=50.0, gt=0)  # 10⁹ bytes
    window: int = Field(default=0, ge=0)
    streams: int = Field(default=1, ge=1)

    @model_validator(mode="after")
    def _streams_walk(self) -> ShardSettings:
        """Refuses several streams without a window, where they would have no effect."""
        if self.streams > 1 and not self.window:
            raise ValueError(f"streams = {self.streams} without a window: all images are mixed then; set window, too")
        return self


class Index(Settings):
    """Holds the content of `shards.json`: what the pack is, and the names of its files in order.

    Every shard has `rows` rows but the last, so that a row's number gives its shard.
    """

    form: int
    source: str
    settings: PackSettings
    fingerprint: str
    images: int = Field(ge=0)
    rows: int = Field(ge=1)
    records: dict[str, StoredFile]
    shards: tuple[StoredFile, ...]

    @field_validator("form")
    @classmethod
    def _known_form(cls, form: int) -> int:
        """Refuses the index of another version's shards."""
        if form != FORM:
            raise ValueError(f"of form {form}, this version reads form {FORM}")
        return form


@dataclass(frozen=True, eq=False)
class ShardedImages:
    """Rows as the memory map of a pack gives them: one by number, several by a list."""

    cache: ShardCache
    index: Index

    @property
    def shape(self) -> tuple[int, int, int]:
        """The shape of all images together: image, height, width."""
        return self.index.images, self.index.settings.height, self.index.settings.width

    def __getitem__(self, rows: Any) -> UInt8[np.ndarray, "..."]:
        """Reads rows in the order asked for, and opens each shard that holds some of them once."""
        wanted = np.atleast_1d(np.asarray(rows))
        images = np.empty((len(wanted), *self.shape[1:]), np.uint8)
        numbers = wanted // self.index.rows
        for number in np.unique(numbers):
            places = np.flatnonzero(numbers == number)
            self._read(int(number), wanted[places] % self.index.rows, images, places)
        return images if np.ndim(rows) else images[0]

    def _read(self, number: int, rows: np.ndarray, images: np.ndarray, places: np.ndarray) -> None:
        """Copies rows of a shard to their places among `images`."""
        shard, size = self.index.shards[number], self.shape[1] * self.shape[2]
        header = shard.bytes - size * min(self.index.rows, self.index.images - number * self.index.rows)
        with os.fdopen(self.cache.open(shard), "rb", buffering=0) as file:
            for row, place in zip(rows.tolist(), places.tolist(), strict=True):
                file.seek(header + row * size)
                if file.readinto(images[place].data) != size:
                    raise BadModel(f"{self.cache.folder / shard.name}: cut short while it was read; delete it and go on")


@dataclass(frozen=True, eq=False)
class ShardedPack(Pack):
    """A pack with pixels from shards; all else is as of the pack that was published, the fingerprint too."""

    shards: ShardSettings = field(kw_only=True)
    index: Index = field(kw_only=True, repr=False)
    cache: Path = field(kw_only=True)

    def __reduce__(self) -> tuple[object, ...]:
        return open_shards, (self.shards, self.cache)

    @cached_property
    def images(self) -> Any:
        """An array-like that reads rows from shards; every process opens its own."""
        return ShardedImages(_cache(self.shards, self.cache), self.index)

    @property
    def walk(self) -> Walk:
        """How an epoch walks over the shards: few at a time, each read once."""
        return Walk(self.index.rows, self.shards.window, self.shards.streams)


def open_shards(
    shards: ShardSettings, cache: Path, source: Source | None = None, settings: PackSettings | None = None
) -> ShardedPack:
    """`cache` is a folder on this machine; several addresses have folders of their own in it."""
    index, held = read_index(shards.address), _cache(shards, cache)
    ids = tuple(held.read(index.records["ids"]).decode().split("\n")[:-1])
    state = np.frombuffer(held.read(index.records["state"]), dtype=STATE)
    reasons = json_of(held.read(index.records["set_aside"]), f"{shards.address}: set_aside", "publish the pack again")
    pack = ShardedPack(
        held.folder, index.settings, index.source, ids, state, index.fingerprint, reasons,
        shards=shards, index=index, cache=cache,
    )  # fmt: skip
    if not len(ids) == len(state) == index.images or fingerprint_of(pack) != index.fingerprint:
        raise BadModel(f"{shards.address}: records and fingerprint disagree; publish the pack again")
    check_fits(pack, source, settings)
    return pack


def read_index(address: str) -> Index:
    """Read `shards.json` of an address."""
    file_system, path = store(address)
    try:
        tree = json_of(file_system.cat_file(f"{path}/shards.json"), f"{address}/shards.json", "publish the pack again")
        return checked(Index, tree, name=f"{address}/shards.json")
    except FileNotFoundError:
        raise BadModel(f'{address}: no shards.json; publish a pack there with "chestmap data pack … --shards"') from None
    except failures() as error:
        raise BadInput(
            f"{address}/shards.json: {error.__class__.__name__}: {error}; check address and credentials"
        ) from None
    except ValueError as error:
        raise BadModel(f"{address}/shards.json: not usable ({str(error).splitlines()[0]}); publish the pack again") from None


def write_shards(pack: Pack, address: str, megabytes: float = 64, *, progress: bool | Report = True) -> Index:
    """Publishes a local pack; what is there already is not sent again, so that a killed publishing goes on.

    In a folder, content that changed after it was written is written again; elsewhere name and length must do.
    """
    file_system, path = store(address)
    size = pack.settings.width * pack.settings.height
    rows = max(1, round(megabytes * 1e6 / size))
    try:
        here = "file" in file_system.protocol
        if here:  # elsewhere this might make a bucket of a mistyped name
            file_system.makedirs(path, exist_ok=True)
        there = {Path(name).name: entry["size"] for name, entry in file_system.find(path, maxdepth=1, detail=True).items()}

        def send(stem: str, ending: str, content: bytes) -> StoredFile:
            name = f"{stem}-{blake2b(content, digest_size=16).hexdigest()}.{ending}"
            stored = StoredFile(name=name, bytes=len(content))
            there_already = there.get(stored.name) == stored.bytes
            if not there_already or (here and file_system.cat_file(f"{path}/{stored.name}") != content):
                file_system.pipe_file(f"{path}/{stored.name}", content)
            return stored

        with progress_of("publish", len(pack.ids), show=progress) as advance:
            shards = []
            for first, content in _contents(pack, rows):
                shards.append(send(f"{first // rows:06d}", "npy", content))
                advance(min(rows, len(pack.ids) - first))
        records = {
            "ids": send("ids", "txt", "".join(f"{image_id}\n" for image_id in pack.ids).encode()),
            "state": send("state", "bin", pack.state.tobytes()),
            "set_aside": send("set_aside", "json", json.dumps(dict(pack.set_aside)).encode()),
        }
        index = Index(
            form=FORM, source=pack.source, settings=pack.settings, fingerprint=pack.fingerprint, images=len(pack.ids),
            rows=rows, records=records, shards=tuple(shards),
        )  # fmt: skip
        file_system.pipe_file(f"{path}/shards.json.part", json.dumps(index.model_dump(mode="json")).encode())
        file_system.mv(f"{path}/shards.json.part", f"{path}/shards.json")
    except failures() as error:
        raise BadInput(
            f"{address}: {error.__class__.__name__}: {error}; nothing that was there is lost, try again"
        ) from None
    return index


def _contents(pack: Pack, rows: int) -> Iterator[tuple[int, bytes]]:
    """First row and file of each shard; rows that were set aside are black, whatever lies there."""
    for first in range(0, len(pack.ids), rows):
        images = np.zeros((min(rows, len(pack.ids) - first), *pack.images.shape[1:]), np.uint8)
        good = np.flatnonzero(pack.state["status"][first : first + rows] == PACKED)
        images[good] = pack.pixels(first + good)
        file = io.BytesIO()
        np.save(file, images)
        yield first, file.getvalue()


def _cache(shards: ShardSettings, cache: Path) -> ShardCache:
    """Opens the cache of an address: a folder named by a hash of it, bounded by `cache_gb`."""
    root = blake2b(shards.address.rstrip("/").encode(), digest_size=4).hexdigest()
    return ShardCache(shards.address, cache / f"shards-{root}", int(shards.cache_gb * 1e9))
