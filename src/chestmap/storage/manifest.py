"""Proves that kept files are what was written: SHA-256 sums of a folder's files, in the form of `sha256sum`.

A folder is there when its `SHA256SUMS` is: the file is written last. A reader verifies a file when it first uses it, and again
only where size, time or place on the disk changed. `sha256sum -c SHA256SUMS` gives the same answer.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Iterable, Mapping
from hashlib import file_digest, sha256
from pathlib import Path

from chestmap.errors import BadModel
from chestmap.storage.atomic import PART, write_bytes

SUMS = "SHA256SUMS"
LINE = re.compile(r"([0-9a-f]{64})  ([^\n]+)")
AGAIN = "copy or make it again"

SETTLED = 100_000_000
"""Nanoseconds after a change from which on another change shows in the file's time."""

State = tuple[str, int, int, int]
_hashes: dict[State, str] = {}


def seal(folder: Path, names: Iterable[str] | None = None) -> None:
    """Write the sums of a folder: of these files, else of every file in it and below."""
    chosen = sorted(_files(folder) if names is None else set(names))
    _write(folder, {name: sha256_of(folder / name) for name in chosen})


def extend(folder: Path, *names: str) -> None:
    """Add files to the sums of a folder, or bring their sums up to date."""
    _write(folder, {**sums_of(folder), **{name: sha256_of(folder / name) for name in names}})


def unseal(folder: Path) -> None:
    """Mark a folder as unfinished, before something in it changes."""
    (folder / SUMS).unlink(missing_ok=True)


def is_sealed(folder: Path) -> bool:
    """Whether a folder has its sums, and so is finished."""
    return (folder / SUMS).is_file()


def sums_of(folder: Path, remedy: str = AGAIN) -> dict[str, str]:
    """What the folder's files were when it was sealed: name to SHA-256."""
    try:
        text = (folder / SUMS).read_text(encoding="utf-8")
    except FileNotFoundError:
        raise BadModel(
            f"{folder}: no {SUMS}, so that nothing proves what is in it; {remedy}, "
            "or accept it as it is with `chestmap check --seal`"
        ) from None
    except (OSError, ValueError) as error:
        raise BadModel(f"{folder / SUMS}: cannot be read ({type(error).__name__}); {remedy}") from None
    found: dict[str, str] = {}
    for line in text.removesuffix("\n").split("\n"):
        match = LINE.fullmatch(line)
        if match is None or match[2] in found or not _is_inside(match[2]):
            raise BadModel(f"{folder / SUMS}: damaged; {remedy}")
        found[match[2]] = match[1]
    if not text.endswith("\n"):
        raise BadModel(f"{folder / SUMS}: cut short; {remedy}")
    return found


def verified(folder: Path, name: str, remedy: str = AGAIN) -> Path:
    """Gives the path of a kept file that is as it was written; refused otherwise.

    What is read from it later is not compared; `verified_bytes` leaves no such gap.
    """
    path, wanted = folder / name, sums_of(folder, remedy).get(name)
    if wanted is None:
        raise BadModel(f"{path}: not listed in {SUMS}; {remedy}")
    if sha256_of(path, remedy) != wanted:
        raise _changed(path, remedy)
    return path


def verified_bytes(folder: Path, name: str, remedy: str = AGAIN) -> bytes:
    """The content of a kept file, compared as it was read."""
    path, wanted = folder / name, sums_of(folder, remedy).get(name)
    if wanted is None:
        raise BadModel(f"{path}: not listed in {SUMS}; {remedy}")
    try:
        content = path.read_bytes()
    except OSError as error:
        raise BadModel(f"{path}: cannot be read ({error.strerror}); {remedy}") from None
    if sha256(content).hexdigest() != wanted:
        raise _changed(path, remedy)
    return content


def sha256_of(path: Path, remedy: str = AGAIN) -> str:
    """Hashes a file, once in a process while its path, size, time and inode stay the same.

    A file changed less than `SETTLED` ago is not remembered: the next change might leave its time as it is.
    """
    try:
        with path.open("rb") as file:
            status = os.fstat(file.fileno())
            state = str(path.absolute()), status.st_size, status.st_mtime_ns, status.st_ino
            if (known := _hashes.get(state)) is not None:
                return known
            settled = time.time_ns() - status.st_mtime_ns > SETTLED
            found = file_digest(file, "sha256").hexdigest()
            if settled:
                _hashes[state] = found
            return found
    except OSError as error:
        raise BadModel(f"{path}: cannot be read ({error.strerror}); {remedy}") from None


def damage_in(folder: Path, advance: Callable[[int], None] = lambda _: None, remedy: str = AGAIN) -> list[str]:
    """One line for each file that is missing or changed, whatever an earlier look found."""
    try:
        sums = sums_of(folder, remedy)
    except BadModel as problem:
        return [str(problem)]
    problems = []
    for name, wanted in sums.items():
        path = folder / name
        try:
            with path.open("rb") as file:
                if file_digest(file, "sha256").hexdigest() != wanted:
                    problems.append(str(_changed(path, remedy)))
        except OSError as error:
            problems.append(f"{path}: {error.strerror}; {remedy}")
        advance(1)
    return problems


def _changed(path: Path, remedy: str) -> BadModel:
    return BadModel(f"{path}: changed after it was written (its SHA-256 is not the one in {SUMS}); {remedy}")


def _files(folder: Path) -> set[str]:
    """Names all files at and below a folder but the sums, unfinished ones, and what is hidden."""
    found = (path for path in folder.rglob("*") if path.is_file())
    names = {path.relative_to(folder).as_posix() for path in found if not path.name.endswith(PART)}
    return {name for name in names if name != SUMS and not any(part.startswith(".") for part in name.split("/"))}


def _is_inside(name: str) -> bool:
    """Tells whether a listed name stays within the folder, so that no list leads a reader out of it."""
    return not name.startswith("/") and ".." not in name.split("/")


def _write(folder: Path, sums: Mapping[str, str]) -> None:
    """Writes the sums atomically, by name, in lines that `sha256sum -c` reads."""
    lines = (f"{sums[name]}  {name}\n" for name in sorted(sums))
    write_bytes(folder / SUMS, "".join(lines).encode("utf-8"))
