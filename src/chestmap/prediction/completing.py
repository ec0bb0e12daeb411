"""What makes a predictions folder whole once all of its parts are there, whoever made them."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from secrets import token_hex
from typing import TYPE_CHECKING

import polars as pl

from chestmap.prediction.decoding import Failed
from chestmap.prediction.job_plan import remove_blocks
from chestmap.prediction.stream import write_errors

if TYPE_CHECKING:
    from chestmap.prediction.shard import Job

FAILED = {"name": pl.String, "reason": pl.String}


@dataclass(frozen=True)
class Share:
    """What a call came to. `left` counts parts that other processes still owe; with 0 the folder is complete.

    `images` and `failed` are those of this call's own parts, or of all where the folder is complete.
    """

    images: int
    failed: int
    left: int


def part_folder(out: Path, number: int) -> Path:
    return out / f"part-{number:05d}"


def complete(job: Job, own: Iterable[int]) -> Share:
    """Completes the folder where all parts are there; as often, and by as many processes at once, as it may happen."""
    missing, place = set(range(job.blocks.parts)) - job.there(), job.place
    place.bring(own if missing else range(job.blocks.parts), "inputs.parquet", "failed.parquet")
    if missing:
        share = share_of(job.out, own)
        return Share(share.images, share.failed, len(missing))
    for leftover in job.out.glob("part-*.making*"):
        shutil.rmtree(leftover, ignore_errors=True)
    write_errors(job.out / "errors.csv", told(job))
    place.send("errors.csv")
    job.writer.finish()
    share = share_of(job.out, range(job.blocks.parts))
    remove_blocks(job.out)
    place.drop_plan()
    return share


def share_of(out: Path, numbers: Iterable[int]) -> Share:
    """Counts what these parts hold."""
    images = failed = 0
    for number in numbers:
        folder = part_folder(out, number)
        images += pl.scan_parquet(folder / "inputs.parquet").select(pl.len()).collect().item()
        if (folder / "failed.parquet").exists():
            failed += len(pl.read_parquet(folder / "failed.parquet"))
    return Share(images, failed, 0)


def told(job: Job) -> Iterator[Failed]:
    """The inputs that were set aside, in order. Parts of paths that were hidden anywhere are hidden here, too."""
    folders = [part_folder(job.out, number) for number in range(job.blocks.parts)]
    broken = [folder for folder in folders if (folder / "failed.parquet").exists()]
    hidden: frozenset[str] = frozenset()
    if broken and job.reading.pseudonyms.key is not None:
        job.place.bring(range(job.blocks.parts), "scores.parquet")
        hidden = _hidden_in(folders)
    for folder in broken:
        rows = pl.read_parquet(folder / "failed.parquet")
        shown = [
            "/".join(other if (other := job.reading.pseudonyms.hidden(part)) in hidden else part for part in name.split("/"))
            for name in rows["name"]
        ]
        if shown != rows["name"].to_list():
            beside = folder / f"failed.parquet.{token_hex(4)}.part"
            rows.with_columns(pl.Series("name", shown)).write_parquet(beside)
            beside.replace(folder / "failed.parquet")
            job.place.send(f"{folder.name}/failed.parquet")
        yield from map(Failed, shown, rows["reason"])


def _hidden_in(folders: Iterable[Path]) -> frozenset[str]:
    """The parts of names that stand for hidden ones."""
    found: set[str] = set()
    for folder in folders:
        for file, column in (("scores.parquet", "image_id"), ("failed.parquet", "name")):
            if (folder / file).exists():
                names = pl.read_parquet(folder / file, columns=[column])[column]
                parts = names.filter(names.str.contains("hidden-", literal=True)).str.split("/").explode()
                found |= set(parts.filter(parts.str.starts_with("hidden-")).to_list())
    return frozenset(found)
