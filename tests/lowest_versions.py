"""Runs the whole chain on a phantom in an empty folder: `make lowest` calls it with the oldest versions that are allowed."""

import sys
import tempfile
from contextlib import chdir
from pathlib import Path

from chestmap.cli import call

TINY = "--set method.classify.epochs=2 --set data.pack.width=64 --set data.pack.height=64 --set run.workers=0"
CHAIN = (
    "data phantom films --images 60 --side 64",
    "data check nih films",
    f"train phantom/cam --root films --out run {TINY}",
    "predict run",
    "evaluate run --score-set resamples=20",
    "report run --pictures 2",
    "predict starter films/images --out out --write csv,json,coco,overlays,report",
)


def main() -> None:
    with tempfile.TemporaryDirectory() as folder, chdir(folder):
        for line in CHAIN:
            print(f"== chestmap {line}", file=sys.stderr, flush=True)  # noqa: T201 -- a script
            if code := call(line.split()):
                sys.exit(f"chestmap {line} ended with {code}")
        if not Path("run/report.html").is_file():
            sys.exit("no report was written")


if __name__ == "__main__":
    main()
