"""The fault matrix at any size: `python -m faults.run --cells 400 --seed 0`, as `make faults` calls it.

Prints each cell that does not hold, and the counts; exit code 1 where there is one. `--slow` adds verbs that load torch.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections import Counter
from pathlib import Path

from faults.matrix import FAULTS, VERBS, Matrix, cells


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--cells", type=int, default=400)
    options.add_argument("--seed", type=int, default=0)
    options.add_argument("--slow", action="store_true")
    options.add_argument("--verb", choices=VERBS)
    options.add_argument("--fault", choices=FAULTS)
    given = options.parse_args()
    good: Counter[str] = Counter()
    bad: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as folder:
        model = None
        if given.slow:
            from serving.small import write_small_model

            model = write_small_model(Path(folder) / "model")
        matrix = Matrix(Path(folder), model)
        for verb, fault, moment in cells(given.cells, slow=given.slow, seed=given.seed):
            if given.verb not in {None, verb} or given.fault not in {None, fault}:
                continue
            found = matrix.cell(verb, fault, moment)
            (bad if found else good)[fault] += 1
            if found:
                sys.stdout.write(f"{verb} / {fault} at {moment:.3f}: {'; '.join(found)}\n")
            sys.stdout.flush()
    for fault in FAULTS:
        sys.stdout.write(f"{fault:20} {good[fault]:5,} hold {bad[fault]:5,} do not\n")
    sys.exit(bool(bad))


if __name__ == "__main__":
    main()
