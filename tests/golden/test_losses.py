"""The first loss terms of every method, as text: a change of numbers is seen, and reviewed with `make golden`.

Seed 0, CPU, the tiny dataset, five optimizer steps of each step of the recipe. Another processor rounds otherwise, so the
comparison allows a few tenths of a percent.
"""

import math
import os
from pathlib import Path

import pytest

from chestmap.methods import METHODS
from chestmap.training.train import train
from conformance.watched import tiny_config

HERE = Path(__file__).parent
STEPS = 5


def terms_of(folder: Path) -> list[str]:
    """`step update term value`, without what depends on the machine."""
    rows = [line.split(",") for line in (folder / "log.csv").read_text().splitlines()[1:]]
    dropped = {"images_per_second", "memory_gb", "learning_rate", "loss", "validation_auc", "validation_loss"}
    return [
        f"{row[0]} {row[2]} {row[4]} {float(row[5]):.5g}"
        for row in rows
        if row[4] not in dropped and not row[4].endswith(("_raw", "_share")) and int(row[2]) <= STEPS
    ]


@pytest.mark.parametrize("name", list(METHODS))
def test_the_first_losses_are_as_recorded(name, dataset, tmp_path):
    train(tiny_config(name, dataset), tmp_path, progress=False)
    path, found = HERE / f"{name}.txt", terms_of(tmp_path)
    if os.environ.get("CHESTMAP_WRITE_GOLDEN"):
        path.write_text("\n".join(found) + "\n")
    recorded = path.read_text().splitlines()
    assert [line.rsplit(" ", 1)[0] for line in found] == [line.rsplit(" ", 1)[0] for line in recorded]
    for line, expected in zip(found, recorded, strict=True):
        one, other = float(line.split()[-1]), float(expected.split()[-1])
        assert math.isclose(one, other, rel_tol=5e-3, abs_tol=1e-5), f"{line} instead of {expected.split()[-1]}"
