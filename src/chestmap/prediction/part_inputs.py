"""Records what a part was made of: each input of its block, its content, and where its result is.

inputs.parquet   key (hash of the name), content (start of the SHA-256), row (of scores and maps; absent where it was set aside)
failed.parquet   name and reason of what was set aside; absent where there is none
.state.bin       size and time of each file, by which the next call sees that nothing changed; a cache that is not sealed
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import numpy as np
import polars as pl

from chestmap.prediction.decoding import UNKNOWN, Failed, Identity, Input
from chestmap.prediction.providers import Provider
from chestmap.storage.manifest import verified_bytes

FAILED = {"name": pl.String, "reason": pl.String}
INPUTS = {"key": pl.String, "content": pl.String, "row": pl.Int32}
STATE = ".state.bin"
ENTRY = np.dtype("<i8")
REMEDY = "delete this part and predict again"


@dataclass(frozen=True)
class Outcome:
    """What became of an input: in the part, unless it `failed`."""

    source: Input
    identity: Identity
    failed: Failed | None = None


def part_folder(out: Path, number: int) -> Path:
    """The folder of part `number`, whether or not it is there."""
    return out / f"part-{number:05d}"


def write_inputs(made: Path, block: Sequence[Input], outcomes: Sequence[Outcome]) -> None:
    """The files above, in the order of the block; rows are in the order of the outcomes."""
    kept = [one.source for one in outcomes if one.failed is None]
    rows = {source.key: row for row, source in enumerate(kept)}
    found = {one.source.key: one for one in outcomes}
    table = [(source.key, found[source.key].identity.content, rows.get(source.key)) for source in block]
    pl.DataFrame(table, INPUTS, orient="row").write_parquet(made / "inputs.parquet")
    if failed := [(one.failed.name, one.failed.reason) for source in block if (one := found[source.key]).failed]:
        pl.DataFrame(failed, FAILED, orient="row").write_parquet(made / "failed.parquet")
    (made / STATE).write_bytes(np.array([found[source.key].identity.state for source in block], dtype=ENTRY).tobytes())


def read_inputs(out: Path, number: int) -> pl.DataFrame:
    """Reads what a part was made of: a row for each input of its block, in their order."""
    return pl.read_parquet(BytesIO(verified_bytes(part_folder(out, number), "inputs.parquet", REMEDY)))


def read_failed(folder: Path) -> pl.DataFrame:
    """Reads which inputs of a part were set aside, and why; no rows where all went well."""
    if not (folder / "failed.parquet").exists():
        return pl.DataFrame(schema=FAILED)
    return pl.read_parquet(BytesIO(verified_bytes(folder, "failed.parquet", REMEDY)))


def inputs_of(out: Path, number: int, block: Sequence[Input]) -> list[Input]:
    """The inputs of a finished part, in the order of its rows."""
    by_key = {source.key: source for source in block}
    kept = read_inputs(out, number).filter(pl.col("row").is_not_null()).sort("row")
    return [by_key[key] for key in kept["key"]]


def changed_inputs(out: Path, number: int, block: Sequence[Input], provider: Provider) -> int:
    """How many inputs of a finished part no longer hold what was predicted; a block that is cut otherwise counts as a whole."""
    table, folder = read_inputs(out, number), part_folder(out, number)
    if table["key"].to_list() != [source.key for source in block]:
        return len(block)
    state = _state(folder, len(block))
    contents = table["content"].to_list()
    known = [Identity(content, *row) for content, row in zip(contents, state, strict=True)]
    now = provider.contents(block, known)
    changed = [before != after for before, after in zip(contents, now, strict=True)]
    records = [provider.record(source) for source in block]
    if any(records):
        scores = pl.read_parquet(BytesIO(verified_bytes(folder, "scores.parquet", REMEDY)))
        predicted = list(scores.select("patient_id", "width", "height").iter_rows())
        for place, row in enumerate(table["row"]):
            changed[place] |= row is not None and records[place] is not None and records[place] != predicted[row]
    return sum(changed)


def _state(folder: Path, count: int) -> list[list[int]]:
    """Of another length, or gone: the inputs are read again."""
    try:
        found = (folder / STATE).read_bytes()
    except OSError:
        found = b""
    if len(found) != count * 2 * ENTRY.itemsize:
        return [list(UNKNOWN.state)] * count
    return np.frombuffer(found, ENTRY).reshape(count, 2).tolist()
