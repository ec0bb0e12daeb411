"""One store for both doors: every state of an image of an archive, every way from one to the next, and what replaces what."""

import io
import shutil
import sqlite3
import subprocess
import sys
from contextlib import closing
from hashlib import sha256

import pytest
from sqlalchemy import select

from chestmap.errors import BadInput, Refused
from chestmap.serving.store import deliveries, reviews
from chestmap.serving.store.arrivals import (
    Arrival,
    arrive,
    count_waiting,
    is_known,
    read,
    refuse,
    remove_delivered,
    retry_failed,
    tidy,
    unread,
)
from chestmap.serving.store.database_tables import WITHDRAWAL, Study
from chestmap.serving.store.deliveries import STATES, DueResult, SentObject, rejected_of, remove_withdrawn
from chestmap.serving.store.results import ModelAnswer, PendingResult, answer, resume
from chestmap.serving.store.review_schema import NewReview
from chestmap.serving.store.store import NewStudy, Query, Store, existing

MODELS = {"a" * 64: "one-aaaa"}
(SHA,) = MODELS
IMAGE = {"width": 80, "height": 96, "source": "dicom"}
LATER = "9999"


@pytest.fixture
def service_of(served, readers):
    """A service over a store; torch comes with it, which the other tests do without."""
    from chestmap.serving.engine.service import Service
    from chestmap.serving.engine.settings import ServeSettings

    return lambda store: Service([served], store, ServeSettings(readers=1), readers)


@pytest.fixture
def store(tmp_path):
    with closing(Store(tmp_path / "store")) as made:
        yield made


def come(store, content, instance="i1", **more):
    """An image as a DICOM door takes it; the id of its study."""
    sha, received = sha256(content.encode()).hexdigest(), store.folders.new()
    (received / "original").write_text(content)
    arrive(
        store,
        Arrival(id=f"s-{sha[:24]}", sha256=sha, instance=instance, bytes=len(content), **{"deliver": True, **more}),
        received,
    )
    shutil.rmtree(received, ignore_errors=True)
    return f"s-{sha[:24]}"


def be_read(store, study_id, instance="i1", content="c1", **more):
    sha = store_row(store, study_id).sha256
    return read(
        store,
        NewStudy(id=study_id, sha256=sha, name="film", image=IMAGE, instance=instance, content=content, **more),
        MODELS,
    )


def be_predicted(store, study_id):
    findings = [{"name": "Mass", "score": 0.7, "threshold": 0.5, "over": True, "boxes": []}]
    answer(
        store, [ModelAnswer(study_id=study_id, model_sha=SHA, findings=findings, maps={"order": ["Mass"]}, suspicion=0.7)]
    )


def store_row(store, study_id):
    with store.reading() as session:
        return session.get(Study, study_id)


def state(store):
    return {key: count for key, count in deliveries.counts(store).items() if count}


def test_from_received_to_delivered(store):
    study_id = come(store, "one")
    assert come(store, "one") == study_id
    assert state(store) == {"new": 1}
    assert (unread(store, 8), unread(store, 8, {study_id})) == ([(study_id, store_row(store, study_id).sha256)], [])
    assert store.page(Query())[0] == 0  # nobody has read it yet
    assert store.page(Query(state="received"))[0] == 1
    assert be_read(store, study_id)
    assert not be_read(store, study_id)
    assert state(store) == {"queued": 1}
    assert store.page(Query())[0] == 1
    assert deliveries.due(store, 8) == []
    be_predicted(store, study_id)
    assert deliveries.due(store, 8) == [DueResult(study_id, SHA, 0)]
    deliveries.postpone(store, DueResult(study_id, SHA, 0), 1000, "the archive does not answer")
    assert (state(store), deliveries.due(store, 8)) == ({"retry": 1}, [])
    assert deliveries.reasons(store) == [("retry", "the archive does not answer", 1)]
    deliveries.hurry(store)
    assert deliveries.due(store, 8) == [DueResult(study_id, SHA, 1)]
    deliveries.delivered(store, DueResult(study_id, SHA, 1))
    assert (state(store), deliveries.reasons(store)) == ({"done": 1}, [])
    come(store, "one")  # its archive may have lost the results
    assert state(store) == {"ready": 1}


def test_what_came_by_http_is_not_sent_until_its_archive_sends_it(store):
    sha, received = sha256(b"one").hexdigest(), store.folders.new()
    (received / "original").write_text("one")
    study_id = f"s-{sha[:24]}"
    store.add(NewStudy(id=study_id, sha256=sha, name="film", image=IMAGE, instance="i1"), received, MODELS)
    be_predicted(store, study_id)
    assert state(store) == {}
    assert come(store, "one") == study_id
    assert state(store) == {"ready": 1}


def test_a_corrected_image_replaces_the_one_before(store):
    """While that is pending, predicted, delivered, and reviewed: nothing of the first is sent or shown any more."""
    first = come(store, "of patient A")
    assert unread(store, 8)[0][0] == first
    second = come(store, "of patient B")
    assert [one for one, _ in unread(store, 8)] == [second]
    assert not be_read_gone(store, first)
    assert not store.folders.folder_of(first).exists()
    be_read(store, second, content="c2", patient="p-b")
    be_predicted(store, second)
    third = come(store, "of patient C")
    assert deliveries.due(store, 8) == []
    be_read(store, third, content="c3", patient="p-c")
    assert (store_row(store, third).revision, store_row(store, second).state) == (1, "replaced")
    assert deliveries.due(store, 8) == [DueResult(second, WITHDRAWAL, 0)]  # its result may have been on its way
    deliveries.delivered(store, DueResult(second, WITHDRAWAL, 0))
    remove_withdrawn(store, second)
    assert store_row(store, second) is None
    assert not store.folders.folder_of(second).exists()
    reviews.put_review(store, third, "reader", NewReview(base=0, state="done"))
    fourth = come(store, "of patient D")
    be_read(store, fourth, content="c4")
    assert store_row(store, fourth).revision == 2
    assert store_row(store, third).state == "replaced"  # a reader's work is not thrown away
    assert [one.id for one in store.page(Query())[1]] == [fourth]
    answer(store, [ModelAnswer(study_id=third, model_sha=SHA, findings=[], maps={}, suspicion=1.0)])
    assert store_row(store, third).state == "replaced"
    assert deliveries.due(store, 8) == []


def be_read_gone(store, study_id):
    return read(store, NewStudy(id=study_id, sha256="0" * 64, name="film", image=IMAGE), MODELS)


def test_the_same_image_in_another_form_is_no_correction(store):
    """By pulling it may come in another transfer syntax than by C-STORE: its results are the same objects."""
    first = come(store, "plain")
    be_read(store, first)
    second = come(store, "compressed")
    be_read(store, second)
    assert store_row(store, second).revision == 0


def be_sent(store, study_id, *instances, subject=SHA):
    """As the delivery tells the store that the archive has objects of a result."""
    objects = [SentObject(one, f"{one}.series", "1.2.840.10008.5.1.4.1.1.88.34") for one in instances]
    deliveries.delivered(store, DueResult(study_id, subject, 0), objects)


def wrong(store, study_id):
    return [one.instance for one in rejected_of(store, study_id)]


def test_what_the_archive_has_of_a_replaced_image_is_to_be_rejected(store):
    first = come(store, "of patient A")
    be_read(store, first)
    be_predicted(store, first)
    be_sent(store, first, "1", "2")
    assert (deliveries.due(store, 8), wrong(store, first)) == ([], [])
    second = come(store, "of patient B")
    assert store_row(store, first).state == "replaced"
    assert deliveries.due(store, 8) == []  # it may be the same image in another form
    be_read(store, second, content="c2")
    assert deliveries.due(store, 8) == [DueResult(first, WITHDRAWAL, 0)]
    assert wrong(store, first) == ["1", "2"]
    third = come(store, "of patient C")  # before the archive heard of the second
    be_read(store, third, content="c3")
    assert deliveries.due(store, 8) == [DueResult(first, WITHDRAWAL, 0)]
    deliveries.delivered(store, DueResult(first, WITHDRAWAL, 0), gone=["1", "2"])
    remove_withdrawn(store, first)
    assert store_row(store, first) is None
    assert deliveries.due(store, 8) == []


def test_objects_of_the_same_image_in_another_form_stay(store):
    first = come(store, "plain")
    be_read(store, first)
    be_predicted(store, first)
    be_sent(store, first, "1")
    second = come(store, "compressed")
    be_sent(store, first, "2")  # was on its way
    be_read(store, second)
    be_sent(store, first, "3")
    assert [one.instance for one in deliveries.sent_of(store, second)] == ["1", "2", "3"]
    assert (wrong(store, first), wrong(store, second)) == ([], [])


def test_an_image_that_returns_after_its_correction_has_objects_of_its_own(store):
    first = come(store, "of patient A")
    be_read(store, first)
    be_predicted(store, first)
    be_sent(store, first, "1")
    second = come(store, "of patient B")
    be_read(store, second, content="c2")
    again = come(store, "of patient A")
    assert again == first
    be_read(store, again, content="c1")
    assert (store_row(store, again).revision, store_row(store, second)) == (2, None)
    assert DueResult(again, WITHDRAWAL, 0) in deliveries.due(store, 8)
    assert wrong(store, again) == ["1"]
    be_predicted(store, again)
    be_sent(store, again, "4")
    assert (wrong(store, again), [one.instance for one in deliveries.sent_of(store, again)]) == (["1"], ["4"])


def test_a_node_that_keeps_no_files_knows_what_to_withdraw(store):
    first = come(store, "one")
    be_read(store, first, exam="e1")
    be_predicted(store, first)
    be_sent(store, first, "1")
    remove_delivered(store, first)
    assert come(store, "one") == first  # the same again: nothing is wrong
    be_read(store, first, exam="e1")
    assert [one.instance for one in deliveries.sent_of(store, first)] == ["1"]
    be_predicted(store, first)
    be_sent(store, first, "1")
    remove_delivered(store, first)
    second = come(store, "two")
    be_read(store, second, content="c2", exam="e1")
    assert deliveries.due(store, 8) == [DueResult(first, WITHDRAWAL, 0)]
    assert wrong(store, first) == ["1"]


def test_an_image_that_http_brings_while_nobody_has_read_it(store):
    study_id, received = come(store, "one"), store.folders.new()
    (received / "original").write_text("one")
    (received / "pixels.u16").write_bytes(b"pixels")
    assert store.with_sha(store_row(store, study_id).sha256) is None
    store.add(
        NewStudy(id=study_id, sha256=store_row(store, study_id).sha256, name="film", image=IMAGE, instance="i1"),
        received,
        MODELS,
    )
    assert (store.folders.folder_of(study_id) / "pixels.u16").is_file()
    assert resume(store, MODELS) == [PendingResult(study_id, SHA)]
    be_predicted(store, study_id)
    assert state(store) == {"ready": 1}


def test_dead_letters_wake(store, tmp_path):
    study_id = come(store, "one")
    be_read(store, study_id)
    be_predicted(store, study_id)
    one = DueResult(study_id, SHA, 0)
    assert deliveries.give_up(store, 0) == []  # nobody has tried yet
    deliveries.postpone(store, one, 5, "no")
    assert deliveries.give_up(store, 3600) == []
    assert deliveries.give_up(store, 0) == [study_id]
    lines = deliveries.status(store, "wake them").splitlines()
    assert [line.split() for line in lines[6:8]] == [["dead", "1"], ["dead:", "no", "(1)"]]
    assert lines[8:] == ["wake them sends the dead letters again"]
    with closing(existing(tmp_path / "store")) as other:
        assert deliveries.retry_dead(other) == 1
    assert deliveries.due(store, 8) == [one]
    assert deliveries.give_up(store, 3600) == []
    deliveries.fail(store, one, "no header")
    assert state(store) == {"failed": 1}


def test_what_is_refused_is_kept_for_a_while_and_tried_again(store):
    study_id = come(store, "one")
    refuse(store, study_id, "lateral view")
    assert (state(store), deliveries.reasons(store)) == ({"failed": 1}, [("failed", "lateral view", 1)])
    assert (store.page(Query())[0], store.page(Query(state="refused"))[0]) == (0, 1)
    assert retry_failed(store) == 1
    assert state(store) == {"new": 1}
    refuse(store, study_id, "lateral view")
    come(store, "one")  # it comes again
    assert state(store) == {"new": 1}
    refuse(store, study_id, "lateral view")
    tidy(store, "0000", "0000", keep=True)
    assert store.folders.folder_of(study_id).exists()
    tidy(store, LATER, "0000", keep=True)
    assert not store.folders.folder_of(study_id).exists()
    assert (is_known(store, "i1"), retry_failed(store)) == (True, 0)  # so that it is not pulled again
    tidy(store, LATER, LATER, keep=True)
    assert not is_known(store, "i1")


def test_what_is_delivered_may_go_and_tells_nothing_of_its_patient(store):
    study_id = come(store, "one")
    be_read(store, study_id, patient="p-planted", taken="20200102")
    be_predicted(store, study_id)
    remove_delivered(store, study_id)
    assert store.folders.folder_of(study_id).exists()  # not before its results are there
    deliveries.delivered(store, DueResult(study_id, SHA, 0))
    remove_delivered(store, study_id)
    row = store_row(store, study_id)
    assert (row.state, row.patient, row.taken, row.image, row.name) == ("removed", "", "", {}, "")
    assert not store.folders.folder_of(study_id).exists()
    assert (state(store), is_known(store, "i1"), count_waiting(store)) == ({"done": 1}, True, 0)
    corrected = come(store, "two")
    be_read(store, corrected, content="c2")
    assert store_row(store, corrected).revision == 1


def test_a_reviewed_study_stays(store):
    study_id = come(store, "one")
    be_read(store, study_id)
    be_predicted(store, study_id)
    deliveries.delivered(store, DueResult(study_id, SHA, 0))
    reviews.put_review(store, study_id, "reader", NewReview(base=0, state="part"))
    remove_delivered(store, study_id)
    tidy(store, LATER, LATER, keep=False)
    assert store_row(store, study_id).state == "done"


OLD = """
CREATE TABLE image (
  id TEXT PRIMARY KEY, state TEXT NOT NULL, changed REAL NOT NULL, reason TEXT NOT NULL DEFAULT '',
  ready REAL, due REAL NOT NULL DEFAULT 0, tries INTEGER NOT NULL DEFAULT 0, starts INTEGER NOT NULL DEFAULT 0,
  kept INTEGER NOT NULL DEFAULT 0
) WITHOUT ROWID
"""


def old_node(root):
    """A folder as the node before kept it: one image of each state."""
    with closing(Store(root)) as store:
        ids = {state: f"s-{store.folders.instance_of(state)}" for state in ("new", "retry", "dead", "done", "failed")}
    (root / "store.sqlite").unlink()
    with closing(sqlite3.connect(root / "queue.sqlite")) as base:
        base.execute(OLD)
        base.executemany("INSERT INTO image (id, state, changed) VALUES (?, ?, 0)", [(one, at) for at, one in ids.items()])
        base.commit()
    for at, one in ids.items():
        folder = root / "dead" / one if at == "dead" else root / "studies" / one[2:4] / one
        if at != "done":
            folder.mkdir(parents=True)
            (folder / "image.dcm").write_bytes(at.encode())
    return ids


def test_the_folder_of_an_older_node_is_taken_over(service_of, tmp_path):
    old_node(tmp_path)
    with pytest.raises(BadInput, match="start `chestmap node` on it once"):
        existing(tmp_path)
    service = service_of(Store(tmp_path))
    with pytest.raises(Refused, match="--to ARCHIVE"):  # nobody would send what it promised
        service.start()
    service.delivers = True
    service._take_over()
    service._take_over()
    assert state(service.store) == {"new": 4, "done": 1}
    assert all(is_known(service.store, service.store.folders.instance_of(one)) for one in ("new", "retry", "dead", "done"))
    with service.store.reading() as session:
        assert set(session.scalars(select(Study.deliver).where(Study.state == "received"))) == {True}
    assert service.store.folders.sweep(service.store.known_ids(with_files=True)) == 0
    service.stop()


def test_the_verb_counts_images_without_torch(store, tmp_path):
    come(store, "one")
    code = "import sys; from chestmap.cli import main\ntry:\n main()\nfinally:\n assert 'torch' not in sys.modules"
    command = [sys.executable, "-c", code, "node", "--status", str(tmp_path / "store")]
    lines = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    assert [line.split()[0] for line in lines] == [*STATES, "the"]
    assert lines[0].split() == ["new", "1"]
    assert lines[-1].startswith("the oldest waits for")
    missing = subprocess.run([*command[:-2]], capture_output=True, text=True, check=False)
    assert missing.returncode == 2
    assert missing.stderr.startswith("chestmap: chestmap node: expected MODEL")
    with pytest.raises(BadInput, match=r"no store\.sqlite"):
        existing(tmp_path)


def test_uploads_and_arrivals_share_ids(store, service_of):
    service = service_of(store)
    study_id = service.accept("1.2.3", [b"one", b" image"])
    assert study_id == f"s-{sha256(b'one image').hexdigest()[:24]}"
    assert "1.2.3" not in str(store.folders.folder_of(study_id))
    assert not list(store.folders.incoming.iterdir())
    assert service.accept("1.2.3", io.BytesIO(b"one image")) == study_id
    service.stop()
