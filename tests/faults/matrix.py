"""Verbs of the command line, what may befall them, and what holds afterwards. A cell is a verb, a fault and a moment.

In each cell the verb runs on its own copy of the inputs, the fault strikes, and the same command is given again, with the inputs as they
were. Then the results are those of a run that nothing befell, byte for byte; no traceback was shown, and what was said begins with
"chestmap: ".
"""

from __future__ import annotations

import hashlib
import multiprocessing
import os
import random
import resource
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import ModuleType

import cv2
import numpy as np

import chestmap.cli.data  # with what its verbs need, before a run forks
import chestmap.cli.predict

SECONDS = 600.0
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


def _called(arguments: Sequence[str], root: Path, said: Path, under: Under) -> None:
    """The command line in a process and a group of its own; its stderr becomes a file."""
    os.setsid()
    os.chdir(root)
    for number, path in ((1, os.devnull), (2, said)):
        stream = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(stream, number)
        os.close(stream)
    os.environ.update(QUIET)
    sys.modules["__main__"] = ModuleType("__main__")  # which the processes of this one would load again
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
    found: list[str] = field(default_factory=list)

    def begin(self, under: Under = NOTHING) -> BaseProcess:
        process = FORKS.Process(target=_called, args=(self.verb.arguments, self.root, self.log, under))
        process.start()
        return process

    def end(self, process: BaseProcess) -> int:
        process.join(SECONDS)
        if process.exitcode is None:
            os.killpg(process.pid or 0, signal.SIGKILL)
            process.join()
            self.found.append(f"a run of more than {SECONDS:g} s")
        self.code = process.exitcode or 0
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

    @property
    def log(self) -> Path:
        return self.root.with_name(f"{self.root.name}.log")

    @property
    def said(self) -> str:
        return self.log.read_text() if self.log.exists() else ""


def _signalled(number: signal.Signals) -> Strike:
    def strike(case: Case) -> None:
        process = case.begin()
        case.wait()
        case.strike(process, number)
        if number == signal.SIGSTOP:
            time.sleep(0.2)
            case.strike(process, signal.SIGCONT)
        case.end(process)

    return strike


def _limited(kind: str, least: int, most: int) -> Strike:
    return lambda case: case.run(Under(kind, round(least * (most / least) ** case.moment))) and None


def _clock(case: Case) -> None:
    case.run(Under(jump=case.chance.choice((-1, 1)) * 10 * 365 * 86400.0, after=case.moment * case.seconds))


def _read_only(case: Case) -> None:
    """A file where the results' folder should be: also the system's owner cannot write into it."""
    place = case.root / case.verb.results
    if place.exists():
        return
    place.write_text("")
    case.run()
    place.unlink()


def _input_changed(case: Case) -> None:
    """While it runs; afterwards it is as before, in content and time."""
    path = min((case.root / "films").glob("*.png"))
    content, status = path.read_bytes(), path.stat()
    process = case.begin()
    case.wait()
    path.write_bytes(content[: len(content) // 2])
    case.end(process)
    path.write_bytes(content)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def _kept_damaged(case: Case) -> None:
    """Of a half-made result, one file is flipped or cut."""
    process = case.begin()
    case.wait()
    case.strike(process, signal.SIGKILL)
    case.end(process)
    files = sorted(path for path in (case.root / case.verb.results).rglob("*") if path.is_file() and path.stat().st_size)
    if files:
        path = case.chance.choice(files)
        content = bytearray(path.read_bytes())
        place = case.chance.randrange(len(content))
        if case.chance.random() < 0.5:
            content[place] ^= 1 << case.chance.randrange(8)
        else:
            del content[place:]
        path.write_bytes(content)


def _two_at_once(case: Case) -> None:
    first = case.begin()
    case.wait(0.25)
    second = case.begin()
    for process in (first, second):
        case.end(process)


FAULTS: Mapping[str, Strike] = {
    "kill -9": _signalled(signal.SIGKILL),
    "SIGTERM": _signalled(signal.SIGTERM),
    "SIGSTOP": _signalled(signal.SIGSTOP),
    "full disk": _limited("RLIMIT_FSIZE", 64, 1 << 16),
    "read-only": _read_only,
    "low address space": _limited("RLIMIT_AS", 8 << 20, 1 << 30),
    "clock jump": _clock,
    "input changed": _input_changed,
    "kept file damaged": _kept_damaged,
    "two at once": _two_at_once,
}
ENDS = {0, 1, 2, 130, -signal.SIGKILL, -signal.SIGTERM, 128 + signal.SIGTERM}
"""Exit code 3, a fault of chestmap, is not among them."""
REFUSED = 2


def write_films(root: Path, count: int = 8) -> None:
    """Two films of each patient, and their labels."""
    films = root / "films"
    films.mkdir(parents=True)
    rows = ["image,patient_id,Mass"]
    random_numbers = np.random.default_rng(7)
    for number in range(count):
        cv2.imwrite(str(films / f"{number}.png"), random_numbers.integers(0, 256, (96, 80), dtype=np.uint8))
        rows.append(f"{number}.png,p{number // 2},{number % 3 % 2}")
    (films / "labels.csv").write_text("\n".join(rows) + "\n")
    for path in films.iterdir():
        os.utime(path, (1_700_000_000, 1_700_000_000))  # a pack keeps the times of its files


@dataclass(frozen=True)
class Undisturbed:
    """What a verb makes where nothing befalls it, and how long it takes."""

    results: Mapping[str, str]
    seconds: float


class Matrix:
    """Runs cells below a folder; a model folder is needed for slow verbs alone."""

    def __init__(self, folder: Path, model: Path | None = None) -> None:
        self.folder, self.model = folder, model
        self.known: dict[str, Undisturbed] = {}

    def _root(self, name: str) -> Path:
        root = self.folder / name
        write_films(root)
        if self.model:
            shutil.copytree(self.model, root / "model")
        return root

    def undisturbed(self, verb: str) -> Undisturbed:
        if verb not in self.known:
            case = Case(VERBS[verb], self._root(verb), random.Random(0), 0.0, 0.0)
            start = time.monotonic()
            if case.run() != 0:
                raise RuntimeError(f"{verb} without a fault: {case.said}")
            self.known[verb] = Undisturbed(kept(case.root / case.verb.results), time.monotonic() - start)
        return self.known[verb]

    def cell(self, verb: str, fault: str, moment: float) -> list[str]:
        """What does not hold; an empty list is a good cell."""
        expected = self.undisturbed(verb)
        name = f"{verb}-{fault}-{moment:.6f}".replace(" ", "-")
        case = Case(VERBS[verb], self._root(name), random.Random(name), moment, expected.seconds)
        FAULTS[fault](case)
        found = wrong(case, expected.results)
        shutil.rmtree(case.root)
        case.log.unlink(missing_ok=True)
        return found


def cells(count: int, *, slow: bool, seed: int = 0) -> list[tuple[str, str, float]]:
    """All pairs of verb and fault in turn, each time at other moments."""
    pairs = [(verb, fault) for verb, about in VERBS.items() for fault in FAULTS if slow or not about.slow]
    chance = random.Random(seed)
    chance.shuffle(pairs)
    return [(*pairs[number % len(pairs)], chance.random()) for number in range(count)]


def kept(folder: Path) -> dict[str, str]:
    """What a verb made, without what tells times: locks and files under way are no results.

    Of shards, which have their content in their names, those of the index are: a reader may still have the ones before open.
    """
    index = folder / "shards.json"
    named = index.read_text() if index.exists() else None
    return {name: content for name, content in _hashes(folder) if named is None or name == index.name or name in named}


def _hashes(folder: Path) -> Iterator[tuple[str, str]]:
    for path in sorted(folder.rglob("*")):
        if path.is_file() and not path.name.startswith(".") and not path.name.endswith(".lock"):
            yield str(path.relative_to(folder)), hashlib.sha256(path.read_bytes()).hexdigest()


def wrong(case: Case, expected: Mapping[str, str]) -> list[str]:
    """Gives the command again, and lists what does not hold."""
    found = [*case.found] if case.code in ENDS else [*case.found, f"exit code {case.code} under the fault"]
    before = len(case.said)
    if case.run() != 0:
        lines = case.said[before:].strip().splitlines()
        if case.code != REFUSED or not lines or not lines[-1].startswith("chestmap: "):
            found.append(f"exit code {case.code} the second time")
        shutil.rmtree(case.root / case.verb.results, ignore_errors=True)  # as the line asks for
        if case.run() != 0:
            found.append(f"exit code {case.code} from the start: {case.said[-300:]}")
    said = case.said
    found += [f"a traceback: {said[said.index('Traceback') :][:1500]}"] if "Traceback" in said else []
    after = kept(case.root / case.verb.results)
    found += [
        f"{name} is not as without the fault"
        for name in sorted({*after, *expected})
        if after.get(name) != expected.get(name)
    ][:3]
    return found
