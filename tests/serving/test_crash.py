"""kill -9 while images come in: what was acknowledged is there afterwards, and predicted once."""

import multiprocessing
import signal
import time

import httpx
import pytest

from chestmap.serving.store.store import Store
from serving import small
from serving.small import directly, picture, upload


@pytest.fixture(scope="module")
def started(model_folder):
    """Starts services as processes of their own; the fork server imports torch once for all of them."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["chestmap.serving.http.start", "chestmap.methods"])
    made, clients = [], []

    def start(store):
        port = context.Value("i", 0)
        process = context.Process(target=small.serve, args=(model_folder, store, port), daemon=False)
        process.start()
        made.append(process)
        client = httpx.Client(headers={"X-Chestmap": "1"}, timeout=60)
        clients.append(client)
        for _ in range(1200):
            time.sleep(0.05)
            if port.value:
                client.base_url = f"http://127.0.0.1:{port.value}"
                return process, client
            assert process.is_alive()
        raise AssertionError("did not start")

    yield start
    for client in clients:
        client.close()
    for process in made:
        process.kill()
        process.join()


def wait_for(client, ids):
    for _ in range(1200):
        rows = {row["id"]: row for row in client.get("/v1/studies?limit=500").json()["studies"]}
        if all(rows[one]["state"] == "done" for one in ids):
            return rows
        time.sleep(0.05)
    raise AssertionError("not done")


def test_kill_9_loses_nothing_that_was_acknowledged(started, served, tmp_path):
    process, client = started(tmp_path / "store")
    accepted = {}
    for seed in range(12):
        answer = client.post(f"/v1/predict?wait={int(seed == 5)}", files=upload(picture(seed)))
        assert answer.status_code in {200, 202}
        accepted[answer.json()["studies"][0]["id"]] = seed
    process.kill()
    process.join()
    assert process.exitcode == -signal.SIGKILL

    process, client = started(tmp_path / "store")
    rows = wait_for(client, accepted)
    assert set(rows) == set(accepted)
    for study_id, seed in accepted.items():
        results = client.get(f"/v1/studies/{study_id}").json()["results"]
        assert len(results) == 1
        found = {line["name"]: line["score"] for line in results[0]["findings"]}
        assert found == pytest.approx(directly(served.predictor, picture(seed), tmp_path), abs=1e-5)
    again = client.post("/v1/predict", files=upload(picture(0))).json()["studies"][0]
    assert again["id"] in accepted

    process.terminate()  # an orderly stop
    process.join(30)
    assert process.exitcode == -signal.SIGTERM
    store = Store(tmp_path / "store")
    assert store.queued() == 0
    assert store.known_ids() == set(accepted)
    store.close()
