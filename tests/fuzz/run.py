"""Mutated contents for every parser, by seed: `python -m fuzz.run --seconds 600` as `make fuzz` calls it.

Ends with exit code 1 where a parser raised something that is no refusal, took more than 5 seconds, or more than 1.5 GB; each such
content is kept in `fuzz-findings/`, and belongs into `corpus.py` once it is mended.
"""

from __future__ import annotations

import argparse
import hashlib
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

from fuzz.parsers import REFUSALS, Parser, parsers

HANG = 5.0  # seconds
REPORT = 30.0  # seconds between two lines of progress
ROOM = 1_500_000_000  # bytes of address space beyond what the imports took
MOST_BYTES = 1 << 20


class Hang(BaseException):
    """A parser took too long; no `Exception`, which a parser might catch."""


def mutated(chance: random.Random, parser: Parser) -> bytes:
    """One to five damages to a good content."""
    data = bytearray(chance.choice(parser.good))
    for _ in range(chance.randint(1, 5)):
        place = chance.randrange(len(data) + 1)
        match chance.randrange(6):
            case 0:
                del data[place : place + chance.choice((1, 2, 8, 40, 400))]
            case 1:
                data[place:place] = chance.choice(parser.words)
            case 2 if place < len(data):
                data[place] ^= 1 << chance.randrange(8)
            case 3:
                data[place:place] = data[chance.randrange(len(data) + 1) :][: chance.choice((4, 40, 400))]
            case 4:
                end = place + chance.randint(1, 8)
                data[place:end] = chance.randbytes(end - place)
            case _:
                data[place : place + 4] = chance.choice(parser.words)
    return bytes(data[:MOST_BYTES])


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


def campaign(seed: int, seconds: float, most: int, only: list[str], found: Path) -> tuple[Counter[tuple[str, str]], int]:
    """Counts by parser and outcome. Each input has its own seed, so that one alone can be made again."""
    known = {name: parser for name, parser in parsers().items() if not only or name in only}
    counts: Counter[tuple[str, str]] = Counter()
    limit_memory()
    start, number = time.monotonic(), 0
    report = start + REPORT
    with tempfile.TemporaryDirectory() as folder:
        while number < most and time.monotonic() - start < seconds:
            for name, parser in known.items():
                data = mutated(random.Random(f"{seed}/{name}/{number}"), parser)
                outcome = asked(parser, data, Path(folder))
                counts[name, outcome] += 1
                if outcome not in {"taken", "refused"}:
                    found.mkdir(exist_ok=True)
                    (found / f"{name}-{hashlib.sha256(data).hexdigest()[:12]}").write_bytes(data)
            number += 1
            if time.monotonic() > report:
                findings = sum(count for (_, outcome), count in counts.items() if outcome not in {"taken", "refused"})
                sys.stderr.write(
                    f"{sum(counts.values()):,} inputs, {findings:,} findings, {time.monotonic() - start:,.0f} s\n"
                )
                report += REPORT
    return counts, number


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--seconds", type=float, default=600)
    options.add_argument("--rounds", type=int, default=10**9, help="inputs for each parser, at most")
    options.add_argument("--seed", type=int, default=0)
    options.add_argument("--found", type=Path, default=Path("fuzz-findings"))
    options.add_argument("parser", nargs="*")
    given = options.parse_args()
    counts, number = campaign(given.seed, given.seconds, given.rounds, given.parser, given.found)
    for (name, outcome), count in sorted(counts.items()):
        sys.stdout.write(f"{name:12} {count:9,} {outcome}\n")
    sys.stdout.write(f"{sum(counts.values()):,} inputs in {number:,} rounds of seed {given.seed}\n")
    sys.exit(any(outcome not in {"taken", "refused"} for _, outcome in counts))


if __name__ == "__main__":
    main()
