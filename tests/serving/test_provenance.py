"""Where verdicts and boxes come from, and what of them becomes truth to train on: a table of every kind."""

from contextlib import closing
from hashlib import sha256

import pytest

from chestmap.serving.store import reviews
from chestmap.serving.store.database_tables import Review
from chestmap.serving.store.export_reviews import read_reviews
from chestmap.serving.store.results import ModelAnswer, NewFile, answer
from chestmap.serving.store.review_schema import NewReview
from chestmap.serving.store.store import NewStudy, Store

MODELS = {"a" * 64: "one-aaaa", "b" * 64: "two-bbbb"}
FIRST, SECOND = MODELS
NAMES = ("Atelectasis", "Cardiomegaly", "Effusion", "Hernia", "Mass", "Nodule")
CALLED = {"Atelectasis", "Cardiomegaly", "Effusion", "Hernia"}
OF_MODEL = {"x0": 10.04, "y0": 12.0, "x1": 40.0, "y1": 50.0}
ROUNDED = {**OF_MODEL, "x0": 10.0}  # as the page writes it
OWN = {"x0": 1.0, "y0": 2.0, "x1": 30.0, "y1": 31.0}
MOVED = {**OF_MODEL, "y1": 60.0, "origin": "moved", "model": "one-aaaa"}


def said(verdict, *boxes, how=None, seen=""):
    return {"verdict": verdict, "boxes": list(boxes), "how": how, "seen": seen}


@pytest.fixture
def store(tmp_path):
    """One study, on which one model calls the first four of six findings; each has a box, also those that are not called."""
    with closing(Store(tmp_path / "store")) as made:
        sha, received = sha256(b"film").hexdigest(), made.folders.new()
        (received / "original").write_text("film")
        image = {"width": 80, "height": 96, "source": "png"}
        files = (NewFile("original", "original", sha, 4),)
        made.add(
            NewStudy(id=f"s-{sha[:24]}", sha256=sha, name="film", image=image, files=files), received, {FIRST: MODELS[FIRST]}
        )
        findings = [
            {"name": name, "score": 0.6, "threshold": 0.5, "over": name in CALLED, "boxes": [{**OF_MODEL, "score": 0.6}]}
            for name in NAMES
        ]
        answer(
            made,
            [
                ModelAnswer(
                    study_id=f"s-{sha[:24]}", model_sha=FIRST, findings=findings, maps={"order": list(NAMES)}, suspicion=0.6
                )
            ],
        )
        made.study_id = f"s-{sha[:24]}"
        yield made


def write(store, base, by="Ana", **findings):
    review = NewReview.model_validate({"base": base, "state": "part", "findings": findings})
    return reviews.put_review(store, store.study_id, by, review)


def test_a_box_of_a_model_is_that_models_whoever_sends_it(store):
    found = write(
        store, 0, Mass=said("correct", ROUNDED, OWN), Effusion=said("accept", OF_MODEL), Hernia=said("correct", MOVED)
    ).findings
    assert [(one.origin, one.model, one.called) for one in found["Mass"].boxes] == [
        ("model", "one-aaaa", False),
        ("drawn", "", False),
    ]
    assert [(one.origin, one.called) for one in found["Effusion"].boxes] == [("model", True)]
    assert [(one.origin, one.model) for one in found["Hernia"].boxes] == [("moved", "one-aaaa")]


def test_a_verdict_keeps_who_gave_it_and_how_until_it_changes(store):
    write(store, 0, Mass=said("reject", how="bulk", seen="one-aaaa"), Nodule=said("reject"))
    kept = write(store, 1, "Bo", Mass=said("reject"), Nodule=said("reject"), Effusion=said("accept", OF_MODEL)).findings
    assert [(one.by, one.how, one.seen) for one in (kept["Mass"], kept["Nodule"], kept["Effusion"])] == [
        ("Ana", "bulk", "one-aaaa"), ("Ana", "considered", ""), ("Bo", "considered", ""),
    ]  # fmt: skip
    again = write(store, 2, "Cy", Mass=said("reject", how="considered"), Nodule=said("correct", OWN)).findings
    assert [(one.by, one.how) for one in (again["Mass"], again["Nodule"])] == [("Cy", "considered"), ("Cy", "considered")]
    assert [one.version for one in reviews.history(store, store.study_id)] == [1, 2, 3]


def test_from_reviews_takes_what_somebody_considered_and_no_box_of_an_uncalled_model(store, tmp_path):
    """Exactly this table: finding, verdict, label, boxes."""
    write(
        store, 0,
        Atelectasis=said("accept", OF_MODEL, how="considered"), Cardiomegaly=said("accept", OF_MODEL, how="bulk"),
        Effusion=said("correct", MOVED), Hernia=said("reject"), Mass=said("correct", ROUNDED), Nodule=said("correct", ROUNDED, OWN),
    )  # fmt: skip
    findings, (one,) = read_reviews(tmp_path / "store")
    assert findings.names == NAMES
    expected = {"Atelectasis": True, "Effusion": True, "Hernia": False, "Mass": True, "Nodule": True}
    assert one.annotated.labels == expected
    boxes = {name: [box.corners for box in one.annotated.boxes if box.finding == name] for name in NAMES}
    corners = lambda box: tuple(box[key] for key in ("x0", "y0", "x1", "y1"))  # noqa: E731
    assert {name: found for name, found in boxes.items() if found} == {
        "Atelectasis": [corners(OF_MODEL)], "Effusion": [corners(MOVED)], "Nodule": [corners(OWN)],
    }  # fmt: skip
    of = {name: one.origin["findings"][name] for name in NAMES}
    assert of["Atelectasis"]["boxes"] == ["model one-aaaa"]
    assert of["Effusion"]["boxes"] == ["moved one-aaaa"]
    assert of["Nodule"]["boxes"] == ["drawn"]
    assert (of["Mass"]["boxes"], of["Cardiomegaly"]["left_out"], of["Cardiomegaly"]["how"]) == ([], True, "bulk")
    _, (every,) = read_reviews(tmp_path / "store", all_verdicts=True)
    assert every.annotated.labels == expected | {"Cardiomegaly": True}


def test_an_accept_without_boxes_has_no_box_of_a_model_that_did_not_call_it(store, tmp_path):
    write(store, 0, Effusion=said("accept"), Mass=said("accept"))
    _, (one,) = read_reviews(tmp_path / "store")
    assert [box.finding for box in one.annotated.boxes] == ["Effusion"]
    assert one.annotated.labels == {"Effusion": True, "Mass": True}


def test_a_verdict_of_an_older_version_is_of_unknown_origin(store, tmp_path):
    """Nobody can tell it from one agreed to in bulk."""
    write(store, 0, Effusion=said("correct", OWN), Mass=said("reject"))
    with store.writing() as session:
        row = session.get(Review, (store.study_id, 1))
        row.findings = {"Effusion": {"verdict": "correct", "boxes": [OWN]}, "Mass": row.findings["Mass"]}
        row.digest = ""  # an older version kept none
    _, (one,) = read_reviews(tmp_path / "store")
    assert one.annotated.labels == {"Mass": False}
    _, (every,) = read_reviews(tmp_path / "store", all_verdicts=True)
    assert every.annotated.labels == {"Effusion": True, "Mass": False}
    assert every.origin["findings"]["Effusion"]["boxes"] == ["unknown"]
