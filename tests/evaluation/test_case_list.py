"""The list of cases holds the overlaps that the scores were made of, and comes back from its file."""

import numpy as np
import pytest

from chestmap.errors import BadTable
from chestmap.evaluation.case_list import OVERLAPS, case_list, read_cases, write_cases
from chestmap.evaluation.evaluate import EvaluationSettings, evaluate


def test_cases_are_what_was_scored(made, tmp_path):
    built = made(["Mass", "Nodule"])
    rng = np.random.default_rng(0)
    for _ in range(6):
        built.image(rng.random((2, 8, 8)), {"Mass": [(1, 1, 5, 6)]})
    found = evaluate(built.predictions(), built.truth(), EvaluationSettings(resamples=20, workers=1))
    cases = [case for case in case_list(found) if (case.geometry, case.rule) == ("mask", "own")]
    assert {case.image_id for case in cases} == {f"image-{number:03}" for number in range(6)}
    for limit in (0.1, 0.2, 0.3):
        scored = found.only_score("T(IoU)", finding="Mass", at=limit, geometry="mask", rule="own").value
        assert scored == pytest.approx(np.mean([case.iou >= limit for case in cases]))
    for what in ("IoR", "IoGT"):
        scored = found.only_score(f"T({what})", finding="Mass", at=0.25, geometry="mask", rule="own").value
        assert scored == pytest.approx(np.mean([getattr(case, what.lower()) >= 0.25 for case in cases]))
    assert all(np.isnan(case.ior) for case in case_list(found) if case.geometry == "each")
    again = read_cases(write_cases(tmp_path / "cases.csv", cases))
    assert [(case.image_id, case.finding) for case in again] == [(case.image_id, case.finding) for case in cases]
    for what in OVERLAPS:
        assert [getattr(case, what) for case in again] == pytest.approx([getattr(case, what) for case in cases], abs=1e-6)


def test_an_empty_list_and_a_damaged_one(tmp_path):
    assert read_cases(write_cases(tmp_path / "cases.csv", [])) == []
    (tmp_path / "bad.csv").write_text("image_id,other\n1,2\n")
    with pytest.raises(BadTable, match="evaluate again"):
        read_cases(tmp_path / "bad.csv")
