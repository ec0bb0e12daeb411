"""A queue or disk that is full, a stop, a database that is away, a model that fails: nothing that was accepted is lost."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256

from sqlalchemy.exc import OperationalError

from chestmap.serving.engine import batches
from chestmap.serving.engine.decoder_pool import DecodersBusy
from chestmap.serving.engine.service import Service
from chestmap.serving.engine.settings import ServeSettings
from chestmap.serving.http import app
from chestmap.serving.store.store import Store
from serving.small import picture, upload


def test_a_queue_that_is_full_says_when_to_come_again(served, readers, client_of, tmp_path, monkeypatch):
    monkeypatch.setattr(app.Readiness, "seconds", -1)  # a probe looks each time
    service = Service([served], Store(tmp_path), ServeSettings(queue=1), readers)
    with client_of(service) as client:
        service.batches._open["s-waits"] = 1
        answer = client.post("/v1/predict", files=upload(picture(1)))
        assert answer.status_code == 429
        assert int(answer.headers["Retry-After"]) >= 1
        assert client.get("/readyz").status_code == 429
        service.batches._open.clear()
        assert client.get("/readyz").status_code == 200
        service.drain()
        assert client.post("/v1/predict", files=upload(picture(1))).status_code == 503
        assert client.get("/healthz").status_code == 200


def test_a_disk_that_is_full_is_no_500(served, readers, client_of, tmp_path, monkeypatch):
    service = Service([served], Store(tmp_path), readers=readers)
    with client_of(service) as client:

        def full(*_):
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(service.store.folders, "make_durable", full)
        answer = client.post("/v1/predict", files=upload(picture(1)))
        assert answer.status_code == 503
        assert "disk is full" in answer.json()["error"]
        assert not list(service.store.folders.incoming.iterdir())


def test_who_waits_when_the_service_stops_is_told_that_the_image_is_safe(served, readers, client_of, tmp_path, monkeypatch):
    service, go = Service([served], Store(tmp_path), readers=readers), threading.Event()
    predict = service.batches._predict
    monkeypatch.setattr(service.batches, "_predict", lambda *batch: (go.wait(30), predict(*batch))[1])
    with client_of(service) as client, ThreadPoolExecutor(1) as pool:
        answer = pool.submit(client.post, "/v1/predict", files=upload(picture(1)))
        while not len(service.batches):
            time.sleep(0.01)
        client.portal.call(client.app.app.state.stopping.set)
        assert answer.result(30).status_code == 202
        go.set()
    store = Store(tmp_path)
    assert store.queued() == 0  # the batch that was under way was finished
    store.close()


def test_a_database_that_is_gone_for_a_while_loses_nothing(served, readers, client_of, tmp_path, monkeypatch):
    monkeypatch.setattr(batches, "PAUSE", 0.01)
    troubles = [OperationalError("x", {}, Exception()), OSError(28, "No space left on device"), DecodersBusy("x")]
    answer = batches.answer

    def sometimes(*arguments):
        if troubles:
            raise troubles.pop()
        answer(*arguments)

    monkeypatch.setattr(batches, "answer", sometimes)
    with client_of(Service([served], Store(tmp_path), readers=readers)) as client:
        assert client.post("/v1/predict", files=upload(picture(1))).json()["studies"][0]["state"] == "done"
    assert not troubles


def test_an_image_with_which_a_model_fails_fails_no_other(served, readers, client_of, tmp_path):
    service = Service([served], Store(tmp_path), readers=readers)
    bad = f"s-{sha256(picture(7)).hexdigest()[:24]}"

    def said(canvases, frames, places):
        if bad in [study_id for study_id, _ in places]:
            raise RuntimeError("secret")
        return type(served).run_network(served, canvases, frames, places)

    object.__setattr__(served, "run_network", said)
    try:
        with client_of(service) as client:
            studies = client.post("/v1/predict", files=upload(*(picture(seed) for seed in (6, 7, 8)))).json()["studies"]
    finally:
        object.__delattr__(served, "run_network")
    assert [study["state"] for study in studies] == ["done", "failed", "done"]
    assert studies[1]["error"] == f"{served.id}: cannot be predicted: RuntimeError"
