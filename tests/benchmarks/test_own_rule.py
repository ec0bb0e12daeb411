"""What the rule of one half makes of a map: its mask against the box, the best cut, and whether the greatest cell lies inside."""

import sys
from pathlib import Path

import numpy as np
import polars as pl
import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
from own_rule import facts, ground_of, told

from chestmap.types import Box, Frame

sys.path.remove(str(Path(__file__).parents[2] / "benchmarks"))  # its training.py would hide the folder of the tests


def test_a_map_that_stays_below_one_half_marks_nothing_and_has_a_best_cut():
    ground = ground_of([Box("Mass", 0, 0, 64, 64)], Frame.fit((256.0, 256.0), (512, 512)), (8, 8))
    assert ground.sum() == 4
    values = np.zeros((8, 8))
    values[:2, :4] = 0.6
    sure, unsure = facts(values, ground), facts(values / 2, ground)
    assert (sure["mask"], sure["box"], sure["iou"], sure["best"], sure["peak"]) == (0.125, 0.0625, 0.5, 0.5, 1.0)
    assert (unsure["mask"], unsure["iou"], unsure["best"]) == (0, 0, 0.5)
    rows = [{"finding": "Mass", "score": 0.3, **one} for one in (sure, unsure)]
    said = told(pl.DataFrame(rows))
    assert said.splitlines()[-1].startswith(
        "Of 1 marked pairs the mask covers 0.125 of the canvas (median), the box 0.062; 1.000"
    )
    mean = [float(cell) for cell in said.splitlines()[3].split("|")[2:-1]]
    assert mean[4:] == pytest.approx([0.5, 0.5, 0.5, 1.0, 1.0, 1.0])
