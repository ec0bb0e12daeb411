"""The order that teaches most, against cases worked by hand."""

from hashlib import sha256

import numpy as np
import pytest

from chestmap.serving.store import reviews
from chestmap.serving.store.active_learning import in_order, worth
from chestmap.serving.store.results import ModelAnswer, answer
from chestmap.serving.store.review_schema import NewReview
from chestmap.serving.store.store import NewStudy, Query, Store

BOX = {"x0": 0, "y0": 0, "x1": 10, "y1": 10}
HALF = {"x0": 5, "y0": 0, "x1": 15, "y1": 10}  # IoU 50 / 150 with BOX


def told(score, threshold=None, boxes=(), name="Mass"):
    return {"name": name, "score": score, "threshold": threshold, "over": False, "boxes": list(boxes)}


@pytest.mark.parametrize(
    ("results", "expected"),
    [
        ([], 0),
        ([[told(0.5)]], 1 / 3),  # one model at its operating point: nothing to disagree with
        ([[told(0.2, 0.2)]], 1 / 3),
        ([[told(0.0), told(1.0, name="Nodule")]], 0),
        ([[told(0.1, 0.2)]], 4 * 0.25 * 0.75 / 3),  # half-way to the operating point: s = 1/4
        ([[told(0.0)], [told(1.0)]], (1 + 1 + 0) / 3),
        ([[told(1.0, boxes=[BOX])], [told(1.0, boxes=[HALF])]], (0 + 0 + 2 / 3) / 3),
        ([[told(1.0, boxes=[BOX])], [told(1.0)]], 1 / 3),  # one shows a place, the other none
        ([[told(0.8, boxes=[BOX])], [told(0.4, boxes=[BOX])]], (0.96 + 0.4 + 0) / 3),
        ([[told(0.5), told(1.0, name="Nodule")]], 1 / 6),
    ],
)
def test_the_worth_of_a_study(results, expected):
    assert worth(results) == pytest.approx(expected)


def test_the_order_takes_worth_and_avoids_what_is_like_those_before():
    """Distances in one finding: 0.9 first (worth); then 0.8 has 0.8 x 0.1, 0.5 has 0.6 x 0.4, 0.1 has 0.4 x 0.8."""
    places = np.array([[0.9], [0.8], [0.5], [0.1]])
    worths = np.array([1.0, 0.8, 0.6, 0.4])
    assert in_order(worths, places, np.zeros((0, 1))) == [0, 3, 2, 1]
    # 0.9 is known: gains 0, 0.08, 0.24, 0.32; then 0, 0.08, 0.24; then the twin of the known one comes last
    assert in_order(worths, places, np.array([[0.9]])) == [3, 2, 1, 0]
    assert in_order(worths[:0], places[:0], np.zeros((0, 1))) == []


def test_the_worklist_has_that_order(tmp_path):
    """Two twins of the greatest worth: after one of them the others are told apart, and a review makes its twin come last."""
    store = Store(tmp_path / "store")
    scores = {"a": (0.5, 0.5), "twin": (0.5, 0.5), "b": (0.5, 1.0), "sure": (1.0, 0.0)}
    ids = {}
    for word, pair in scores.items():
        sha = sha256(word.encode()).hexdigest()
        ids[f"s-{sha[:24]}"] = word
        store.add(
            NewStudy(id=f"s-{sha[:24]}", sha256=sha, name=word, image={"width": 80, "height": 96}),
            store.folders.new(),
            {"m": "one"},
        )
        findings = [told(score, name=name) for score, name in zip(pair, ("Mass", "Nodule"), strict=True)]
        answer(
            store,
            [ModelAnswer(study_id=f"s-{sha[:24]}", model_sha="m", findings=findings, maps={"order": ["Mass", "Nodule"]})],
        )

    def order(**query):
        total, studies = store.page(Query(order="teaches", **query))
        assert total == (3 if query.get("reviewed") else 4)
        return [ids[one.id] for one in studies]

    whole = order()
    assert whole[0] in {"a", "twin"}
    assert whole[1] == "b"  # worth 1/6 at a distance of 0.35; the twin has none
    assert {*whole[2:]} == {"a", "twin", "sure"} - {whole[0]}
    assert [*order(limit=2), *order(offset=2, limit=2)] == whole
    first = next(one for one, word in ids.items() if word == whole[0])
    reviews.put_review(store, first, "Ana", NewReview(base=0, state="done"))
    assert order(reviewed="no")[0] == "b"
    store.close()
