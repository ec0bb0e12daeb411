"""The corpus, and a few seeded inputs for each parser; `make fuzz SECONDS=600` goes on from there."""

import random

import pytest

from fuzz.corpus import CORPUS
from fuzz.parsers import Parser, parsers
from fuzz.run import asked, mutated

ROUNDS = 15
KNOWN = parsers()


@pytest.mark.parametrize("number", range(len(CORPUS)))
def test_what_once_failed_is_refused_or_taken(tmp_path, number):
    name, content = CORPUS[number]
    assert asked(KNOWN[name], content, tmp_path) in {"taken", "refused"}


@pytest.mark.parametrize("name", KNOWN)
def test_mutated_contents_are_refused_or_taken(tmp_path, name):
    for number in range(ROUNDS):
        content = mutated(random.Random(f"gate/{name}/{number}"), KNOWN[name])
        assert asked(KNOWN[name], content, tmp_path) in {"taken", "refused"}, content[:300]


@pytest.mark.parametrize("name", KNOWN)
def test_the_good_contents_are_asked_to_the_end(tmp_path, name):
    """Or mutations would only try the first check. These three ask for more files than one."""
    outcomes = {asked(KNOWN[name], content, tmp_path) for content in KNOWN[name].good}
    assert outcomes <= ({"taken", "refused"} if name in {"pack", "split", "tiff", "guard", "boxes", "coco"} else {"taken"})


def test_what_goes_wrong_is_found(tmp_path):
    def broken(*_: object) -> None:
        raise KeyError("findings")

    assert asked(Parser([b""], [b""], broken), b"", tmp_path).startswith("KeyError: 'findings' at test_fuzz.py")


def test_an_endless_parser_is_stopped(tmp_path, monkeypatch):
    def endless(*_: object) -> None:
        while True:
            pass

    monkeypatch.setattr("fuzz.run.HANG", 0.05)
    assert asked(Parser([b""], [b""], endless), b"", tmp_path) == "more than 0.05 s"
