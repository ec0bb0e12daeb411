"""What can go wrong, as a tree.

ChestmapError
├── BadInput            a file, table or setting from outside is not usable         exit code 2
│   ├── BadImage        one image cannot become a radiograph
│   ├── BadTable        a CSV, JSON or list of a dataset is not what its publisher describes
│   ├── BadSettings     a TOML file or ``--set`` holds mistakes (all of them at once)
│   ├── BadBox          a box without area, or with coordinates that are not numbers
│   ├── BadModel        a model, pack or predictions folder is damaged or from elsewhere
│   └── UnknownFinding  a finding that the vocabulary does not hold
├── Unreachable         a store of files gives nothing: its package or credentials are missing  exit code 2
├── Refused             what was asked would give a dishonest or mixed result       exit code 2
│   ├── Leak            a patient on both sides of a split
│   └── StepChanged     a recorded step was made with other settings, data or code
├── Diverged            training produced a number that is not finite               exit code 1
└── ProcessDied         one of the processes that train together ended              that of the process, or 1

Every message states what came, what is allowed and what to do, in one line.
"""

import re
from collections.abc import Iterable
from difflib import get_close_matches

LONG_WORD = re.compile(r"(\S{80})\S{320,}")


class ChestmapError(Exception):
    """Any error meant for the user; the message is the whole story."""

    exit_code = 2

    def __init__(self, message: object = "", *more: object) -> None:
        """Shortens words of many letters: a name of a damaged file would hide what the line is for."""
        super().__init__(LONG_WORD.sub(lambda word: f"{word[1]}… ({len(word[0]):,} letters)", str(message)), *more)


class BadInput(ChestmapError, ValueError):
    """Something from outside is not usable."""


class BadImage(BadInput):
    """One image cannot become a radiograph; the message starts with its name."""


class BadTable(BadInput):
    """A table or list of a dataset is not what its publisher describes."""


class BadSettings(BadInput):
    """One line for each mistake in a settings file and its overrides."""


class BadBox(BadInput):
    """A box without area, or with coordinates that are not finite numbers."""


class BadModel(BadInput):
    """A model, pack or predictions folder is damaged or was not made by chestmap."""


class UnknownFinding(BadInput, KeyError):
    """A finding that the vocabulary does not hold."""

    __str__ = Exception.__str__  # KeyError would print the repr


class Unreachable(ChestmapError):
    """A store gives nothing at all, so that there is no use in asking it for the next file."""


class Refused(ChestmapError):
    """What was asked would give a dishonest or mixed result."""


class Leak(Refused):
    """Two sides of a split share patients or images although it promises otherwise."""


class StepChanged(Refused):
    """A step recorded in a run folder was made with other settings, data or code."""


class Diverged(ChestmapError):
    """Training produced a number that is not finite."""

    exit_code = 1


class ProcessDied(ChestmapError):
    """One of the processes that train together ended; the others were ended with it."""

    def __init__(self, message: str, *, exit_code: int = 1) -> None:
        super().__init__(message)
        self.exit_code = exit_code


def did_you_mean(word: str, allowed: Iterable[str], *, count: int = 3) -> str:
    """A hint such as `; did you mean "Infiltration"?`, or nothing where no allowed word is near."""
    names = list(allowed)
    lowered = {name.lower(): name for name in names}
    near = get_close_matches(word.lower(), lowered, n=count, cutoff=0.6)
    if not near:
        return ""
    return "; did you mean " + " or ".join(f'"{lowered[name]}"' for name in near) + "?"
