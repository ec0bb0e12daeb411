"""The inputs as several processes see them: written down once, cut into blocks; block b of the list becomes part b of the folder.

OUT/plan/plan.json           how many inputs and how they are cut, batch size, what must be the same in every process
OUT/plan/rows-00000.parquet  the inputs in order, ROWS to a file

Whoever comes first writes it beside and renames it, all others read that one, and it goes when the folder is complete, as it
holds the names of files. Lists in tables are streamed: their length costs 8 bytes a row.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from functools import partial
from hashlib import blake2b
from itertools import islice
from pathlib import Path, PurePosixPath
from secrets import token_hex
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import polars as pl

from chestmap.errors import BadInput, BadTable, Refused
from chestmap.prediction.decoding import Input
from chestmap.prediction.input_lists import ROWS, TABLES, frames_of, named
from chestmap.prediction.input_names import placed, plain_name
from chestmap.prediction.inputs import Inputs
from chestmap.prediction.remote_inputs import list_at, told_as
from chestmap.storage.addresses import is_address, plain_path, without_scheme
from chestmap.storage.results_folder import Place

COLUMNS = {"name": pl.String, "path": pl.String, "member": pl.Int64, "problem": pl.String, "given": pl.Boolean}
MOST_PARTS = 99_999
"""Names of parts have five digits."""


class Gone(Exception):
    """The plan is no longer there: another process has completed the folder."""


@dataclass(frozen=True)
class Way:
    """What must be the same in all processes. `key` tells pseudonym keys apart without telling them; `given` the inputs."""

    given: str
    views: str
    key: str


@dataclass(frozen=True)
class Blocks:
    folder: Path
    count: int  # of inputs
    part_size: int  # inputs in each block but the last
    batch_size: int
    data: str  # fingerprint of all names, in order
    way: Way

    @property
    def parts(self) -> int:
        return -(-self.count // self.part_size)

    def inputs_in(self, numbers: Iterable[int]) -> int:
        """How many inputs these blocks hold."""
        return sum(min(self.part_size, self.count - number * self.part_size) for number in numbers)

    def inputs(self, number: int) -> list[Input]:
        """One block."""
        first, last = number * self.part_size, min((number + 1) * self.part_size, self.count)
        files = range(first // ROWS, (last - 1) // ROWS + 1)
        try:
            rows = pl.concat(pl.read_parquet(self.folder / f"rows-{file:05d}.parquet") for file in files)
        except FileNotFoundError:
            raise Gone from None
        return [Input(*row) for row in rows[first - files[0] * ROWS : last - files[0] * ROWS].iter_rows()]


def write_blocks(folder: Path, given: Sequence[str], way: Way, sizes: dict[str, int]) -> Blocks:
    """A plan in an empty folder. `sizes`: `part_size`, `batch_size`, and `shards`, how many processes will share the work."""
    digest, hashes, count = blake2b(digest_size=16), [], 0
    for number, rows in enumerate(_filled(_frames(given))):
        rows.write_parquet(folder / f"rows-{number:05d}.parquet")
        digest.update("\n".join([*rows["name"], ""]).encode("utf-8", "surrogatepass"))
        hashes.append(rows["name"].hash().to_numpy())
        count += len(rows)
    if not count:
        raise BadInput(f"{', '.join(given)[:200]}: no PNG, JPEG or DICOM file; name images")
    _check_unique(folder, np.concatenate(hashes), given)
    wanted = sizes.get("part_size") or min(max(64, -(-count // max(64, 8 * sizes.get("shards", 1)))), 4096)
    part_size = max(wanted, -(-count // MOST_PARTS))
    blocks = Blocks(folder, count, part_size, sizes["batch_size"], f"list:{digest.hexdigest()}", way)
    about = {key: value for key, value in asdict(blocks).items() if key != "folder"}
    (folder / "plan.json").write_text(json.dumps(about, indent=1), encoding="utf-8")
    return blocks


def read_blocks(folder: Path) -> Blocks:
    try:
        about: dict[str, Any] = json.loads((folder / "plan.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise Gone from None
    return Blocks(folder, **{**about, "way": Way(**about["way"])})


def shared_blocks(out: Place, given: Sequence[str], way: Way, sizes: Callable[[], dict[str, int]]) -> Blocks:
    """The plan that all processes of a folder use; one of other inputs, or another way of reading them, is refused."""
    plan = out.folder / "plan"
    if not plan.is_dir() and not out.bring_plan():
        with passing_folder(out.folder) as beside:
            write_blocks(beside, given, way, sizes())
            try:
                beside.rename(plan)
            except OSError:
                if not plan.is_dir():
                    raise
        out.offer_plan()
    blocks = read_blocks(plan)
    for key, what in (("given", "other inputs"), ("views", "another --any-view"), ("key", "another pseudonym key")):
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


def way_of(given: Sequence[str], views: str, key: bytes | None) -> Way:
    whole = "\0".join(text if "://" in text else str(Path(text).absolute()) for text in given)
    mark = "shown" if key is None else blake2b(b"which key", key=key, digest_size=8).hexdigest()
    return Way(blake2b(whole.encode("utf-8", "surrogatepass"), digest_size=8).hexdigest(), views, mark)


def _frames(given: Sequence[str]) -> Iterator[pl.DataFrame]:
    """One list that is a table is streamed as a table; anything else is walked."""
    text = without_scheme(given[0]) if given else ""
    if len(given) == 1 and is_address(text) and PurePosixPath(plain_path(text)).suffix.lower() in TABLES:
        with TemporaryDirectory() as passing:
            path, base = list_at(text, Path(passing)), text.rpartition("/")[0]
            with told_as(text, path):
                yield from (named(frame, base, partial(placed, base=base), plain_name) for frame in frames_of(path))
        return
    if len(given) == 1 and (path := Path(text)).suffix.lower() in TABLES and path.is_file():
        folder = path.parent.absolute()
        for frame in frames_of(path):
            yield named(frame, folder, partial(placed, base=folder), plain_name)
        return
    walk = iter(Inputs(given))
    while sources := list(islice(walk, ROWS)):
        yield pl.DataFrame([[getattr(one, name) for name in COLUMNS] for one in sources], COLUMNS, orient="row")


def _filled(frames: Iterator[pl.DataFrame]) -> Iterator[pl.DataFrame]:
    """The same rows, ROWS at a time."""
    held = pl.DataFrame(schema=COLUMNS)
    for frame in frames:
        held = pl.concat([held, frame])
        while len(held) >= ROWS:
            yield held[:ROWS]
            held = held[ROWS:]
    if len(held):
        yield held


def _check_unique(folder: Path, hashes: np.ndarray, given: Sequence[str]) -> None:
    """A name that stands twice would make two images one; hashes that agree by chance are looked at again."""
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
        raise BadTable(f'{given[0]}: "{same[0]}" stands {(same == same[0]).sum()} times; keep one row of each image')
