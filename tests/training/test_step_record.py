"""Which code counts for a step, and which change of it."""

import importlib
import sys

import pytest

from chestmap.training.step_record import ALWAYS, _read, code_of, flat


@pytest.fixture
def module(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(tmp_path))

    def write(text):
        _read.cache_clear()
        sys.modules.pop("some_room", None)
        (tmp_path / "some_room.py").write_text(text)
        importlib.invalidate_caches()
        return code_of("some_room")["some_room"]

    yield write
    sys.modules.pop("some_room", None)
    _read.cache_clear()


def test_comments_docstrings_and_layout_do_not_count(module):
    first = module("def f(x):\n    return x + 1\n")
    assert module('"""Room."""\n\n\ndef f(x):\n    """Adds."""\n    # one\n    return (x +\n            1)\n') == first
    assert module("def f(x):\n    return x + 2\n") != first
    assert module("def f(x, y=None):\n    return x + 1\n") != first


def test_what_a_room_imports_counts_and_what_it_does_not_import_does_not(module):
    module("from chestmap.nn import pooling\nfrom chestmap.nn.cam import class_maps\nfrom chestmap.reports import nothing\n")
    found = code_of("some_room")
    assert {"chestmap.nn.pooling", "chestmap.nn.cam", "some_room", *ALWAYS} <= set(found)
    assert "chestmap.nn.attention" not in found
    assert not any(name.startswith(("chestmap.reports", "chestmap.nn.cam.")) for name in found)


def test_a_room_brings_what_its_parts_import():
    found = code_of("chestmap.methods.ham")
    assert {"chestmap.methods.ham", "chestmap.nn.attention", "chestmap.nn.backbone", "chestmap.nn.boxes"} <= set(found)
    assert "chestmap.methods.cam" not in found


def test_every_module_that_always_counts_is_there():
    assert set(code_of(None)) == set(ALWAYS)


def test_tables_become_dotted_keys():
    assert flat({"a": {"b": 1, "c": {"d": [2]}}, "e": None}) == {"a.b": 1, "a.c.d": [2], "e": None}
