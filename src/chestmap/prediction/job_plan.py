"""Writes the inputs of a job down once, cut into blocks, for several processes. Block b becomes part b of the folder.

OUT/plan/plan.json           how many inputs and how they are cut, batch size, what must be the same in every process
OUT/plan/rows-00000.parquet  the inputs in order, ROWS to a file

The process that comes first writes it and renames it, all others read that one. It goes when the folder is complete, as it holds
the names of files. Lists in tables are streamed: their length costs 8 bytes a row.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from hashlib import blake2b
from pathlib import Path
from secrets import token_hex
from typing import Any

import numpy as np
import polars as pl

from chestmap.errors import BadInput, BadModel, BadTable, Refused
from chestmap.prediction.decoding import Input
from chestmap.prediction.input_lists import ROWS
from chestmap.prediction.providers import COLUMNS, Provider
from chestmap.storage.atomic import write_json
from chestmap.storage.json_file import read_json
from chestmap.storage.results_folder import ResultsFolder

MOST_PARTS = 99_999
"""Names of parts have five digits."""

Keys = Sequence[Sequence[str]]
"""Of the inputs of each finished part, in order."""


class PlanGone(Exception):
    """The plan is no longer there: another process has completed the folder."""


@dataclass(frozen=True)
class JobIdentity:
    """What must be the same in all processes. `key` distinguishes pseudonym keys without revealing them; `given` the inputs."""

    given: str
    views: str
    key: str


@dataclass(frozen=True, kw_only=True)
class BlockSizes:
    """How a list is cut. `part_size` 0: chosen by length and by how many `shards` share the work."""

    batch_size: int
    part_size: int = 0
    shards: int = 1


@dataclass(frozen=True, kw_only=True)
class Blocks:
    """The plan of a job: how many inputs it has, and how they are cut into blocks."""

    folder: Path
    count: int  # of inputs
    part_size: int  # inputs in each block but the last
    batch_size: int
    data: str  # fingerprint of all names, in order
    way: JobIdentity
    shards: int = 1
    kept: tuple[int, ...] = ()  # sizes of the first blocks, where an earlier call cut them otherwise

    @property
    def parts(self) -> int:
        """The number of parts: those that earlier calls made, then equal blocks of what is left."""
        return len(self.kept) + -(-(self.count - sum(self.kept)) // self.part_size)

    def bounds(self, number: int) -> tuple[int, int]:
        """The rows of one block."""
        if number < len(self.kept):
            return sum(self.kept[:number]), sum(self.kept[: number + 1])
        first = sum(self.kept) + (number - len(self.kept)) * self.part_size
        return first, min(first + self.part_size, self.count)

    def inputs_in(self, numbers: Iterable[int]) -> int:
        """How many inputs these blocks hold."""
        return sum(last - first for first, last in map(self.bounds, numbers))

    def inputs(self, number: int) -> list[Input]:
        """One block."""
        first, last = self.bounds(number)
        files = range(first // ROWS, (last - 1) // ROWS + 1)
        try:
            rows = pl.concat(pl.read_parquet(self.folder / f"rows-{file:05d}.parquet") for file in files)
        except FileNotFoundError:
            raise PlanGone from None
        block = rows.select(list(COLUMNS))[first - files[0] * ROWS : last - files[0] * ROWS].iter_rows()
        return [
            Input(name=name, path=path, member=member, problem=problem, given=given)
            for name, path, member, problem, given in block
        ]


def write_blocks(
    folder: Path, frames: Iterable[pl.DataFrame], way: JobIdentity, sizes: BlockSizes, kept: Keys = ()
) -> Blocks:
    """A plan in an empty folder. Inputs of finished parts (`kept`) come first, in blocks as they were cut."""
    digest, hashes, count = blake2b(digest_size=16), [], 0
    for number, rows in enumerate(_filled(_after(frames, kept) if kept else frames)):
        rows.write_parquet(folder / f"rows-{number:05d}.parquet")
        digest.update("\n".join([*rows["name"], ""]).encode("utf-8", "surrogatepass"))
        hashes.append(rows["name"].hash().to_numpy())
        count += len(rows)
    if not count:
        raise BadInput("no PNG, JPEG or DICOM file; name images")
    _check_unique(folder, np.concatenate(hashes))
    wanted = sizes.part_size or min(max(64, -(-count // max(64, 8 * sizes.shards))), 4096)
    part_size = max(wanted, -(-count // MOST_PARTS))
    if kept:
        digest.update(repr([len(keys) for keys in kept]).encode())
    blocks = Blocks(
        folder=folder, count=count, part_size=part_size, batch_size=sizes.batch_size, data=f"list:{digest.hexdigest()}",
        way=way, shards=sizes.shards, kept=tuple(len(keys) for keys in kept),
    )  # fmt: skip
    about = {key: value for key, value in asdict(blocks).items() if key != "folder"}
    write_json(folder / "plan.json", about)
    return blocks


def _after(frames: Iterable[pl.DataFrame], kept: Keys) -> Iterator[pl.DataFrame]:
    """All inputs, those of finished parts first; refused where one of these is no longer given."""
    rows = pl.concat(list(frames))
    keys = [Input(name=name, path="").key for name in rows["name"]]
    known = {key: place for place, key in enumerate(key for part in kept for key in part)}
    if gone := known.keys() - set(keys):
        raise Refused(f"holds {len(gone)} images that are not among these inputs; give a new folder for others")
    places = [known.get(key, len(known) + row) for row, key in enumerate(keys)]
    yield rows.with_columns(pl.Series("place", places)).sort("place").drop("place")


def read_blocks(folder: Path) -> Blocks:
    """Read the plan that `write_blocks` wrote."""
    remedy = f"delete {folder} and call again: finished parts are kept"
    try:
        about: dict[str, Any] = read_json(folder / "plan.json", remedy)
        return Blocks(folder=folder, **{**about, "way": JobIdentity(**about["way"]), "kept": tuple(about["kept"])})
    except FileNotFoundError:
        raise PlanGone from None
    except (TypeError, KeyError) as error:
        raise BadModel(f"{folder / 'plan.json'}: is no plan ({type(error).__name__}); {remedy}") from None


@dataclass(frozen=True, kw_only=True)
class FinishedWork:
    """What a folder holds: the fingerprint of its header, and its finished parts' inputs up to the first gap."""

    data: str
    keys: Callable[[], Keys]


def shared_blocks(
    out: ResultsFolder, provider: Provider, way: JobIdentity, sizes: Callable[[], BlockSizes], earlier: FinishedWork
) -> Blocks:
    """The plan that all processes of a folder use; a call for the whole may replace one that another such call left."""
    plan = out.folder / "plan"
    there = plan.is_dir() or out.bring_plan()
    if there and read_blocks(plan).way.given == way.given and sizes().shards > 1:
        return _checked(out, read_blocks(plan), way)
    with passing_folder(out.folder) as made:
        new = _planned(out, made, provider, way, sizes(), earlier)
        if there:
            old = read_blocks(plan)
            if old.data == new.data or old.shards > 1 or new.shards > 1:
                return _checked(out, old, way, None if old.data == new.data else new)
            out.drop_plan()
            remove_blocks(out.folder)
        try:
            made.rename(plan)
        except OSError:
            if not plan.is_dir():
                raise
    out.offer_plan()
    return _checked(out, read_blocks(plan), way)


def _planned(
    out: ResultsFolder, made: Path, provider: Provider, way: JobIdentity, sizes: BlockSizes, earlier: FinishedWork
) -> Blocks:
    """As a fresh folder would be cut; where other inputs were there before, theirs come first."""
    try:
        new = write_blocks(made, provider.frames(), way, sizes)
        keys = earlier.keys() if earlier.data not in ("", new.data) else ()
        if not keys:
            return new
        for path in made.iterdir():
            path.unlink()
        return write_blocks(made, provider.frames(), way, sizes, keys)
    except BadInput as problem:
        if str(problem).startswith("no PNG"):
            given = ", ".join(provider.asked.split("\0"))[:200]
            raise BadInput(f"{given}: no PNG, JPEG or DICOM file among {provider.passed_over} files; name images") from None
        raise
    except Refused as problem:
        raise Refused(f"{out}: {problem}") from None


def _checked(out: ResultsFolder, blocks: Blocks, way: JobIdentity, new: Blocks | None = None) -> Blocks:
    """Refused where the plan is one of other inputs (then those of this call are `new`), or of another way of reading them."""
    if new is not None:
        raise Refused(f"{out}: was begun with other inputs; all processes of a folder need the same; or give a new folder")
    for key, what in (("views", "another --any-view"), ("key", "another pseudonym key")):
        if getattr(blocks.way, key) != getattr(way, key):
            raise Refused(
                f"{out}: was begun with {what}; all processes of a folder need the same"
                + (" CHESTMAP_KEY (or --show-patient)" if key == "key" else "; or give a new folder")
            )
    return blocks


@contextmanager
def passing_folder(out: Path) -> Iterator[Path]:
    """An empty folder, for this process alone, that is gone afterwards unless it was renamed."""
    beside = out / f"plan.making-{token_hex(8)}"
    beside.mkdir(mode=0o700)
    try:
        yield beside
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def remove_blocks(out: Path) -> None:
    """And what processes that were killed have left of theirs, an hour ago or more."""
    place = out / "plan"
    if place.is_dir():
        gone = place.with_name(f"plan.making-{token_hex(8)}")
        with suppress(FileNotFoundError):  # another process does the same
            place.rename(gone)
        shutil.rmtree(gone, ignore_errors=True)
    for old in out.glob("plan.making-*"):
        with suppress(FileNotFoundError):
            if time.time() - old.stat().st_mtime > 3600:
                shutil.rmtree(old, ignore_errors=True)


def way_of(asked: str, views: str, key: bytes | None) -> JobIdentity:
    """Identifies what a call asks for, without keeping the key of the pseudonyms: two calls that differ in it must not
    share a folder.
    """
    mark = "shown" if key is None else blake2b(b"which key", key=key, digest_size=8).hexdigest()
    return JobIdentity(blake2b(asked.encode("utf-8", "surrogatepass"), digest_size=8).hexdigest(), views, mark)


def _filled(frames: Iterable[pl.DataFrame]) -> Iterator[pl.DataFrame]:
    """The same rows, ROWS at a time."""
    held = pl.DataFrame(schema=COLUMNS)
    for frame in frames:
        held = pl.concat([held, frame])
        while len(held) >= ROWS:
            yield held[:ROWS]
            held = held[ROWS:]
    if len(held):
        yield held


def _check_unique(folder: Path, hashes: np.ndarray) -> None:
    """A repeated name would make two images one; hashes that agree by chance are looked at again."""
    hashes.sort()
    twice = np.unique(hashes[1:][hashes[1:] == hashes[:-1]])
    if not len(twice):
        return
    again = pl.concat(
        rows.filter(rows["name"].hash().is_in(pl.Series(twice).implode()))["name"]
        for rows in map(pl.read_parquet, sorted(folder.glob("rows-*.parquet")))
    )
    same = again.filter(again.is_duplicated())
    if len(same):
        raise BadTable(f'the list: "{same[0]}" stands {(same == same[0]).sum()} times; keep one row of each image')
