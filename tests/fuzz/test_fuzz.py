"""The corpus, and a few seeded inputs for each parser; `make fuzz SECONDS=600` goes on from there."""

import json
import random
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import pytest

from fuzz.corpus import CORPUS
from fuzz.mutations import chunks, tree
from fuzz.parsers import Parser, parsers
from fuzz.run import asked, mutated

TESTS = Path(__file__).parents[1]
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
    """Or mutations would only try the first check. These ask for more files than one."""
    outcomes = {asked(KNOWN[name], content, tmp_path) for content in KNOWN[name].good}
    assert outcomes <= ({"taken", "refused"} if name in {"pack", "tiff", "guard", "boxes", "coco"} else {"taken"})


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


def test_damage_below_the_form_keeps_the_form():
    for number in range(40):
        chance = random.Random(number)
        json.loads(tree(chance, KNOWN["header"].good[0]))
        picture = chunks(chance, KNOWN["png"].good[0])
        place = 8
        while place < len(picture):
            (length,) = struct.unpack(">I", picture[place : place + 4])
            assert zlib.crc32(picture[place + 4 : place + 8 + length]) == int.from_bytes(
                picture[place + 8 + length :][:4], "big"
            )
            place += 12 + length


def test_a_parser_that_kills_its_process_is_found(tmp_path):
    """In a child, after which the campaign goes on; its content is kept."""
    program = (
        "import os, pathlib, sys; from fuzz import run; from fuzz.parsers import Parser; "
        "dead = {'dead': Parser([b'x'], [b'y'], lambda *_: os.kill(os.getpid(), 11), each=1)}; "
        "counts = run.in_child(0, range(3), dead, pathlib.Path(sys.argv[1])); print(dict(counts))"
    )
    place = {"PYTHONPATH": f"{TESTS.parent / 'src'}:{TESTS}", "PATH": ""}
    found = tmp_path / "found"
    done = subprocess.run(
        [sys.executable, "-c", program, str(found)], env=place, capture_output=True, text=True, check=False
    )
    assert done.stdout.strip() == "{('dead', 'the process ended with -11'): 1}", done.stderr
    assert len(list(found.iterdir())) == 1
