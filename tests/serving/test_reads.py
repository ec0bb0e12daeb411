"""Independent reads: nobody sees another's before all are done; then agreement, and one review. And filters of the worklist."""

from contextlib import closing
from datetime import date
from hashlib import sha256

import pytest

from chestmap.errors import BadInput
from chestmap.serving.engine.service import Service
from chestmap.serving.engine.settings import ServeSettings
from chestmap.serving.http.reads_agreement import agreement_of
from chestmap.serving.store import independent_reads, reviews
from chestmap.serving.store.independent_reads import assign, finished_reads, own_history, put_read, reads_for
from chestmap.serving.store.results import ModelAnswer, answer
from chestmap.serving.store.review_schema import NewReview
from chestmap.serving.store.store import NewStudy, Store
from chestmap.serving.store.worklist.worklist_filters import Query
from serving.small import picture, upload

FIRST, SECOND = "a" * 64, "b" * 64
MODELS = {FIRST: "cam-aaaa", SECOND: "ham-bbbb"}
IMAGE = {"width": 80, "height": 96, "source": "png"}


@pytest.fixture
def store(tmp_path):
    with closing(Store(tmp_path / "store")) as made:
        yield made


def add(store, name, scores=(0.7, 0.2), **more):
    """A study that both models predicted; the first calls a Mass."""
    sha, received = sha256(name.encode()).hexdigest(), store.folders.new()
    (received / "original").write_text(name)
    study_id = f"s-{sha[:24]}"
    store.add(NewStudy(id=study_id, sha256=sha, name=name, image=IMAGE, **more), received, MODELS)
    for model, score in zip(MODELS, scores, strict=True):
        findings = [{"name": "Mass", "score": score, "threshold": 0.5, "over": score >= 0.5, "boxes": []},
                    {"name": "Nodule", "score": 0.1, "threshold": 0.5, "over": False, "boxes": []}]  # fmt: skip
        maps = {"order": ["Mass", "Nodule"]}
        said = ModelAnswer(study_id=study_id, model_sha=model, findings=findings, maps=maps, suspicion=score)
        answer(store, [said])
    return study_id


def read(base=0, state="done", stage="open", **verdicts):
    """Names of findings and their verdicts, or verdicts with boxes."""
    said = {}
    for name, one in verdicts.items():
        verdict, *boxes = (one,) if isinstance(one, str) else one
        corners = [dict(zip(("x0", "y0", "x1", "y1"), box, strict=True)) for box in boxes]
        said[name] = {"verdict": verdict, "boxes": corners}
    return NewReview(base=base, state=state, stage=stage, findings=said)


def test_nobody_sees_anothers_read_before_all_are_done(store):
    study_id = add(store, "film")
    assert [one.reader for one in assign(store, study_id, ["Bo", "Ana", "Bo"], "admin")] == ["Ana", "Bo"]
    assert put_read(store, study_id, "Ana", read(Mass="accept", state="part")).version == 1
    assert put_read(store, study_id, "Ana", read(1, Mass="accept", Nodule="reject")).version == 2
    seen = reads_for(store, study_id, "Bo")
    assert (seen.mine.version, seen.reads, seen.complete) == (0, (), False)
    assert [(one.reader, bool(one.done)) for one in seen.assigned] == [("Ana", True), ("Bo", False)]
    assert reads_for(store, study_id, "Eve").mine is None
    with pytest.raises(BadInput, match="not given to 'Eve'"):
        put_read(store, study_id, "Eve", read(Mass="reject"))
    with pytest.raises(reviews.StaleReview, match="version 1 is not your newest"):
        put_read(store, study_id, "Ana", read(1, Mass="reject"))
    assert store.study(study_id)[0].review_state == "no"
    put_read(store, study_id, "Bo", read(Mass="reject"))
    for reader in ("Ana", "Bo", "Eve"):
        assert [(one.reader, one.findings["Mass"].verdict) for one in reads_for(store, study_id, reader).reads] == [
            ("Ana", "accept"), ("Bo", "reject"),
        ]  # fmt: skip
    assert [one.version for one in own_history(store, study_id, "Ana")] == [1, 2]
    with pytest.raises(BadInput, match="write the shared review"):
        put_read(store, study_id, "Bo", read(1, Mass="accept"))
    assert store.page(Query(disagreement=4))[0] == 1


def test_who_began_stays_and_who_did_not_may_go(store):
    study_id = add(store, "film")
    assign(store, study_id, ["Ana", "Bo"], "admin")
    put_read(store, study_id, "Ana", read(Mass="accept"))
    with pytest.raises(BadInput, match="Ana began to read"):
        assign(store, study_id, ["Eve"], "admin")
    assert [one.reader for one in assign(store, study_id, ["Ana", "Eve"], "admin")] == ["Ana", "Eve"]
    assert assign(store, "s-" + "0" * 24, ["Ana"], "admin") is None
    with pytest.raises(BadInput, match="at most 16 names"):
        assign(store, study_id, [""], "admin")


def test_a_blind_read_is_kept_and_comes_first(store):
    study_id = add(store, "film")
    blind = read(Mass="reject", stage="blind")
    assert reviews.put_review(store, study_id, "Ana", blind).stage == "blind"
    reviews.put_review(store, study_id, "Ana", read(1, Mass="accept"))
    assert [(one.stage, one.findings["Mass"].verdict) for one in reviews.history(store, study_id)] == [
        ("blind", "reject"), ("open", "accept"),
    ]  # fmt: skip
    with pytest.raises(BadInput, match="with results in sight"):
        reviews.put_review(store, study_id, "Ana", read(2, Mass="reject", stage="blind"))
    assert reviews.put_review(store, study_id, "Bo", read(2, Mass="reject", stage="blind")).stage == "blind"
    seen = NewReview(base=3, state="part", stage="blind", findings={"Mass": {"verdict": "accept", "seen": "cam-aaaa"}})
    with pytest.raises(BadInput, match="a blind read saw no model"):
        reviews.put_review(store, study_id, "Eve", seen)


def test_agreement_is_that_of_finished_reads(store):
    table = {
        "one": ("accept", "accept"),
        "two": ("accept", "reject"),
        "three": ("reject", "reject"),
        "four": ("reject", "reject"),
    }
    for name, (ana, bo) in table.items():
        study_id = add(store, name)
        assign(store, study_id, ["Ana", "Bo"], "admin")
        box, other = (10, 10, 30, 30), (20, 10, 40, 30)
        put_read(store, study_id, "Ana", read(Mass=(ana, box) if ana == "accept" else ana))
        put_read(store, study_id, "Bo", read(Mass=(bo, other) if bo == "accept" else bo))
    open_ = add(store, "five")
    assign(store, open_, ["Ana", "Bo"], "admin")
    put_read(store, open_, "Ana", read(Mass="accept"))
    studies, rows = agreement_of(finished_reads(store))
    assert studies == 4
    assert [one["readers"] for one in rows] == [[], ["Ana", "Bo"]]
    for row in rows:
        assert (row["finding"], row["images"], row["boxes"]) == ("Mass", 4, 1)
        assert row["kappa"] == pytest.approx((3 / 4 - 1 / 2) / (1 / 2))
        assert row["ac1"] == pytest.approx((3 / 4 - 2 * 3 / 8 * 5 / 8) / (1 - 2 * 3 / 8 * 5 / 8))
        assert row["iou"] == pytest.approx(200 / 600)


def test_the_worklist_is_filtered_by_the_database(store):
    one = add(store, "one", view="PA", sex="F", taken="20240301101500", patient="p-1")
    two = add(store, "two", scores=(0.9, 0.95), view="AP", sex="M", taken="20240315", patient="p-2")
    three = add(store, "three", scores=(0.1, 0.2))
    reviews.put_review(store, one, "Ana", read(Mass="reject"))
    assign(store, three, ["Bo"], "admin")
    queries = [
        ({"view": "PA"}, {one}), ({"view": "unknown"}, {three}), ({"sex": "M"}, {two}), ({"reader": "Ana"}, {one}),
        ({"assigned": "Bo"}, {three}), ({"assigned": "Ana"}, set()), ({"finding": "Mass"}, {one, two}),
        ({"finding": "Mass", "least": 0.8}, {two}), ({"finding": "Mass", "most": 0.15}, {three}), ({"least": 0.5, "most": 0.8}, {one}),
        ({"disagreement": 1}, {one}), ({"disagreement": 2}, {one}), ({"disagreement": 7}, {one}), ({"disagreement": 4}, set()),
        ({"true_dates": True, "since": date(2024, 3, 2)}, {two}), ({"true_dates": True, "until": date(2024, 3, 14)}, {one}),
        ({"true_dates": True, "since": date(2024, 3, 1), "until": date(2024, 3, 1)}, {one}), ({"view": "PA", "sex": "M"}, set()),
    ]  # fmt: skip
    found = [({**query}, {row.id for row in store.page(Query(**query))[1]}) for query, _ in queries]
    assert found == queries
    shown = date.fromisoformat(store.study(one)[0].shown_taken[:10])
    assert shown < date(2024, 3, 1)
    assert {row.id for row in store.page(Query(since=shown, until=shown))[1]} == {one}
    with store.engine.connect() as connection:
        for column in ("view", "sex", "shown_taken", "disagreement", "review_by"):
            plan = connection.exec_driver_sql(f"EXPLAIN QUERY PLAN SELECT id FROM study WHERE {column} = 'x'").all()
            assert f"ix_study_{column}" in str(plan)


def test_a_finished_read_needs_a_second_one_to_be_compared(store):
    study_id = add(store, "film")
    assign(store, study_id, ["Ana"], "admin")
    put_read(store, study_id, "Ana", read(Mass="accept"))
    assert agreement_of(finished_reads(store)) == (0, [])
    assert independent_reads.reads_for(store, study_id, "Ana").complete


def test_over_http(client):
    (study,) = client.post("/v1/predict", files=upload(picture(77))).json()["studies"]
    address = f"/v1/studies/{study['id']}"
    as_ = lambda name: {"X-Reviewer": name, "X-Chestmap": "1"}  # noqa: E731
    answer = client.put(f"{address}/readers", json={"readers": ["Ana", "Bo"]})
    assert answer.json() == {"readers": [{"reader": name, "done": None, "blind": False} for name in ("Ana", "Bo")]}
    said = {"base": 0, "state": "done", "findings": {"Mass": {"verdict": "reject"}}}
    assert "independently" in client.put(f"{address}/review", json=said, headers=as_("Ana")).json()["error"]
    assert client.put(f"{address}/read", json=said, headers=as_("Ana")).status_code == 200
    assert client.put(f"{address}/read", json=said, headers=as_("Ana")).status_code == 409
    seen = client.get(address, headers=as_("Bo")).json()
    assert (seen["independent"], seen["reads"], seen["review"]["version"]) == (True, [], 0)
    assert client.get(f"{address}/history", headers=as_("Bo")).json() == {"versions": []}
    assert client.get("/v1/studies?mine=1", headers=as_("Bo")).json()["total"] == 1
    assert client.get("/v1/studies?mine=1", headers=as_("Ana")).json()["total"] == 0
    said["findings"]["Mass"]["verdict"] = "accept"
    assert client.put(f"{address}/read", json=said, headers=as_("Bo")).status_code == 200
    seen = client.get(address, headers=as_("Ana")).json()
    assert (seen["independent"], [one["reader"] for one in seen["reads"]]) == (False, ["Ana", "Bo"])
    assert client.get("/v1/studies?disagreement=readers").json()["studies"][0]["id"] == study["id"]
    agreed = client.get("/v1/agreement").json()
    assert agreed["studies"] == 1
    assert agreed["rows"][0]["finding"] == "Mass"
    assert client.put(f"{address}/review", json=said, headers=as_("Ana")).status_code == 200
    assert client.get("/v1/studies?since=late").status_code == 422
    assert client.delete(address).status_code == 204


def test_results_are_not_sent_to_a_reader_who_has_not_committed(client):
    """Whatever is asked for: study, list, maps, picture, DICOM, FHIR, and the answer to the upload itself."""
    (study,) = client.post("/v1/predict", files=upload(picture(79))).json()["studies"]
    address, ana = f"/v1/studies/{study['id']}", {"X-Reviewer": "Ana", "X-Chestmap": "1"}
    model = study["results"][0]["model"]
    seen = client.get(f"{address}?blind=1", headers=ana).json()
    assert (seen["withheld"], seen["results"], seen["suspicion"], seen["top"]) == (True, [], None, [])
    assert seen["findings"] == sorted(one["name"] for one in study["results"][0]["findings"])
    assert client.get(address, headers=ana).json()["results"]  # she did not ask to read blind
    said = {"base": 0, "state": "part", "findings": {"Mass": {"verdict": "reject"}}, "stage": "blind"}
    assert client.put(f"{address}/review", json=said, headers=ana).status_code == 200
    answer = client.get(address, headers=ana)  # from here on the service knows that she reads blind
    assert (answer.json()["withheld"], answer.json()["results"]) == (True, [])
    assert "score" not in answer.text
    for part in (f"maps/{model}", "overlay", "dicom", "fhir"):
        refused = client.get(f"{address}/{part}", headers=ana)
        assert (refused.status_code, refused.json()["error"].split(":")[0]) == (403, "results are withheld until you commit")
    answer = client.get("/v1/studies?order=suspicion&limit=500", headers=ana).json()
    rows = {one["id"]: one for one in answer["studies"]}
    assert (rows[study["id"]]["suspicion"], rows[study["id"]]["top"], answer["blind"]) == (None, [], True)
    assert client.get(address, headers={"X-Reviewer": "Bo"}).json()["results"] == study["results"]
    said |= {"base": 1, "stage": "open"}
    assert client.put(f"{address}/review", json=said, headers=ana).status_code == 200
    assert client.get(f"{address}?blind=1", headers=ana).json()["results"] == study["results"]
    assert client.get(f"{address}/maps/{model}", headers=ana).status_code == 200
    assert client.delete(address).status_code == 204


def test_who_begins_to_read_blind_gets_no_results_anywhere_before_they_commit(client):
    """Without an assignment, before any version, and whether or not a program asks for `blind`."""
    study, later = (client.post("/v1/predict", files=upload(picture(one))).json()["studies"][0] for one in (88, 91))
    address, ana = f"/v1/studies/{study['id']}", {"X-Reviewer": "Ana", "X-Chestmap": "1"}
    begun = client.put(f"{address}/blind", headers=ana)
    assert begun.status_code == 200, begun.text
    assert (begun.json()["withheld"], begun.json()["results"], "score" in begun.text) == (True, [], False)
    assert client.put(f"{address}/blind", headers=ana).json() == begun.json()
    seen = client.get(address, headers=ana)
    assert (seen.json()["withheld"], seen.json()["results"], "score" in seen.text) == (True, [], False)
    for part in (f"maps/{study['results'][0]['model']}", "overlay", "dicom", "fhir"):
        assert client.get(f"{address}/{part}", headers=ana).status_code == 403, part
    again = client.post("/v1/predict", files=upload(picture(88)), headers=ana).json()["studies"][0]
    assert (again["withheld"], again["results"]) == (True, [])
    answer = client.get("/v1/studies?order=suspicion&limit=500", headers=ana).json()
    rows = {one["id"]: one for one in answer["studies"]}
    assert (rows[study["id"]]["suspicion"], rows[study["id"]]["top"], answer["blind"]) == (None, [], True)
    assert [one for one in rows if one in {study["id"], later["id"]}] == [later["id"], study["id"]]  # a rank would tell
    assert client.get("/v1/studies?finding=Mass", headers=ana).status_code == 422
    assert client.get(f"{address}/overlay", headers={"X-Reviewer": "Bo"}).status_code == 200
    said = {"base": 0, "state": "part", "findings": {"Mass": {"verdict": "reject"}}, "stage": "blind"}
    assert client.put(f"{address}/review", json=said, headers=ana).status_code == 200
    assert client.get(f"{address}/overlay", headers=ana).status_code == 403
    assert client.put(f"{address}/review", json={**said, "base": 1, "stage": "open"}, headers=ana).status_code == 200
    assert client.put(f"{address}/blind", headers=ana).json()["results"] == study["results"]
    assert client.get(f"{address}/overlay", headers=ana).status_code == 200
    assert client.get("/v1/studies?finding=Mass", headers=ana).json()["blind"] is False
    assert client.put(f"/v1/studies/s-{'0' * 24}/blind", headers=ana).status_code == 404
    assert [client.delete(f"/v1/studies/{one['id']}").status_code for one in (study, later)] == [204, 204]


def test_nothing_of_a_model_reaches_a_reader_whose_assignment_is_blind(client):
    """In any program, before a first version; the service itself does not read blind."""
    made = [client.post("/v1/predict", files=upload(picture(one))).json()["studies"][0] for one in (84, 85)]
    address, ana = f"/v1/studies/{made[0]['id']}", {"X-Reviewer": "Ana", "X-Chestmap": "1"}
    answer = client.put(f"{address}/readers", json={"readers": ["Ana", "Bo"], "blind": True})
    assert [one["blind"] for one in answer.json()["readers"]] == [True, True]
    seen = client.get(address, headers=ana)
    assert (seen.json()["withheld"], seen.json()["results"], "score" in seen.text) == (True, [], False)
    for part in (f"maps/{made[0]['results'][0]['model']}", "overlay", "dicom", "fhir"):
        assert client.get(f"{address}/{part}", headers=ana).status_code == 403, part
    for kind in ("image/png", "application/dicom"):
        again = client.post("/v1/predict", files=upload(picture(84)), headers={"Accept": kind, **ana})
        assert again.status_code == 403
    rows = client.get("/v1/studies?order=suspicion&limit=500", headers=ana).json()["studies"]
    ours = [one["id"] for one in rows if one["id"] in {study["id"] for study in made}]
    assert ours == [made[1]["id"], made[0]["id"]]  # in order of arrival
    suspicion = {one["id"]: one["suspicion"] for one in rows}
    assert (suspicion[made[0]["id"]], suspicion[made[1]["id"]]) == (None, made[1]["suspicion"])
    assert client.get("/v1/studies?finding=Mass", headers=ana).status_code == 422
    assert client.get(f"{address}/overlay", headers={"X-Reviewer": "Eve"}).status_code == 200  # she has no read to make
    said = {"base": 0, "state": "part", "findings": {"Mass": {"verdict": "reject"}}}
    refused = client.put(f"{address}/read", json=said, headers=ana)
    assert (refused.status_code, "read blind first" in refused.json()["error"]) == (422, True)
    assert client.put(f"{address}/read", json={**said, "stage": "blind"}, headers=ana).status_code == 200
    assert client.get(f"{address}/overlay", headers=ana).status_code == 403
    assert client.put(f"{address}/read", json={**said, "base": 1, "state": "done"}, headers=ana).status_code == 200
    assert client.get(f"{address}/overlay", headers=ana).status_code == 200
    assert client.get("/v1/studies?finding=Mass", headers=ana).status_code == 200
    for one in made:
        client.delete(f"/v1/studies/{one['id']}")


def test_a_list_for_a_blind_reader_tells_nothing_of_scores(client):
    seeds = range(80, 83)
    studies = [client.post("/v1/predict", files=upload(picture(one))).json()["studies"][0]["id"] for one in seeds]
    found = client.get("/v1/studies?blind=1&order=suspicion&limit=500").json()["studies"]
    assert [one["id"] for one in found if one["id"] in studies] == studies[::-1]  # the newest first
    assert {(one["suspicion"], tuple(one["top"])) for one in found if one["id"] in studies} == {(None, ())}
    for query in ("finding=Mass", "least=0.1", "most=0", "disagreement=models"):
        refused = client.get(f"/v1/studies?blind=1&{query}")
        assert (refused.status_code, "tells what models say" in refused.json()["error"]) == (422, True)
    for one in studies:
        client.delete(f"/v1/studies/{one}")


def test_a_service_may_have_everybody_read_blind_first(served, readers, client_of, tmp_path):
    service = Service([served], Store(tmp_path / "store"), ServeSettings(readers=1, blind=True), readers)
    with client_of(service) as client:
        (study,) = client.post("/v1/predict", files=upload(picture(90))).json()["studies"]
        assert (study["withheld"], study["results"]) == (True, [])
        for kind in ("image/png", "application/dicom"):
            answer = client.post("/v1/predict", files=upload(picture(90)), headers={"Accept": kind})
            assert answer.status_code == 403
        address, ana = f"/v1/studies/{study['id']}", {"X-Reviewer": "Ana", "X-Chestmap": "1"}
        client.put(f"{address}/readers", json={"readers": ["Ana", "Bo"]})
        said = {"base": 0, "state": "done", "findings": {"Mass": {"verdict": "reject"}}}
        assert client.put(f"{address}/read", json=said, headers=ana).status_code == 200
        assert client.get(address, headers=ana).json()["results"]
        assert client.get(address, headers={"X-Reviewer": "Bo"}).json()["results"] == []
