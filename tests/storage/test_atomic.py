"""Checks that what is written is there whole or not at all, and that one process at a time works."""

import multiprocessing
import threading

import pytest

from chestmap.errors import Refused
from chestmap.storage.atomic import making_folder, replacing, write_bytes, write_json
from chestmap.storage.locks import exclusive, in_turn


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "a.bin"
    write_bytes(path, b"old")

    def fail(made):
        made.write_bytes(b"half")
        raise OSError("disk")

    with pytest.raises(OSError, match="disk"), replacing(path) as made:
        fail(made)
    assert path.read_bytes() == b"old"
    assert [one.name for one in tmp_path.iterdir()] == ["a.bin"]


def test_json_that_no_other_program_reads_is_not_written(tmp_path):
    with pytest.raises(ValueError, match="JSON"):
        write_json(tmp_path / "a.json", {"x": float("nan")})
    assert not any(tmp_path.iterdir())


def test_a_folder_takes_its_name_when_it_is_whole(tmp_path):
    final = tmp_path / "kept"
    with making_folder(final) as made:
        (made / "a").write_text("1")
    with pytest.raises(FileNotFoundError), making_folder(final) as made:
        (made / "absent" / "a").write_text("2")
    assert (final / "a").read_text() == "1"
    assert [one.name for one in tmp_path.iterdir()] == ["kept"]


def test_a_second_holder_is_refused_in_the_same_process_too(tmp_path):
    with exclusive(tmp_path / "lock", "busy"), pytest.raises(Refused, match="busy"), exclusive(tmp_path / "lock", "busy"):
        pass
    with exclusive(tmp_path / "lock", "busy"):
        pass


def test_a_waiting_thread_goes_on_when_the_lock_is_free(tmp_path):
    waited, got = threading.Event(), threading.Event()

    def second():
        with in_turn(tmp_path / "lock", waited.set):
            got.set()

    with in_turn(tmp_path / "lock"):
        other = threading.Thread(target=second)
        other.start()
        assert waited.wait(10)
        assert not got.is_set()
    other.join(10)
    assert got.is_set()


def _hold(path, ready):
    with exclusive(path, "busy"):
        ready.set()
        threading.Event().wait(60)


def test_the_lock_of_a_killed_process_is_free(tmp_path):
    context = multiprocessing.get_context("spawn")
    ready = context.Event()
    other = context.Process(target=_hold, args=(tmp_path / "lock", ready))
    other.start()
    assert ready.wait(60)
    with pytest.raises(Refused), exclusive(tmp_path / "lock", "busy"):
        pass
    other.kill()
    other.join()
    with exclusive(tmp_path / "lock", "busy"):
        pass
