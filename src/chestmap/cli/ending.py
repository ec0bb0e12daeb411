"""Ends a call of `chestmap`: an exit code, and one line for each mistake. A traceback is shown on request alone.

0 done · 1 a check failed, or training diverged · 2 wrong use, bad input, or a machine without room · 3 a fault of chestmap ·
130 interrupted. `CHESTMAP_TRACEBACK=1` shows the traceback of whatever ended the call.
"""

from __future__ import annotations

import errno
import os
import sys
import threading
import traceback
from collections.abc import Callable
from concurrent.futures import BrokenExecutor
from pathlib import Path
from typing import Any

import typer

from chestmap.errors import ChestmapError
from chestmap.extras import EXTRAS

SHOW = "CHESTMAP_TRACEBACK"
FAULT = 3
INTERRUPTED = 130
FULL = "No space left on device"
"""How polars, onnxruntime and others word a full disk in errors of their own."""

LIMITED = ("File too large", "Disk quota exceeded")
"""How they word a limit of files."""

NO_MEMORY = (
    "can't allocate memory",
    "failed to map segment",
    "Cannot allocate memory",
    "out of memory",
    "Insufficient memory",
    "can't start new thread",
)
"""How torch, OpenCV and threads word that memory is short."""

LONGEST = 300


def ended(verb: Callable[[], object]) -> int:
    """Runs a verb to its exit code, which it may return; whatever it raises becomes lines on stderr."""
    threading.excepthook = _thread_ended
    try:
        done = verb()
    except SystemExit:
        raise
    except BrokenPipeError:  # the reader of our output went away, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except BaseException as error:
        return reported(error)
    return done if isinstance(done, int) else 0


def reported(error: BaseException) -> int:
    """Writes what happened, and gives the exit code that belongs to it."""
    if os.environ.get(SHOW, "0") not in {"", "0"}:
        traceback.print_exception(error)
    message, code = _in_words(error)
    for line in message.splitlines():
        sys.stderr.write(f"chestmap: {line}\n")
    return code


def _in_words(error: BaseException) -> tuple[str, int]:
    said = " ".join(str(error).split())[:LONGEST]
    if isinstance(error, ChestmapError):
        return str(error), error.exit_code
    if hasattr(error, "format_message") and (code := getattr(error, "exit_code", None)) is not None:
        return _of_use(error), code
    if isinstance(error, (KeyboardInterrupt, typer.Abort)):
        return "interrupted", INTERRUPTED
    if (isinstance(error, OSError) and error.errno == errno.ENOSPC) or FULL in said:
        place = getattr(error, "filename", None) or "disk"
        return f"{place}: no space left; free some and call again: what is whole stays", 2
    if not isinstance(error, OSError) and (limit := next((word for word in LIMITED if word in said), "")):
        return f"disk: {limit}; raise the limit (ulimit -f, or the quota) and call again: what is whole stays", 2
    if (
        isinstance(error, MemoryError)
        or getattr(error, "errno", 0) == errno.ENOMEM
        or any(word in said for word in NO_MEMORY)
    ):
        return (
            "out of memory: end other programs, raise the limit (ulimit -v), or ask for smaller batches and fewer workers",
            2,
        )
    if isinstance(error, BrokenExecutor):
        return "a process of this call ended suddenly, most likely for lack of memory: ask for fewer workers", 2
    if isinstance(error, OSError):
        return f"{error.filename or 'file system'}: {error.strerror or said or type(error).__name__}", 2
    if isinstance(error, ModuleNotFoundError) and not str(error.name).startswith("chestmap"):
        extra = next((extra for extra in ("train", *EXTRAS) if str(error.name).partition(".")[0] in EXTRAS[extra]), "all")
        return f'the package {error.name} is not installed: pip install "chestmap[{extra}]"', 2
    return (
        f"a fault of chestmap, please report: {type(error).__name__}: {said} ({_place(error)}); {SHOW}=1 shows more",
        FAULT,
    )


def _of_use(error: Any) -> str:
    """Words of a mistake in the use of a verb, in one line: an error of click, which typer keeps a copy of."""
    if type(error).__name__ == "NoArgsIsHelpError":  # the help was printed
        return ""
    said = " ".join(error.format_message().replace("Value error, ", "").split())
    path = error.ctx.command_path if getattr(error, "ctx", None) else "chestmap"
    return f"{said}{'' if said.endswith(('.', '?')) else '.'} See `{path} --help`."


def _place(error: BaseException) -> str:
    """File and line of ours that were reached last."""
    frames = traceback.extract_tb(error.__traceback__)
    ours = [frame for frame in frames if "chestmap" in Path(frame.filename).parts]
    if not frames:
        return "no place known"
    last = (ours or frames)[-1]
    return f"{'/'.join(Path(last.filename).parts[-2:])}:{last.lineno}"


def _thread_ended(thread: threading.ExceptHookArgs) -> None:
    """Print one line for a thread that fails, too."""
    if thread.exc_value is not None and not isinstance(thread.exc_value, SystemExit):
        reported(thread.exc_value)
