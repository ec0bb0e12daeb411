"""Makes every published table with `--quick` into one folder, and prints what each cost as Markdown.

python benchmarks/quick.py FOLDER [TABLE ...]

One fold of each table. Tables that share a config share its runs, so the order counts. A folder made before is used again.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

from chestmap.evaluation.published import find
from chestmap.methods import METHODS
from chestmap.named_configs import configs_folder
from chestmap.reproduction.reproduce import QuickSettings, ReproduceSettings, reproduce
from chestmap.reproduction.table_plan import entries, plan_of


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("folder", type=Path)
    options.add_argument("tables", nargs="*")
    chosen = options.parse_args()
    configs = configs_folder()
    tables = chosen.tables or [entry.id for entry in entries(configs, METHODS) if not entry.state]
    print("| table | configs | trained now | own rows | cells filled | s of processor |\n|---|---:|---:|---:|---:|---:|")
    for table in tables:
        print(line(table, configs, chosen.folder), flush=True)


def line(table: str, configs: Path, folder: Path) -> str:
    """Makes one table; a cell is filled where the row's own findings have a figure."""
    plan = plan_of(find(table), configs, METHODS)
    begun, made_before = time.process_time(), sum((folder / "quick" / name).exists() for name in plan.trees)
    asked = ReproduceSettings(table=table, out=folder, configs=configs, quick=QuickSettings(folds=1))
    made = reproduce(asked, METHODS, progress=False)
    spent = time.process_time() - begun
    rows = json.loads(made.path.read_text(encoding="utf-8"))["rows"]
    printed = [(row["row"], row["score"], name, row["ours"][name]) for row in rows for name in row["published"]]
    empty = [f"{row} {score} {name}" for row, score, name, value in printed if value is None]
    same = [note for note in made.table.notes if "the same maps" in note]
    trained = len(plan.trees) - made_before
    return (
        f"| {table} | {len(plan.trees)} | {trained} | {len(rows)} | {len(printed) - len(empty)} of {len(printed)} "
        f"| {spent:.0f} |{' ' + '; '.join(empty[:12] + same) if empty or same else ''}"
    )


if __name__ == "__main__":
    main()
