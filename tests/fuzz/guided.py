"""Contents that reach new lines of a parser: `python -m fuzz.guided toml --seconds 60`. It needs atheris, which no extra installs.

Begins with the parser's good contents and with what once failed. Contents that are a finding are kept as `fuzz.run` keeps them.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["chestmap"]):
    from fuzz.corpus import CORPUS
    from fuzz.parsers import parsers
    from fuzz.run import GOOD, asked, keep, limit_memory


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--seconds", type=int, default=60)
    options.add_argument("--found", type=Path, default=Path("fuzz-findings"))
    options.add_argument("parser")
    given = options.parse_args()
    parser = parsers()[given.parser]
    folder = Path(tempfile.mkdtemp(prefix="guided"))
    seeds, work = folder / "seeds", folder / "work"
    for one in (seeds, work):
        one.mkdir()
    for number, content in enumerate([*parser.good, *(content for name, content in CORPUS if name == given.parser)]):
        (seeds / str(number)).write_bytes(content)

    def ask(data: bytes) -> None:
        if (outcome := asked(parser, data, work)) not in GOOD:
            keep(given.found, given.parser, data)
            sys.stdout.write(f"{given.parser}: {outcome}\n")

    limit_memory()
    atheris.Setup([sys.argv[0], f"-max_total_time={given.seconds}", "-print_final_stats=1", "-verbosity=0", str(seeds)], ask)
    atheris.Fuzz()  # ends the process


if __name__ == "__main__":
    main()
