"""The network runs one batch while what it said of the one before is kept: in order, bounded, and safe against a crash."""

import io
import shutil
import threading
import time

import numpy as np
import pytest
from sqlalchemy import event

from chestmap.models.predictor import images_of
from chestmap.serving.engine.batches import under_way
from chestmap.serving.engine.served_model import ServedModel
from chestmap.serving.engine.service import Service
from chestmap.serving.engine.settings import ServeSettings
from chestmap.serving.store.results import ModelAnswer, PendingResult, answer
from chestmap.serving.store.store import Store
from serving.small import SIDE, directly, picture
from serving.test_store import FIRST, MODELS, add, said

SECONDS = 60


class Watched(ServedModel):
    """Notes when a study is in the network and when it is kept; keeping waits for `go`."""

    def watch(self):
        told = {"events": [], "began": threading.Semaphore(0), "go": threading.Event()}
        for name, value in told.items():
            object.__setattr__(self, name, value)
        return self

    def run_network(self, canvases, frames, places):
        self.events.extend(("network", study_id) for study_id, _ in places)
        self.began.release()
        return super().run_network(canvases, frames, places)

    def kept(self, said):
        assert self.go.wait(SECONDS)
        self.events.extend(("kept", study_id) for study_id, _ in said.places)
        return super().kept(said)


@pytest.fixture
def watched(served):
    return Watched(served.predictor).watch()


def take_in(service, *seeds):
    """Ids of what is not predicted yet: the batches begin when the service starts."""
    return [service.take_in(io.BytesIO(picture(seed)), "film.png", service.models()).study_id for seed in seeds]


def done(service, ids):
    for one in ids:
        service.batches.expect(one).result(SECONDS)


def test_a_crash_between_network_and_disk_loses_nothing_and_doubles_nothing(watched, served, readers, tmp_path):
    settings = ServeSettings(batch_size=2)
    service = Service([watched], Store(tmp_path / "a"), settings, readers)
    ids = take_in(service, 1, 2, 3, 4, 5, 6)
    service.start()
    for _ in range(2):
        assert watched.began.acquire(timeout=SECONDS)
    assert not watched.began.acquire(timeout=0.2)  # one batch waits to be kept, and no more are begun
    assert watched.events == [("network", one) for one in ids[:4]]
    shutil.copytree(tmp_path / "a", tmp_path / "b")  # as a crash would leave it
    watched.go.set()
    done(service, ids)
    service.stop()
    assert {one for what, one in watched.events if what == "kept"} == set(ids)

    again = Service([served], Store(tmp_path / "b"), settings, readers)
    assert again.store.queued() == 6
    assert {one.study_id for one in under_way(again.store)} == set(ids[:4])
    again.start()
    done(again, ids)
    for one, seed in zip(ids, range(1, 7), strict=True):
        _, results = again.store.study(one)
        assert [(row.state, row.deaths) for row in results] == [("done", int(one in ids[:4]))]
        found = {line["name"]: line["score"] for line in results[0].findings}
        assert found == pytest.approx(directly(served.predictor, picture(seed), tmp_path), abs=1e-5)
    again.stop()
    assert under_way(again.store) == []


def test_suspects_are_kept_before_the_next_begins(watched, readers, tmp_path):
    """Or an image would be blamed for the one after it."""
    service = Service([watched], Store(tmp_path), readers=readers)
    ids = take_in(service, 1, 2, 3)
    watched.go.set()
    sha = watched.sha256
    service.batches.start([], [PendingResult(one, sha) for one in ids[:2]])
    done(service, ids)
    service.stop()
    assert watched.events == [(what, one) for one in ids for what in ("network", "kept")]


def test_a_stop_waits_until_results_are_kept(watched, readers, tmp_path):
    service = Service([watched], Store(tmp_path), ServeSettings(batch_size=1), readers)
    ids = take_in(service, 1, 2, 3)
    service.start()
    for _ in range(2):
        assert watched.began.acquire(timeout=SECONDS)
    stopping = threading.Thread(target=service.stop)
    stopping.start()
    while not service.batches._stopping:
        time.sleep(0.01)
    watched.go.set()
    stopping.join(SECONDS)
    store = Store(tmp_path)
    assert [store.study(one)[0].state for one in ids] == ["done", "done", "queued"]
    assert under_way(store) == []
    store.close()


def test_a_lone_image_waits_for_no_other_and_one_that_is_on_its_way_is_waited_for(watched, readers, tmp_path):
    service = Service([watched], Store(tmp_path), ServeSettings(batch_size=2, wait_ms=1000 * 10 * SECONDS), readers)
    service.start()
    watched.go.set()
    done(service, take_in(service, 1))
    with service.batches.coming():
        assert watched.began.acquire(timeout=SECONDS)
        ids = take_in(service, 2)
        assert not watched.began.acquire(timeout=0.2)
        ids += take_in(service, 3)
        done(service, ids)
    service.stop()


def test_a_batch_costs_as_many_statements_as_one_image(tmp_path):
    """Every statement holds the interpreter that the network's thread waits for."""
    store, statements = Store(tmp_path), []
    ids = [add(store, f"film {number}", {FIRST: MODELS[FIRST]})[0] for number in range(9)]
    event.listen(store.engine, "before_cursor_execute", lambda *arguments: statements.append(arguments[2]))
    answer(store, [said(ids[0], FIRST)])
    one = len(statements)
    answer(
        store,
        [*(said(study_id, FIRST) for study_id in ids), ModelAnswer(study_id="s-" + "0" * 24, model_sha=FIRST, error="x")],
    )
    assert len(statements) - one == one
    assert {store.study(study_id)[0].state for study_id in ids} == {"done"}
    store.close()


def test_the_images_of_a_batch_change_scores_in_their_last_bits_alone(served):
    """`docs/serving.md` gives the figure, and `batch_size=1` as the way around it."""
    predictor = served.predictor
    films = np.random.default_rng(4).integers(0, 256, (8, SIDE, SIDE)).astype(np.uint8)
    alone = np.concatenate([predictor.raw(images_of(film[None]))[0] for film in films])
    assert (np.concatenate([predictor.raw(images_of(film[None]))[0] for film in films]) == alone).all()
    np.testing.assert_allclose(predictor.raw(images_of(films))[0], alone, rtol=0, atol=2e-7)
