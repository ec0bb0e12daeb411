import json

import pytest

from chestmap.datasets.readings import Reading, reviewed_readings
from chestmap.errors import BadTable
from chestmap.evaluation.maps.overlap import as_array
from chestmap.evaluation.rates import Limits
from chestmap.evaluation.reader_agreement import RULE, reader_rows, union_iou
from chestmap.evaluation.score_columns import Resampling
from chestmap.types import Box


def reading(x: float, y: float) -> Reading:
    return Reading((Box("Mass", 0, 0, x, y),))


def test_readers_meet_each_other_as_worked_by_hand() -> None:
    readings = {
        "a": {"R1": reading(4, 4), "R2": reading(4, 2), "R3": Reading()},
        "b": {"R1": reading(2, 2), "R2": reading(2, 2), "R3": Reading(judged=frozenset({"Nodule"}))},
        "alone": {"R1": reading(2, 2)},
    }
    rows = reader_rows(readings, {"a": "p", "b": "q"}, ["Mass"], Limits(iou=(0.5, 0.7)), Resampling(without=()))
    found = {(row.measure, row.at): row for row in rows if row.finding == "Mass"}
    # image a: R1-R2 .5, R1-R3 0, R2-R1 .5, R2-R3 0; image b: 1 and 1
    assert found["T(IoU)", 0.5].value == pytest.approx(4 / 6)
    assert found["T(IoU)", 0.7].value == pytest.approx(2 / 6)
    assert found["mean IoU", None].value == pytest.approx(3 / 6)
    assert found["also marked", None].value == pytest.approx(4 / 6)
    assert (found["T(IoU)", 0.5].rule, found["T(IoU)", 0.5].patients) == (RULE, 2)
    assert found["T(IoU)", 0.5].low < 4 / 6 < found["T(IoU)", 0.5].high


def test_boxes_that_overlap_count_their_ground_once() -> None:
    one = as_array([Box("Mass", 0, 0, 2, 2), Box("Mass", 1, 0, 3, 2)])
    assert union_iou(one, as_array([Box("Mass", 0, 0, 3, 2)])) == pytest.approx(1.0)
    assert union_iou(one, as_array([])) == 0


def test_nobody_marked_anything() -> None:
    assert reader_rows({"a": {"R1": Reading(), "R2": Reading()}}, {}, ["Mass"], Limits(), Resampling()) == []


def test_reviews_of_several_people_come_from_their_file(tmp_path) -> None:
    assert reviewed_readings(tmp_path) == {}
    said = {"Ana": {"Mass": [[0, 0, 4, 4]], "Nodule": []}, "Bo": {"Mass": []}}
    lines = [{"image": "images/a.png", "readings": said}, {"image": "images/b.png"}]
    (tmp_path / "reviews.jsonl").write_text("".join(json.dumps(one) + "\n" for one in lines))
    found = reviewed_readings(tmp_path)
    assert list(found) == ["images/a.png"]
    assert found["images/a.png"]["Ana"] == Reading((Box("Mass", 0, 0, 4, 4),), frozenset({"Mass", "Nodule"}))
    assert not found["images/a.png"]["Bo"].looked_for("Nodule")
    (tmp_path / "reviews.jsonl").write_text('{"image": 1, "readings": {"Ana": 3}}\n')
    with pytest.raises(BadTable, match=r"reviews\.jsonl: line 1 is no review"):
        reviewed_readings(tmp_path)
