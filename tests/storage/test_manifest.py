"""Checks that a changed file of a sealed folder is never given out."""

import shutil
import subprocess

import numpy as np
import pytest

from chestmap.errors import BadModel
from chestmap.storage import manifest
from chestmap.storage.json_file import read_json
from chestmap.storage.manifest import SUMS, damage_in, extend, seal, sums_of, verified, verified_bytes


@pytest.fixture
def sealed(tmp_path):
    (tmp_path / "below").mkdir()
    (tmp_path / "a.txt").write_text("one")
    (tmp_path / "below" / "b.txt").write_text("two")
    (tmp_path / ".lock").write_text("")
    seal(tmp_path)
    return tmp_path


def flipped(path, bit):
    data = bytearray(path.read_bytes())
    data[bit // 8] ^= 1 << bit % 8
    path.write_bytes(data)


def test_a_sealed_folder_is_given_out(sealed):
    assert verified(sealed, "a.txt").read_text() == "one"
    assert verified_bytes(sealed, "below/b.txt") == b"two"
    assert damage_in(sealed) == []
    assert set(sums_of(sealed)) == {"a.txt", "below/b.txt"}


@pytest.mark.skipif(shutil.which("sha256sum") is None, reason="no sha256sum here")
def test_the_sums_are_those_of_sha256sum(sealed):
    subprocess.run(["sha256sum", "--strict", "-c", SUMS], cwd=sealed, check=True, capture_output=True)


@pytest.mark.parametrize("read", [verified, verified_bytes])
def test_each_flipped_bit_of_a_file_is_seen(sealed, read):
    for bit in range(24):
        read(sealed, "a.txt")
        flipped(sealed / "a.txt", bit)
        with pytest.raises(BadModel, match="changed after it was written"):
            read(sealed, "a.txt")
        assert len(damage_in(sealed)) == 1
        flipped(sealed / "a.txt", bit)


def test_no_flipped_bit_of_the_sums_gives_out_a_file_silently(sealed):
    """Where the other file's line was hit, this one is still right."""
    size = len((sealed / SUMS).read_bytes()) * 8
    for bit in np.random.default_rng(0).choice(size, 120, replace=False):
        flipped(sealed / SUMS, int(bit))
        assert damage_in(sealed)
        outcomes = []
        for name, content in (("a.txt", b"one"), ("below/b.txt", b"two")):
            try:
                assert verified_bytes(sealed, name) == content
            except BadModel as problem:
                outcomes.append(str(problem))
        assert outcomes, bit
        assert not [text for text in outcomes if "\n" in text]
        flipped(sealed / SUMS, int(bit))


def test_a_file_is_hashed_once_while_it_stays_the_same(sealed, monkeypatch):
    monkeypatch.setattr(manifest, "SETTLED", 0)
    verified(sealed, "a.txt")
    monkeypatch.setattr(manifest, "file_digest", lambda *_: pytest.fail("hashed again"))
    verified(sealed, "a.txt")


def test_a_file_that_is_not_listed_or_not_sealed_is_refused(sealed, tmp_path):
    (sealed / "c.txt").write_text("three")
    with pytest.raises(BadModel, match="not listed"):
        verified(sealed, "c.txt")
    extend(sealed, "c.txt")
    assert verified(sealed, "c.txt")
    manifest.unseal(sealed)
    with pytest.raises(BadModel, match="--seal"):
        verified(sealed, "c.txt")


def test_names_that_lead_out_are_refused(sealed):
    (sealed / SUMS).write_text(f"{'0' * 64}  ../a.txt\n")
    with pytest.raises(BadModel, match="damaged"):
        verified(sealed, "../a.txt")


DEEP = "[" * 200_000


@pytest.mark.parametrize("content", [DEEP, '{"a": ' * 100_000, "\ud800", "{", "NaNa"])
def test_json_without_an_end_is_one_line(tmp_path, content):
    path = tmp_path / "plan.json"
    path.write_bytes(content.encode("utf-8", "surrogatepass"))
    with pytest.raises(BadModel, match="make it again") as caught:
        read_json(path, "make it again")
    assert "\n" not in str(caught.value)
    with pytest.raises(FileNotFoundError):
        read_json(tmp_path / "none.json", "")
