"""Images of one exam belong together, earlier exams are priors with their interval, and dates tell nothing that they should not."""

from contextlib import closing
from hashlib import sha256

import pytest

from chestmap.serving.store.film_dates import days_between, film_date, shown_date
from chestmap.serving.store.store import NewStudy, Store

MODELS = {"a" * 64: "one"}


@pytest.fixture
def store(tmp_path):
    with closing(Store(tmp_path / "store")) as made:
        yield made


def add(store, name, **more):
    sha, received = sha256(name.encode()).hexdigest(), store.folders.new()
    (received / "original").write_text(name)
    store.add(NewStudy(id=f"s-{sha[:24]}", sha256=sha, name=name, image={"width": 8, "height": 8}, **more), received, MODELS)
    return store.study(f"s-{sha[:24]}")[0]


def test_two_exposures_of_one_exam_are_no_priors_of_each_other(store):
    ann = {"patient": "p-ann"}
    old = add(store, "old", taken="20240101090000", exam="e1", **ann)
    first = add(store, "first", taken="20240401090000", exam="e2", **ann)
    second = add(store, "second", taken="20240401090500", exam="e2", **ann)
    add(store, "of another patient", taken="20230101", exam="e3", patient="p-bob")
    loose = add(store, "loose", taken="20240501", **ann)
    assert store.priors(second) == [(old.id, old.taken)]
    assert store.exam_images(second) == [first.id]
    assert store.exam_images(first) == [second.id]
    assert [one for one, _ in store.priors(loose)] == [second.id, first.id, old.id]
    assert (store.priors(old), store.exam_images(loose)) == ([], [])
    assert days_between(old.taken, second.taken) == 91


def test_shifted_dates_keep_the_intervals_of_a_patient_and_nothing_else():
    key, films = b"k" * 32, ("20240101090000.5", "20240401101500")
    true = [shown_date(one, "p-ann", key, true=True) for one in films]
    assert true == ["2024-01-01T09:00:00", "2024-04-01T10:15:00"]
    shifted = [shown_date(one, "p-ann", key, true=False) for one in films]
    dates = [film_date(one.replace("-", "").replace("T", "").replace(":", "")) for one in shifted]
    assert (dates[1] - dates[0]).days == 91
    assert all(one < other for one, other in zip(shifted, true, strict=True))
    other = shown_date(films[0], "p-bob", key, true=False)
    assert other not in {shifted[0], true[0]}
    assert shown_date(films[0], "p-ann", b"x" * 32, true=False) != shifted[0]


@pytest.mark.parametrize("taken", ["", "late", "20241399", "2024"])
def test_what_is_no_date_is_none(taken):
    assert film_date(taken) is None
    assert shown_date(taken, "p", b"k" * 32, true=True) == ""
    assert days_between(taken, "20240101") is None


def test_a_date_without_its_time_is_a_date():
    assert shown_date("20240229", "p", b"k" * 32, true=True) == "2024-02-29T00:00:00"
    assert shown_date("202402291", "p", b"k" * 32, true=True).startswith("2024-02-29T")
