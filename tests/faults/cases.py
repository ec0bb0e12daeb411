"""Runs the command line below a folder of one's own, as a process in a group of its own that a fault may befall."""

from __future__ import annotations

import fcntl
import multiprocessing
import multiprocessing.process
import os
import random
import resource
import signal
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import ModuleType

import polars as _polars  # noqa: F401 -- loaded before a run forks, as are the verbs

import chestmap.cli.data
import chestmap.cli.predict

PIPE = 1 << 20  # bytes
SECONDS = 60.0
"""A run that takes longer hangs."""

QUIET = {"OMP_NUM_THREADS": "1", "POLARS_MAX_THREADS": "1", "NO_COLOR": "1"}
FORKS = multiprocessing.get_context("fork")
"""A run is a fork of this process, which has the modules loaded: so a fault falls into the work, hardly ever into an import."""


@dataclass(frozen=True)
class Verb:
    """`results` are kept files below the working folder that must be the same after all; `slow` ones load torch."""

    arguments: tuple[str, ...]
    results: str
    slow: bool = False


FILMS = ("folder", "films", "--set", "labels=labels.csv")
SMALL = ("--out", "out", "--width", "64", "--height", "64", "--workers", "1")
VERBS = {
    "split": Verb(("data", "split", *FILMS, "--out", "out", "--name", "patients"), "out"),
    "pack": Verb(("data", "pack", *FILMS, *SMALL), "out"),
    "shards": Verb(("data", "pack", *FILMS, *SMALL, "--shards", "shards", "--shard-mb", "0.01"), "shards"),
    "phantom": Verb(("data", "phantom", "out", "--images", "6", "--side", "64", "--seed", "3"), "out"),
    "predict": Verb(("predict", "model", "films", "--out", "out", "--workers", "0", "--write", "csv"), "out", slow=True),
}

Strike = Callable[["Case"], None]


@dataclass(frozen=True)
class Under:
    """What a run is under: a limit above what it has in use, a clock that jumps some seconds after its start."""

    limit: str = ""
    room: int = 0
    jump: float = 0.0
    after: float = 0.0

    def begin(self) -> None:
        if self.limit:
            pages = int(Path("/proc/self/statm").read_text().split()[0]) if self.limit == "RLIMIT_AS" else 0
            kind = getattr(resource, self.limit)
            resource.setrlimit(kind, (pages * resource.getpagesize() + self.room, resource.getrlimit(kind)[1]))
        if self.jump:
            real, start = time.time, time.time()
            time.time = lambda: real() + (self.jump if real() - start > self.after else 0.0)


def _called(arguments: Sequence[str], root: Path, said: int, under: Under) -> None:
    """The command line in a process and a group of its own; its stderr is a pipe, which no limit of files cuts."""
    os.setsid()
    os.chdir(root)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.dup2(said, 2)
    os.environ.update(QUIET)
    sys.modules["__main__"] = ModuleType("__main__")  # which the processes of this one would load again
    multiprocessing.process._parent_process = None  # a program of its own, as from a shell
    sys.argv = ["chestmap", *arguments]
    under.begin()
    chestmap.cli.main()


NOTHING = Under()


@dataclass
class Case:
    """A working folder in which one fault befalls one verb."""

    verb: Verb
    root: Path
    chance: random.Random
    moment: float  # share of the time that an undisturbed run takes
    seconds: float  # which is this
    code: int = 0
    said: str = ""
    pipes: dict[int, int] = field(default_factory=dict)
    found: list[str] = field(default_factory=list)

    def begin(self, under: Under = NOTHING) -> BaseProcess:
        said, saying = os.pipe()
        fcntl.fcntl(said, fcntl.F_SETPIPE_SZ, PIPE)
        process = FORKS.Process(target=_called, args=(self.verb.arguments, self.root, saying, under))
        process.start()
        os.close(saying)
        self.pipes[process.pid or 0] = said
        return process

    def end(self, process: BaseProcess) -> int:
        process.join(SECONDS)
        if process.exitcode is None:
            os.killpg(process.pid or 0, signal.SIGKILL)
            process.join()
            self.found.append(f"a run of more than {SECONDS:g} s")
        self.code = process.exitcode or 0
        said = self.pipes.pop(process.pid or 0)
        os.set_blocking(said, False)  # a process that is left may hold the other end
        with suppress(BlockingIOError):
            self.said += os.read(said, PIPE).decode(errors="replace")
        os.close(said)
        process.close()
        return self.code

    def run(self, under: Under = NOTHING) -> int:
        return self.end(self.begin(under))

    def strike(self, process: BaseProcess, number: signal.Signals) -> None:
        """Hits the whole group of processes, as a shell or a batch system does."""
        with suppress(ProcessLookupError):
            os.killpg(process.pid or 0, number)

    def wait(self, share: float = 1.0) -> None:
        time.sleep(share * self.moment * self.seconds)
