"""Verbs of the command line, what may befall them, and what holds afterwards. A cell is a verb, a fault and a moment.

In each cell the verb runs on its own copy of the inputs, the fault strikes, and the same command is given again, with the inputs as they
were. Then the results are those of a run that nothing befell, byte for byte; no traceback was shown, and what was said begins with
"chestmap: ".
"""

from __future__ import annotations

import hashlib
import os
import random
import shutil
import signal
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from faults.cases import VERBS, Case, Strike, Under


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
    "low address space": _limited("RLIMIT_AS", 64 << 20, 1 << 30),
    "clock jump": _clock,
    "input changed": _input_changed,
    "kept file damaged": _kept_damaged,
    "two at once": _two_at_once,
}
ENDS = {0, 1, 2, 130, -signal.SIGKILL, -signal.SIGTERM, 128 + signal.SIGTERM}
"""Exit code 3, a fault of chestmap, is not among them."""
REFUSED = 2
NO_MEMORY = "memory allocation of"
"""How a library in Rust ends its process where it gets no memory; no program around it can hold it back."""


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
        return found


def cells(count: int, *, slow: bool, seed: int = 0) -> list[tuple[str, str, float]]:
    """All pairs of verb and fault in turn, each time at other moments."""
    pairs = [(verb, fault) for verb, about in VERBS.items() for fault in FAULTS if slow or not about.slow]
    chance = random.Random(seed)
    chance.shuffle(pairs)
    return [(*pairs[number % len(pairs)], chance.random()) for number in range(count)]


def kept(folder: Path) -> dict[str, str]:
    """What a verb made, without what tells times: locks and files under way are no results, nor are plans that a kill left.

    Of shards, which have their content in their names, those of the index are: a reader may still have the ones before open.
    """
    index = folder / "shards.json"
    named = index.read_text() if index.exists() else None
    return {name: content for name, content in _hashes(folder) if named is None or name == index.name or name in named}


def _hashes(folder: Path) -> Iterator[tuple[str, str]]:
    for path in sorted(folder.rglob("*")):
        parts = path.relative_to(folder).parts
        if (
            path.is_file()
            and not path.name.startswith(".")
            and not path.name.endswith(".lock")
            and ".making-" not in parts[0]
        ):
            yield str(path.relative_to(folder)), hashlib.sha256(path.read_bytes()).hexdigest()


def wrong(case: Case, expected: Mapping[str, str]) -> list[str]:
    """Gives the command again, and lists what does not hold."""
    ended = case.code in ENDS or (case.code == -signal.SIGABRT and case.said.startswith(NO_MEMORY))
    found = [*case.found] if ended else [*case.found, f"exit code {case.code} under the fault"]
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
