"""The fault matrix at any size: `python -m faults.run --cells 400 --seed 0`, as `make faults` calls it.

Prints each cell that does not hold, and the counts; exit code 1 where there is one. `--slow` adds verbs that load torch.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from faults.cases import QUIET, VERBS
from faults.matrix import FAULTS, Matrix, cells

Cell = tuple[str, str, float]


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--cells", type=int, default=400)
    options.add_argument("--seed", type=int, default=0)
    options.add_argument("--seconds", type=float, default=float("inf"), help="begin no cell after them")
    options.add_argument("--results", type=Path, help="a table of cells; those in it are not run again")
    options.add_argument("--slow", action="store_true")
    options.add_argument("--verb", choices=VERBS)
    options.add_argument("--fault", choices=FAULTS)
    given = options.parse_args()
    os.environ |= QUIET  # before torch is loaded
    drawn = [
        cell
        for cell in cells(given.cells, slow=given.slow, seed=given.seed)
        if given.verb in {None, cell[0]} and given.fault in {None, cell[1]}
    ]
    with tempfile.TemporaryDirectory() as folder:
        model = None
        if given.slow:
            from serving.small import write_small_model

            model = write_small_model(Path(folder) / "model")
        rows = run(Matrix(Path(folder), model), drawn, given.results or Path(folder) / "results.tsv", given.seconds)
    good, bad = (Counter(row[1] for row in rows if bool(row[3]) is wrong) for wrong in (False, True))
    for fault in FAULTS:
        sys.stdout.write(f"{fault:20} {good[fault]:5,} hold {bad[fault]:5,} do not\n")
    sys.stdout.write(f"{len(rows):,} of {len(drawn):,} cells\n")
    sys.exit(bool(bad.total()))


def run(matrix: Matrix, drawn: list[Cell], results: Path, seconds: float) -> list[list[str]]:
    """Rows of verb, fault, moment and what does not hold; each is written as soon as it is known."""
    asked = {(verb, fault, f"{moment:.6f}") for verb, fault, moment in drawn}
    lines = results.read_text().splitlines() if results.exists() else []
    rows = [row for row in (line.split("\t") for line in lines) if tuple(row[:3]) in asked]
    done, start = {tuple(row[:3]) for row in rows}, time.monotonic()
    for verb, fault, moment in drawn:
        if time.monotonic() - start > seconds:
            break
        if (verb, fault, f"{moment:.6f}") in done:
            continue
        found = " ".join("; ".join(matrix.cell(verb, fault, moment)).split())
        rows.append([verb, fault, f"{moment:.6f}", found])
        with results.open("a") as stream:
            stream.write("\t".join(rows[-1]) + "\n")
        if found:
            sys.stdout.write(f"{verb} / {fault} at {moment:.3f}: {found}\n")
            sys.stdout.flush()
    return rows


if __name__ == "__main__":
    main()
