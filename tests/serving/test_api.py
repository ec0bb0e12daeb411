"""What the API answers, against what the model says without any service."""

import io

import numpy as np
import pytest
from PIL import Image
from sqlalchemy import event

from chestmap.serving.engine.service import Service
from chestmap.serving.engine.settings import ServeSettings
from chestmap.serving.store.store import Store
from chestmap.serving.store.worklist import worklist_page
from imaging.dicom_samples import as_bytes, chest, radiograph
from imaging.picture_samples import saved
from serving.small import directly, picture, upload


def one(client, content, **options):
    answer = client.post("/v1/predict", files=upload(content), **options)
    assert answer.status_code == 200, answer.text
    return answer.json()["studies"][0]


def dicom(seed, **elements):
    stored = np.roll(chest(60, 70), seed, axis=1)
    return as_bytes(radiograph(stored, SOPInstanceUID=f"1.2.3.{seed}", **elements))


def test_models_are_told(client, served):
    found = client.get("/v1/models").json()["models"]
    assert [(line["id"], line["sha256"]) for line in found] == [(served.id, served.sha256)]
    assert found[0]["findings"] == ["Effusion", "Mass", "Nodule"]
    assert found[0]["canvas"] == [64, 64]
    assert found[0]["operating_points"] is None


def test_an_upload_gets_what_the_model_says(client, served, tmp_path):
    study = one(client, picture(1))
    expected = directly(served.predictor, picture(1), tmp_path)
    found = {line["name"]: line for line in study["results"][0]["findings"]}
    assert {name: line["score"] for name, line in found.items()} == pytest.approx(expected, abs=1e-6)
    direct = served.predictor.predict(tmp_path / "direct.png")
    boxes = {
        name: [tuple(box[key] for key in ("x0", "y0", "x1", "y1")) for box in line["boxes"]] for name, line in found.items()
    }
    assert {name for name, own in boxes.items() if own} == {box.finding for box in direct.boxes} == {"Effusion", "Nodule"}
    for box in direct.boxes:
        assert boxes[box.finding] == [pytest.approx(box.corners)]
    assert study["suspicion"] == pytest.approx(max(expected.values()))
    assert [line["finding"] for line in study["top"]] == sorted(expected, key=lambda name: -expected[name])


def test_an_answer_asks_the_database_four_times_in_one_transaction(client, service):
    """The study and its results, whether it was read, priors, and whether results are withheld."""
    study, asked = one(client, picture(1)), []

    def note(*arguments):
        asked.append(arguments[2].split()[0])

    event.listen(service.store.engine, "before_cursor_execute", note)
    try:
        assert client.get(f"/v1/studies/{study['id']}").status_code == 200
    finally:
        event.remove(service.store.engine, "before_cursor_execute", note)
    assert asked == ["BEGIN", *["SELECT"] * 4]


def test_maps_are_scaled_to_their_own_maximum_and_lie_where_the_matrix_says(client, served, tmp_path):
    study = one(client, picture(1))
    grid = study["results"][0]["maps"]
    content = client.get(f"/v1/studies/{study['id']}/maps/{served.id}").content
    maps = np.frombuffer(content, np.uint8).reshape(len(grid["order"]), grid["height"], grid["width"])
    (tmp_path / "a.png").write_bytes(picture(1))
    direct = served.predictor.predict(tmp_path / "a.png")
    for row, values in enumerate(direct.maps.astype(float)):
        expected = values / values.max() * 255 if values.max() > 0 else values * 0
        np.testing.assert_allclose(maps[row], expected, atol=0.51)
    a, b, c, d, e, f = grid["matrix"]
    width, height = study["image"]["width"], study["image"]["height"]
    scale = min(64 / width, 64 / height)  # letterbox, rounded to whole pixels of the canvas
    assert (b, d) == (0, 0)
    assert a * width / 2 + c == pytest.approx(grid["width"] / 2, abs=0.1)
    assert e * height / 2 + f == pytest.approx(grid["height"] / 2, abs=0.1)
    assert e * height == pytest.approx(round(height * scale) * grid["height"] / 64)


def test_the_same_file_is_one_study(client, service):
    before = client.get("/v1/studies").json()["total"]
    first, second = one(client, picture(2)), one(client, picture(2))
    assert first == second
    assert client.get("/v1/studies").json()["total"] == before + 1


def test_good_and_bad_files_in_one_request(client):
    answer = client.post("/v1/predict", files=[*upload(picture(3)), *upload(b"GIF89a nothing", name="../../x.gif")])
    assert answer.status_code == 200
    good, bad = answer.json()["studies"]
    assert good["state"] == "done"
    assert bad["error"].startswith("GIF; PNG, JPEG and DICOM are read")
    answer = client.post("/v1/predict", files=upload(b"", b"text"))
    assert answer.status_code == 422
    assert len(answer.json()["studies"]) == 2
    assert not list(client.app.app.state.service.store.folders.incoming.iterdir())


def test_who_does_not_wait_gets_the_id(client):
    answer = client.post("/v1/predict?wait=0", files=upload(picture(4)))
    assert answer.status_code == 202
    study_id = answer.json()["studies"][0]["id"]
    assert one(client, picture(4))["id"] == study_id


def test_pictures_by_accept(client):
    answer = client.post("/v1/predict", files=upload(picture(5)), headers={"Accept": "image/png"})
    assert answer.headers["content-type"] == "image/png"
    shown = Image.open(io.BytesIO(answer.content))
    study_id = one(client, picture(5))["id"]
    again = client.get(f"/v1/studies/{study_id}/overlay")
    assert Image.open(io.BytesIO(again.content)).size == shown.size
    narrow = client.get(f"/v1/studies/{study_id}/overlay", params={"finding": "Mass"})
    assert Image.open(io.BytesIO(narrow.content)).width < shown.width
    small = Image.open(io.BytesIO(client.get(f"/v1/studies/{study_id}/thumbnail").content))
    assert max(small.size) <= 256
    assert client.post("/v1/predict", files=upload(picture(5)), headers={"Accept": "text/html"}).status_code == 406
    assert client.post("/v1/predict", files=upload(picture(5)), headers={"Accept": "application/dicom"}).status_code == 406


def test_pixels_come_at_full_depth(client):
    stored = np.roll(chest(60, 70), 3, axis=1)
    study = one(client, dicom(3, WindowCenter=1000, WindowWidth=500, PhotometricInterpretation="MONOCHROME1"))
    image = study["image"]
    assert (image["bits"], image["source"], image["spacing"]) == (12, "dicom", [0.2, 0.2])
    answer = client.get(f"/v1/studies/{study['id']}/pixels")
    levels = np.frombuffer(answer.content, "<u2").reshape(image["height"], image["width"])
    np.testing.assert_array_equal(levels, stored.max() - stored.astype(int))
    assert image["window"]["center"] == pytest.approx(stored.max() - 1000, abs=1)
    assert image["window"]["width"] == pytest.approx(500, abs=2)
    sixteen = one(client, saved((np.arange(1200, dtype=np.uint16) * 50).reshape(30, 40)))
    assert sixteen["image"]["bits"] == 16


def test_dicom_results_belong_to_the_study(client):
    from pydicom import dcmread

    content = dicom(4, PatientName="Doe^Jane")
    answer = client.post("/v1/predict", files=upload(content), headers={"Accept": "application/dicom"})
    assert answer.status_code == 200, answer.text
    body = answer.content
    if answer.headers["content-type"].startswith("multipart"):
        body = body.split(b"\r\n\r\n", 1)[1]
    result, source = dcmread(io.BytesIO(body)), dcmread(io.BytesIO(content))
    assert result.StudyInstanceUID == source.StudyInstanceUID
    assert result.Modality == "SR"


def test_priors_are_those_of_the_patient_newest_first(client):
    """Each of an exam of its own: other images of the same exam are no priors."""
    own = [{"StudyDate": f"2020010{day}", "StudyInstanceUID": f"1.2.4.{day}"} for day in (2, 1, 3)]
    ids = [one(client, dicom(11 + number, PatientID="same", **day))["id"] for number, day in enumerate(own)]
    other = one(client, dicom(20, PatientID="other", StudyDate="20200101"))
    newest = client.get(f"/v1/studies/{ids[2]}").json()
    assert newest["priors"] == [ids[0], ids[1]]
    assert newest["prior"] == ids[0]
    assert client.get(f"/v1/studies/{ids[1]}").json()["prior"] is None
    assert other["patient"] != newest["patient"]
    assert newest["patient"].startswith("p-")
    named = [one(client, picture(30 + number), data={"patient": "A"})["id"] for number in range(2)]
    assert client.get(f"/v1/studies/{named[1]}").json()["priors"] == [named[0]]


def test_nothing_of_a_patient_is_given_out(client, caplog):
    caplog.set_level("DEBUG")
    content = dicom(40, PatientName="Doe<script>^Jane", PatientID="MRN-12345", StudyDate="19990203")
    study = client.post("/v1/predict", files=upload(content, name="DOE_JANE_MRN-12345.dcm")).json()["studies"][0]
    pages = [client.get(f"/v1/studies/{study['id']}").text, client.get("/v1/studies").text, client.get("/metrics").text]
    for text in [*pages, caplog.text]:
        for word in ("doe", "jane", "12345", "19990203", "script"):
            assert word not in text.lower().replace("javascript", "")


def test_a_patient_is_shown_where_that_was_asked_for(served, readers, client_of, tmp_path):
    settings = ServeSettings(readers=1, show_patient=True)
    with client_of(Service([served], Store(tmp_path), settings)) as client:
        study = one(client, dicom(41, PatientName="Doe^Jane", PatientID="MRN-1"))
        assert study["name"] == "Doe Jane · MRN-1"
        assert client.get("/v1/studies", params={"search": "doe jane"}).json()["total"] == 1
    with client_of(Service([served], Store(tmp_path), readers=readers)) as client:
        assert "Doe" not in client.get("/v1/studies").text


def test_a_total_that_was_not_counted_to_the_end_is_marked(client, monkeypatch):
    for seed in range(54, 57):
        one(client, picture(seed))
    assert client.get("/v1/studies").json()["exact"]
    monkeypatch.setattr(worklist_page, "COUNTED", 0)
    answer = client.get("/v1/studies", params={"limit": 2}).json()
    assert (answer["total"], answer["exact"], len(answer["studies"])) == (3, False, 2)


def test_the_worklist_is_sorted_filtered_searched_and_cut(client):
    for seed in range(50, 54):
        one(client, picture(seed))
    everything = client.get("/v1/studies", params={"limit": 500}).json()
    suspicion = [row["suspicion"] for row in everything["studies"]]
    assert suspicion == sorted(suspicion, reverse=True)
    assert everything["total"] == len(suspicion)
    received = [row["received"] for row in client.get("/v1/studies?order=received&limit=500").json()["studies"]]
    assert received == sorted(received, reverse=True)
    assert client.get("/v1/studies?order=teaches").status_code == 200
    cut = client.get("/v1/studies", params={"offset": 1, "limit": 2}).json()["studies"]
    assert [row["id"] for row in cut] == [row["id"] for row in everything["studies"][1:3]]
    assert client.get("/v1/studies", params={"finding": "Nodule", "limit": 500}).json()["total"] > 0
    assert client.get("/v1/studies", params={"finding": "Mass"}).json()["total"] == 0  # this model never says so
    assert client.get("/v1/studies", params={"search": cut[0]["id"]}).json()["studies"] == [cut[0]]
    assert client.get("/v1/studies", params={"search": "100%_"}).json()["total"] == 0
    assert client.get("/v1/studies?state=&finding=&reviewed=&search=").json()["total"] == everything["total"]
    assert client.get("/v1/studies?order=name").status_code == 422


def test_a_deleted_study_is_gone_with_its_files(client, service):
    study_id = one(client, picture(60))["id"]
    folder = service.store.folders.folder_of(study_id)
    assert folder.is_dir()
    assert client.delete(f"/v1/studies/{study_id}").status_code == 204
    assert not folder.exists()
    assert client.delete(f"/v1/studies/{study_id}").status_code == 404
    for place in ("", "/pixels", "/thumbnail", "/overlay", "/history", "/maps/x", "/dicom"):
        assert client.get(f"/v1/studies/{study_id}{place}").status_code == 404
    assert one(client, picture(60))["state"] == "done"


def test_two_models_answer_side_by_side(served, readers, client_of, tmp_path):
    from serving.small import served_of, write_small_model

    other = served_of(write_small_model(tmp_path / "model", seed=4))
    with client_of(Service([served, other], Store(tmp_path / "s"), readers=readers)) as client:
        study = one(client, picture(1), data={"model": other.id})
        assert [result["model"] for result in study["results"]] == [other.id]
        study = one(client, picture(1))
        assert {result["model"] for result in study["results"]} == {served.id, other.id}
        assert client.get(f"/v1/studies/{study['id']}/maps/{other.id}").status_code == 200
        assert client.post("/v1/predict", files=upload(picture(1)), data={"model": "../x"}).status_code == 422


def test_the_docs_need_nothing_from_elsewhere(client):
    text = client.get("/docs").text
    assert "/v1/studies/{study_id}/review" in text
    assert "<script" not in text
    assert "http" not in text.replace("HTTP", "")
    assert client.get("/openapi.json").json()["info"]["title"] == "chestmap"


def test_metrics_count(client):
    one(client, picture(70))
    text = client.get("/metrics").text
    assert 'chestmap_requests_total{method="POST",route="/v1/predict",status="200"}' in text
    assert "chestmap_batch_images_bucket" in text
    assert "chestmap_queue_studies 0.0" in text
