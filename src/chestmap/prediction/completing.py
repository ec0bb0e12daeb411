"""Marks a predictions folder complete when all parts exist.

The last process of a job calls `complete`, and any number may call it at once. A folder is complete when predictions.json
says so; before, readers refuse it.
"""

from __future__ import annotations

import csv
import shutil
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from io import BytesIO
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

import polars as pl

from chestmap.prediction.decoding import Failed
from chestmap.prediction.job_plan import remove_blocks
from chestmap.prediction.part_inputs import REMEDY, part_folder, read_failed, read_inputs
from chestmap.reports.result_tables import safe_cell
from chestmap.storage.atomic import replacing, sweep
from chestmap.storage.manifest import SUMS, extend, verified_bytes
from chestmap.storage.scratch import LEFT

if TYPE_CHECKING:
    from chestmap.prediction.job import Job


@dataclass(frozen=True, kw_only=True)
class Share:
    """What a call came to. `left` counts parts that other processes still owe; with 0 the folder is complete.

    `images` and `failed` are those of this call's own parts, or of all where the folder is complete. `changed` counts inputs that
    held something else in an earlier call; `passed_over` files that are no images.
    """

    images: int
    failed: tuple[Failed, ...]
    left: int = 0
    changed: int = 0
    passed_over: int = 0


def complete(job: Job, own: Iterable[int], changed: int) -> Share:
    """Completes the folder where all parts are there; as often, and by as many processes at once, as it may happen."""
    missing, place = set(range(job.blocks.parts)) - job.existing_parts(), job.place
    place.bring(own if missing else range(job.blocks.parts), "inputs.parquet", "failed.parquet", SUMS)
    if missing:
        return share_of(job.out, own, left=len(missing), changed=changed, passed_over=job.provider.passed_over)
    for leftover in job.out.glob("part-*.making*"):
        shutil.rmtree(leftover, ignore_errors=True)
    sweep(job.out, LEFT)  # another process of the job may be writing
    write_errors(job.out / "errors.csv", set_aside(job))
    place.send("errors.csv")
    job.writer.finish(job.blocks.parts)
    share = share_of(job.out, range(job.blocks.parts), changed=changed, passed_over=job.provider.passed_over)
    remove_blocks(job.out)
    place.drop_plan()
    return share


def share_of(out: Path, numbers: Iterable[int], *, left: int = 0, changed: int = 0, passed_over: int = 0) -> Share:
    """Counts what these parts hold."""
    images, failed = 0, []
    for number in numbers:
        images += int(read_inputs(out, number)["row"].is_not_null().sum())
        failed += [Failed(name, reason) for name, reason in read_failed(part_folder(out, number)).iter_rows()]
    return Share(images=images, failed=tuple(failed), left=left, changed=changed, passed_over=passed_over)


def set_aside(job: Job) -> Iterator[Failed]:
    """The inputs that were set aside, in order. Parts of paths that were hidden anywhere are hidden here, too."""
    folders = [part_folder(job.out, number) for number in range(job.blocks.parts)]
    broken = [folder for folder in folders if (folder / "failed.parquet").exists()]
    hidden: frozenset[str] = frozenset()
    if broken and job.reading.pseudonyms.key is not None:
        job.place.bring(range(job.blocks.parts), "scores.parquet")
        hidden = _hidden_in(folders)
    for folder in broken:
        rows = read_failed(folder)
        shown = [
            "/".join(other if (other := job.reading.pseudonyms.hidden(part)) in hidden else part for part in name.split("/"))
            for name in rows["name"]
        ]
        if shown != rows["name"].to_list():
            with replacing(folder / "failed.parquet") as made:
                rows.with_columns(pl.Series("name", shown)).write_parquet(made)
            extend(folder, "failed.parquet")
            for name in ("failed.parquet", SUMS):
                job.place.send(f"{folder.name}/{name}")
        yield from map(Failed, shown, rows["reason"])


def _hidden_in(folders: Iterable[Path]) -> frozenset[str]:
    """The pseudonyms of hidden parts of names."""
    found: set[str] = set()
    for folder in folders:
        scores = pl.read_parquet(BytesIO(verified_bytes(folder, "scores.parquet", REMEDY)), columns=["image_id"])
        for names in (scores["image_id"], read_failed(folder)["name"]):
            parts = names.filter(names.str.contains("hidden-", literal=True)).str.split("/").explode()
            found |= set(parts.filter(parts.str.starts_with("hidden-")).to_list())
    return frozenset(found)


def write_errors(path: Path, failed: Iterable[Failed]) -> None:
    """Nothing is written where nothing went wrong."""
    rest = iter(failed)
    first = next(rest, None)
    if first is None:
        path.unlink(missing_ok=True)
        return
    with replacing(path) as made, made.open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(("input", "reason"))
        table.writerows((safe_cell(one.name), one.reason) for one in chain([first], rest))
