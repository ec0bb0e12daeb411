"""Uploads of several threads share a transaction; one that fails hinders no other, and nobody waits forever."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from sqlalchemy import event

from chestmap.serving.store.group_commit import GroupCommit
from chestmap.serving.store.store import Store
from serving.test_store import FIRST, MODELS, add

SECONDS = 30


def test_those_who_come_during_a_commit_share_the_next_one():
    groups, began, go = [], threading.Semaphore(0), threading.Event()

    def work(items):
        groups.append(sorted(items))
        began.release()
        assert go.wait(SECONDS)
        return [item * 10 for item in items]

    commits = GroupCommit(work)
    with ThreadPoolExecutor(5) as pool:
        first = pool.submit(commits.do, 1)
        assert began.acquire(timeout=SECONDS)
        others = [pool.submit(commits.do, item) for item in (2, 3, 4)]
        while len(commits._waiting) < 3:
            time.sleep(0.001)
        go.set()
        assert [one.result(SECONDS) for one in (first, *others)] == [10, 20, 30, 40]
    assert groups == [[1], [2, 3, 4]]


def test_an_error_of_one_is_raised_to_it_alone_and_one_of_all_to_all():
    commits = GroupCommit(lambda items: [OSError("one") if item == 2 else item for item in items])
    assert commits.do(1) == 1
    with pytest.raises(OSError, match="one"):
        commits.do(2)
    broken = GroupCommit(lambda _: 1 / 0)
    for _ in range(2):
        with pytest.raises(ZeroDivisionError):
            broken.do(1)


def together(store, *words):
    """The words' films come while a transaction is under way, so that they share the next."""
    store.moving.acquire()
    with ThreadPoolExecutor(len(words) + 1) as pool:
        first = pool.submit(add, store, "first", {FIRST: MODELS[FIRST]})
        while not store._uploads._working.locked():
            time.sleep(0.001)
        rest = [pool.submit(add, store, word, {FIRST: MODELS[FIRST]}) for word in words]
        while len(store._uploads._waiting) < len(words):
            time.sleep(0.001)
        store.moving.release()
        return first.result(SECONDS), [one for one in rest if one.exception(SECONDS) is None], rest


def test_uploads_together_cost_as_many_statements_as_one(tmp_path):
    store, statements = Store(tmp_path), []
    event.listen(store.engine, "before_cursor_execute", lambda *arguments: statements.append(arguments[2]))
    add(store, "alone", {FIRST: MODELS[FIRST]})
    one = len(statements)
    _, good, rest = together(store, "a", "b", "a", "c")
    assert len(statements) == 3 * one
    assert len(good) == len(rest)
    assert sorted(found.result()[1] for found in rest) == [False, True, True, True]
    assert store.queued() == 5
    numbers = [found.number for name in store.known_ids() for found in store.study(name)[1]]
    assert len(set(numbers)) == len(numbers)
    store.close()


def test_files_that_cannot_be_moved_fail_their_own_upload(tmp_path, monkeypatch):
    store = Store(tmp_path)
    moved = store.folders._moved

    def sometimes(received, study_id):
        if (received / "original").read_text() == "b":
            raise OSError(28, "No space left on device")
        return moved(received, study_id)

    monkeypatch.setattr(store.folders, "_moved", sometimes)
    _, good, rest = together(store, "a", "b", "c")
    assert [found.exception() is None for found in rest] == [True, False, True]
    assert len(good) == 2
    assert store.queued() == 3
    store.close()
