"""The verdict on a claim of one seed: this way, the other way, not shown, or too small to be seen."""

import json
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
from real_claims import CLAIMS, HERE, cells, difference, verdict

sys.path.remove(str(Path(__file__).parents[2] / "benchmarks"))  # its training.py would hide the folder of the tests


def test_a_difference_has_the_error_of_both_rows():
    one, other = {"AUC": [0.8, 0.702, 0.898]}, {"AUC": [0.6, 0.502, 0.698]}
    change, error = difference(one, other, "AUC")
    assert (change, error) == (pytest.approx(0.2), pytest.approx(0.05 * 2**0.5))
    assert verdict(change, error, 0.01) == "1 seed: goes this way"
    assert verdict(-change, error, 0.01) == "1 seed: goes the other way"
    assert (verdict(0.1, error, 0.01), verdict(0.1, error, 0.5)) == ("cannot be seen here", "not shown")


def test_a_claim_is_a_row_by_its_own_measure_and_by_the_headline():
    table = json.loads(HERE.read_text(encoding="utf-8"))
    for claim in CLAIMS:
        found = cells(claim, table)
        assert len(found) == 10, claim.text
        assert bool(found[-1]) == (claim.measure != "AUC")
