"""A few cells of the fault matrix, and more of them among the slow tests; `make faults` runs hundreds.

They run in a process of their own: each cell forks it, and a fork wants one thread and no checker of types.
"""

import subprocess
import sys
from pathlib import Path

import pytest

from faults.matrix import FAULTS, cells
from faults.run import run

TESTS = Path(__file__).parents[1]


def test_the_draw_has_every_pair_and_is_the_same_again():
    drawn = cells(400, slow=True)
    assert len(drawn) == 400
    assert {fault for _, fault, _ in drawn} == set(FAULTS)
    assert drawn == cells(400, slow=True)
    assert len(set(drawn)) == 400


@pytest.mark.parametrize("count", [8, pytest.param(80, marks=pytest.mark.slow)])
def test_nothing_is_lost_nothing_doubled_and_one_line_told(count, tmp_path):
    command = [sys.executable, "-m", "faults.run", "--cells", str(count), "--seed", str(count)]
    paths = {"PYTHONPATH": f"{TESTS.parent / 'src'}:{TESTS}", "TMPDIR": str(tmp_path), "PATH": ""}
    done = subprocess.run(command, env=paths, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.splitlines()[-1] == f"{count} of {count} cells"


class Wrong:
    """A matrix in which nothing holds."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, str, float]] = []

    def cell(self, verb: str, fault: str, moment: float) -> list[str]:
        self.asked.append((verb, fault, moment))
        return ["lost", "doubled"]


def test_a_run_that_was_stopped_goes_on_where_it_was(tmp_path, capsys):
    drawn, table, matrix = cells(4, slow=False), tmp_path / "cells.tsv", Wrong()
    assert len(run(matrix, drawn[:3], table, 60.0)) == 3
    rows = run(matrix, drawn, table, 60.0)
    assert matrix.asked == drawn
    assert [row[3] for row in rows] == ["lost; doubled"] * 4
    assert "lost; doubled" in capsys.readouterr().out
