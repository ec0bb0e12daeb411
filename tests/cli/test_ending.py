"""Whatever ends a call of the command line is one line and an exit code; a traceback is shown on request alone."""

import errno
import resource
import threading
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import polars as pl
import pytest
from typer.testing import CliRunner

from chestmap.cli import command
from chestmap.cli.ending import FAULT, ended
from chestmap.errors import BadInput, Diverged


def raising(error):
    def verb():
        raise error

    return verb


FULL = pl.exceptions.ComputeError("No space left on device (os error 28)")
ENDS = {
    "mistakes": (BadInput("a.toml: one\nb.toml: two"), 2, "chestmap: a.toml: one\nchestmap: b.toml: two\n"),
    "diverged": (Diverged("loss is nan"), 1, "chestmap: loss is nan\n"),
    "no permission": (PermissionError(errno.EACCES, "Permission denied", "/x"), 2, "chestmap: /x: Permission denied\n"),
    "full disk": (OSError(errno.ENOSPC, "No space left on device", "/x"), 2, "/x: no space left; free some"),
    "full disk in polars": (FULL, 2, "disk: no space left; free some"),
    "limit of files in polars": (
        RuntimeError("parquet: underlying IO error: File too large (os error 27)"),
        2,
        "disk: File too large; raise the limit",
    ),
    "no memory": (MemoryError(), 2, "out of memory: end other programs"),
    "no memory for a library": (ImportError("libzstd.so.1: failed to map segment from shared object"), 2, "out of memory"),
    "no memory of the system": (OSError(errno.ENOMEM, "Cannot allocate memory"), 2, "out of memory"),
    "no memory of torch": (
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried"),
        2,
        "out of memory",
    ),
    "no thread": (RuntimeError("can't start new thread"), 2, "out of memory"),
    "process killed": (BrokenProcessPool("abruptly"), 2, "a process of this call ended suddenly"),
    "package absent": (
        ModuleNotFoundError("No module named 'fastapi'", name="fastapi"),
        2,
        "the package fastapi is not installed",
    ),
    "module of ours absent": (ModuleNotFoundError("x", name="chestmap.x"), 3, "a fault of chestmap, please report"),
    "panic of a Rust library": (
        pl.exceptions.PanicException("index out of bounds"),
        3,
        "PanicException: index out of bounds",
    ),
    "any other": (KeyError("findings"), 3, "a fault of chestmap, please report: KeyError: 'findings' (cli/ending.py:"),
    "many lines": (ValueError("one\ntwo\n" + "x" * 999), 3, "ValueError: one two x"),
    "interrupted": (KeyboardInterrupt(), 130, "chestmap: interrupted\n"),
}


@pytest.mark.parametrize("case", ENDS)
def test_each_end_has_its_line_and_its_code(case, capsys, monkeypatch):
    monkeypatch.delenv("CHESTMAP_TRACEBACK", raising=False)
    error, code, expected = ENDS[case]
    assert ended(raising(error)) == code
    said = capsys.readouterr().err
    assert expected in said
    assert "Traceback" not in said
    assert len(said.splitlines()) == (2 if case == "mistakes" else 1)
    assert len(said) < 700


def test_the_traceback_is_there_for_who_asks(capsys, monkeypatch):
    monkeypatch.setenv("CHESTMAP_TRACEBACK", "1")
    assert ended(raising(KeyError("findings"))) == FAULT
    said = capsys.readouterr().err
    assert "Traceback (most recent call last)" in said
    assert said.splitlines()[-1].startswith("chestmap: a fault of chestmap")


def test_a_thread_ends_in_one_line_too(capsys, monkeypatch):
    monkeypatch.delenv("CHESTMAP_TRACEBACK", raising=False)
    monkeypatch.setattr(threading, "excepthook", threading.excepthook)

    def verb():
        thread = threading.Thread(target=raising(KeyError("x")))
        thread.start()
        thread.join()

    assert ended(verb) == 0
    assert capsys.readouterr().err.count("\n") == 1


def test_the_exit_of_a_verb_passes():
    with pytest.raises(SystemExit) as caught:
        ended(raising(SystemExit(7)))
    assert caught.value.code == 7


def test_a_panic_is_no_exception_and_yet_told():
    assert not issubclass(pl.exceptions.PanicException, Exception)


@pytest.mark.parametrize(("room", "refused"), [(50 << 20, True), (300 << 20, False)])
def test_a_limit_that_leaves_no_address_space_is_one_line(room, refused, monkeypatch):
    """Near 50 MB polars waited without end for a thread that had got no memory; near 20 MB it panicked."""
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    monkeypatch.setattr(resource, "getrlimit", lambda _: (used + room, resource.RLIM_INFINITY))
    done = CliRunner().invoke(command("configs"), ["configs"])
    assert isinstance(done.exception, BadInput) is refused
    if refused:
        assert "MB of address space are left under the limit; at least 128 MB are needed" in str(done.exception)
