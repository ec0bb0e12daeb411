"""Nobody's review is overwritten, and every version stays."""

from concurrent.futures import ThreadPoolExecutor

import pytest

from serving.small import picture, upload

BOX = {"x0": 1, "y0": 2.5, "x1": 30, "y1": 40}


@pytest.fixture
def study(client, request):
    seed = 1000 + sum(map(ord, request.node.name))
    return f"/v1/studies/{client.post('/v1/predict', files=upload(picture(seed))).json()['studies'][0]['id']}"


def body(base=0, state="part", **findings):
    return {"base": base, "state": state, "findings": findings, "note": ""}


def test_a_review_is_kept_with_who_and_when(client, study):
    assert client.get(study).json()["review"] == {
        "version": 0,
        "state": "no",
        "by": "",
        "at": None,
        "findings": {},
        "note": "",
        "stage": "open",
        "measures": [],
        "key": False,
    }
    marked = {"verdict": "correct", "boxes": [BOX]}
    answer = client.put(f"{study}/review", json=body(Mass=marked), headers={"X-Reviewer": "J%C3%BCrgen%20%3Cb%3E"})
    assert answer.status_code == 200
    found = client.get(study).json()["review"]
    assert found == answer.json()
    assert (found["version"], found["state"], found["by"]) == (1, "part", "Jürgen <b>")
    (box,) = found["findings"]["Mass"].pop("boxes")
    assert box == {**BOX, "origin": "drawn", "model": "", "called": False}
    said = {"verdict": "correct", "how": "considered", "seen": "", "by": "Jürgen <b>", "at": found["at"]}
    assert found["findings"] == {"Mass": said}
    row = next(row for row in client.get("/v1/studies?reviewed=part&limit=500").json()["studies"] if row["id"] in study)
    assert row["review"] == {"version": 1, "state": "part", "by": "Jürgen <b>", "at": found["at"]}


def test_who_saw_an_old_version_gets_the_current_one(client, study):
    first = client.put(f"{study}/review", json=body(Mass={"verdict": "accept"})).json()
    answer = client.put(f"{study}/review", json=body(Mass={"verdict": "reject"}))
    assert answer.status_code == 409
    assert answer.json()["current"] == first
    assert client.put(f"{study}/review", json=body(7)).status_code == 409
    client.put(f"{study}/review", json=body(1, "done", Mass={"verdict": "reject"}))
    versions = client.get(f"{study}/history").json()["versions"]
    assert [(one["version"], one["findings"]["Mass"]["verdict"]) for one in versions] == [(1, "accept"), (2, "reject")]


def test_of_many_at_once_exactly_one_writes(client, study):
    def write(number):
        return client.put(f"{study}/review", json=body(), headers={"X-Reviewer": f"r{number}"})

    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(write, range(8)))
    won = [one for one in answers if one.status_code == 200]
    assert len(won) == 1
    lost = [one for one in answers if one.status_code == 409]
    assert len(lost) == 7
    assert {one.json()["current"]["by"] for one in lost} == {won[0].json()["by"]}


@pytest.mark.parametrize(
    "findings",
    [
        {"Mass": {"verdict": "correct", "boxes": [{**BOX, "x1": 81}]}},
        {"Mass": {"verdict": "correct", "boxes": [{**BOX, "y0": -0.5}]}},
        {"Mass": {"verdict": "correct", "boxes": [{**BOX, "x1": 1}]}},
        {"Mass": {"verdict": "correct", "boxes": [{**BOX, "x1": None}]}},
        {"Mass": {"verdict": "correct", "boxes": [BOX] * 101}},
        {"Mass": {"verdict": "maybe"}},
        {"Masses": {"verdict": "accept"}},
    ],
)
def test_what_cannot_be_is_refused(client, service, findings):
    study = f"/v1/studies/{client.post('/v1/predict', files=upload(picture(999))).json()['studies'][0]['id']}"
    answer = client.put(f"{study}/review", json=body(**findings))
    assert answer.status_code == 422
    assert "\n" not in answer.json()["error"]
    assert client.get(study).json()["review"]["version"] == 0
