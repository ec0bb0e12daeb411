"""The queue by itself, and what becomes of its files: every state, every way from one to the next."""

import subprocess
import sys
from contextlib import closing

import pytest

from chestmap.errors import BadInput, Refused
from chestmap.serving.dicom.queue import STATES, Queue, queue_of, retry_dead, status
from chestmap.serving.dicom.spool import Spool


@pytest.fixture
def queue(tmp_path):
    with closing(Queue(tmp_path / "queue.sqlite")) as made:
        yield made


def state(queue):
    return {key: count for key, count in queue.counts().items() if count}


def test_from_new_to_done(queue):
    queue.add("a")
    queue.add("a")
    queue.add("b")
    assert state(queue) == {"new": 2}
    assert queue.claim(1) == ["a"]
    assert state(queue) == {"new": 1, "busy": 1}
    assert queue.next_due() is None
    queue.results_ready("a")
    assert queue.next_due() == ("a", 0)
    queue.postpone("a", 1000, "the archive does not answer")
    assert queue.next_due() is None
    assert queue.reasons() == [("retry", "the archive does not answer", 1)]
    queue.hurry()
    assert queue.next_due() == ("a", 1)
    queue.delivered("a", kept=False)
    assert state(queue) == {"new": 1, "done": 1}
    assert queue.reasons() == []
    queue.add("a")  # it came again
    assert state(queue) == {"new": 2}


def test_what_ends_the_process_goes_alone_and_is_given_up(queue):
    for name in "abcd":
        queue.add(name)
    queue.claim(2)
    queue.recover()
    assert queue.claim(8) == ["c", "d"]  # those that never were under way, first
    for name in ("c", "d"):
        queue.results_ready(name)
    assert queue.claim(8) == ["a"]  # alone
    queue.recover()
    assert queue.claim(8) == ["b"]
    queue.results_ready("b")
    assert queue.claim(8) == ["a"]
    queue.recover()
    assert state(queue) == {"ready": 3, "failed": 1}
    assert queue.reasons() == [("failed", "ended the node 3 times", 1)]


def test_dead_letters_wake(queue, tmp_path):
    queue.add("a")
    queue.claim(1)
    queue.results_ready("a")
    assert queue.overdue(0) == []  # nobody has tried yet
    queue.postpone("a", 5, "no")
    assert queue.overdue(3600) == []
    assert queue.overdue(0) == ["a"]
    queue.bury("a")
    told = status(tmp_path).splitlines()
    assert [line.split() for line in told[6:8]] == [["dead", "1"], ["dead:", "no", "(1)"]]
    assert told[8:] == [f"chestmap node --retry-dead {tmp_path} sends the dead letters again"]
    assert retry_dead(tmp_path) == 1
    assert queue.next_due() == ("a", 0)
    assert queue.overdue(3600) == []


def test_a_folder_that_is_none(tmp_path):
    with pytest.raises(BadInput, match="--store"):
        status(tmp_path)
    (tmp_path / "queue.sqlite").write_bytes(b"no database at all, but long enough to be looked at" * 40)
    with pytest.raises(BadInput, match="is it a queue"):
        queue_of(tmp_path)


def test_a_newer_queue_is_left_alone(queue, tmp_path):
    queue._base.execute("PRAGMA user_version=99")
    with pytest.raises(BadInput, match="newer"):
        queue_of(tmp_path)


@pytest.fixture
def spool(tmp_path):
    with closing(Spool(tmp_path / "node")) as made:
        yield made


def make_ready(spool, image_id):
    assert image_id in spool.queue.claim(8)
    made = spool.folders.new()
    (made / "sr-1.dcm").write_bytes(b"result")
    spool.keep_results(image_id, made)


def test_files_follow_their_image(spool):
    image_id = spool.take("1.2.3", [b"one", b" image"])
    place = spool.place(image_id)
    assert (place / "image.dcm").read_bytes() == b"one image"
    assert "1.2.3" not in str(place)
    assert spool.take("1.2.3", [b"again"]) == image_id  # pending: the first stays
    assert (place / "image.dcm").read_bytes() == b"one image"
    make_ready(spool, image_id)
    assert [one.name for one in spool.results(image_id)] == ["sr-1.dcm"]
    spool.bury(image_id)
    assert not place.exists()
    assert [one.name for one in spool.results(image_id)] == ["sr-1.dcm"]
    assert (spool.dead / image_id / "results" / "sr-1.dcm").is_file()
    spool.delivered(image_id)
    assert not spool.place(image_id).exists()
    spool.take("1.2.3", [b"later"])
    assert (place / "image.dcm").read_bytes() == b"later"
    assert not list(spool.folders.incoming.iterdir())


def test_what_is_kept_and_for_how_long(tmp_path):
    with closing(Spool(tmp_path / "node", keep=True)) as spool:
        kept, failed = (spool.take(uid, [b"image"]) for uid in ("1.1", "1.2"))
        make_ready(spool, kept)
        spool.bury(kept)
        spool.delivered(kept)
        spool.queue.fail(failed, "lateral view")
        spool.tidy(failed_seconds=3600, done_seconds=3600)
        assert (spool.place(failed) / "image.dcm").exists()
        assert (spool.folders.of(kept) / "image.dcm").exists()
        spool.tidy(failed_seconds=-1, done_seconds=3600)
        assert not spool.place(failed).exists()
        assert spool.queue.knows(failed)  # so that it is not pulled again
        spool.tidy(failed_seconds=-1, done_seconds=-1)
        assert spool.queue.known() == {kept}


def test_a_start_finds_what_was_promised_and_no_more(tmp_path):
    spool = Spool(tmp_path / "node")
    image_id = spool.take("1.1", [b"image"])
    stray = spool.folders.of("s-" + 24 * "0")
    stray.mkdir(parents=True)
    (spool.folders.incoming / "half").mkdir()
    spool.queue.claim(1)
    with pytest.raises(Refused, match="holds this store"):
        Spool(tmp_path / "node")
    spool.close()
    with closing(Spool(tmp_path / "node")) as again:
        again.recover()
        assert again.id_of("1.1") == image_id
        assert again.queue.counts()["new"] == 1
        assert again.place(image_id).exists()
        assert not stray.exists()
        assert len(list((tmp_path / "node" / "orphans").iterdir())) == 1
        assert not list(again.folders.incoming.iterdir())


def test_the_verb_prints_a_queue_without_torch(spool, tmp_path):
    spool.take("1.1", [b"image"])
    code = "import sys; from chestmap.cli import main\ntry:\n main()\nfinally:\n assert 'torch' not in sys.modules"
    command = [sys.executable, "-c", code, "node", "--status", str(tmp_path / "node")]
    told = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert [line.split()[0] for line in told.splitlines()] == [*STATES, "the"]
    assert told.splitlines()[0].split() == ["new", "1"]
    assert told.splitlines()[-1].startswith("the oldest waits for")
    missing = subprocess.run([*command[:-2]], capture_output=True, text=True, check=False)
    assert missing.returncode == 2
    assert missing.stderr.startswith("chestmap: chestmap node: expected MODEL")
