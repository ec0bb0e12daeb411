"""Mutated contents for every parser, by seed: `python -m fuzz.run --seconds 600` as `make fuzz` calls it.

Ends with exit code 1 where a parser raised something that is no refusal, took more than 5 seconds, or more than 1.5 GB; each such
content is kept in `fuzz-findings/`, and belongs into `corpus.py` once it is mended.
"""

from __future__ import annotations

import argparse
import hashlib
import itertools
import json
import mmap
import os
import random
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from fuzz.mutations import damaged
from fuzz.parsers import REFUSALS, Parser, parsers

HANG = 5.0  # seconds
REPORT = 30.0  # seconds between two lines of progress
ROOM = 1_500_000_000  # bytes of address space beyond what the imports took
BATCH = 20  # rounds of a child
PLACE = 64  # bytes
GOOD = {"taken", "refused"}
MEMORY = Path("/dev/shm")
Counts = Counter[tuple[str, str]]


class Hang(BaseException):
    """A parser took too long; no `Exception`, which a parser might catch."""


def mutated(chance: random.Random, parser: Parser) -> bytes:
    """A good content, damaged in its bytes, or half of the time below its form."""
    good = chance.choice(parser.good)
    if parser.below and chance.random() < 0.5:
        return parser.below(chance, good)
    return damaged(chance, good, parser.words)


@contextmanager
def bounded() -> Iterator[None]:
    """`Hang` after some seconds of the parser's own time; real time would count what else the machine does."""

    def strike(_: int, __: FrameType | None) -> None:
        raise Hang

    before = signal.signal(signal.SIGVTALRM, strike)
    signal.setitimer(signal.ITIMER_VIRTUAL, HANG)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, before)


def limit_memory() -> None:
    try:
        import resource

        used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + ROOM, resource.getrlimit(resource.RLIMIT_AS)[1]))
    except (ImportError, OSError):
        sys.stderr.write("no limit of memory on this system\n")


def asked(parser: Parser, data: bytes, folder: Path) -> str:
    """ "taken", "refused", or what was raised instead, with its place."""
    try:
        with bounded():
            parser.ask(data, folder)
    except REFUSALS as refusal:
        said = str(refusal)
        return "refused" if len(said) < 2000 and "Traceback" not in said else f"a refusal of {len(said):,} letters"
    except Hang:
        return f"more than {HANG:g} s"
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt):
            raise
        frame = traceback.extract_tb(error.__traceback__)[-1]
        return f"{type(error).__name__}: {str(error)[:100]} at {Path(frame.filename).name}:{frame.lineno}"
    return "taken"


def content_of(seed: int, name: str, number: int, parser: Parser) -> bytes:
    """Each input has its own seed, so that one alone can be made again."""
    return mutated(random.Random(f"{seed}/{name}/{number}"), parser)


def batch(seed: int, rounds: range, known: dict[str, Parser], found: Path, place: mmap.mmap) -> Counts:
    """Some rounds in this process. What it asks is written to `place` first, for who finds it dead."""
    counts: Counts = Counter()
    with tempfile.TemporaryDirectory(dir=MEMORY if MEMORY.is_dir() else None) as folder:
        for number, (name, parser) in itertools.product(rounds, known.items()):
            for one in range(number * parser.each, (number + 1) * parser.each):
                data = content_of(seed, name, one, parser)
                place[:PLACE] = f"{name} {one}".ljust(PLACE).encode()
                signal.setitimer(signal.ITIMER_PROF, 2 * HANG)  # ends the process where compiled code hangs
                counts[name, outcome := asked(parser, data, Path(folder))] += 1
                if outcome not in GOOD:
                    keep(found, name, data)
    return counts


def keep(found: Path, name: str, data: bytes) -> None:
    found.mkdir(exist_ok=True)
    (found / f"{name}-{hashlib.sha256(data).hexdigest()[:12]}").write_bytes(data)


def in_child(seed: int, rounds: range, known: dict[str, Parser], found: Path) -> Counts:
    """The counts of a batch; a child that a parser killed is a finding."""
    place, (reading, writing) = mmap.mmap(-1, PLACE), os.pipe()
    if (child := os.fork()) == 0:
        code = 1
        try:
            os.close(reading)
            limit_memory()
            counts = batch(seed, rounds, known, found, place)
            with os.fdopen(writing, "w") as stream:
                json.dump([[*key, count] for key, count in counts.items()], stream)
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    os.close(writing)
    with os.fdopen(reading) as stream:
        said = stream.read()
    _, status = os.waitpid(child, 0)
    if os.waitstatus_to_exitcode(status) == 0:
        return Counter({(name, outcome): count for name, outcome, count in json.loads(said)})
    if os.waitstatus_to_exitcode(status) == 1:
        raise SystemExit(1)
    name, _, number = place[:PLACE].decode().strip().partition(" ")
    keep(found, name, content_of(seed, name, int(number), known[name]))
    return Counter({(name, f"the process ended with {os.waitstatus_to_exitcode(status)}"): 1})


def campaign(seed: int, seconds: float, most: int, only: list[str], found: Path) -> tuple[Counts, int]:
    """Counts by parser and outcome, and how many rounds were begun. Each child takes so many rounds that little is lost by its death."""
    known = {name: parser for name, parser in parsers().items() if not only or name in only}
    counts: Counts = Counter()
    start, number = time.monotonic(), 0
    report = start + REPORT
    while number < most and time.monotonic() - start < seconds:
        rounds = range(number, min(number + BATCH, most))
        counts += in_child(seed, rounds, known, found)
        number = rounds.stop
        if time.monotonic() > report:
            findings = sum(count for (_, outcome), count in counts.items() if outcome not in GOOD)
            sys.stderr.write(f"{sum(counts.values()):,} inputs, {findings:,} findings, {time.monotonic() - start:,.0f} s\n")
            report += REPORT
    return counts, number


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--seconds", type=float, default=600)
    options.add_argument("--rounds", type=int, default=10**9, help="at most; a round asks each parser several times")
    options.add_argument("--seed", type=int, default=0)
    options.add_argument("--found", type=Path, default=Path("fuzz-findings"))
    options.add_argument("parser", nargs="*")
    given = options.parse_args()
    os.environ |= {"POLARS_MAX_THREADS": "1", "OMP_NUM_THREADS": "1"}  # read when a child first needs them
    counts, number = campaign(given.seed, given.seconds, given.rounds, given.parser, given.found)
    for (name, outcome), count in sorted(counts.items()):
        sys.stdout.write(f"{name:12} {count:9,} {outcome}\n")
    sys.stdout.write(f"{sum(counts.values()):,} inputs in {number:,} rounds of seed {given.seed}\n")
    sys.exit(any(outcome not in GOOD for _, outcome in counts))


if __name__ == "__main__":
    main()
