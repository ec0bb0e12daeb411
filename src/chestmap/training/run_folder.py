"""Keeps the run folder: one process trains in it at a time, steps are numbered, a step is whole or unfinished.

The lock keeps two processes from training in one folder. A step's folder without its marker is unfinished and goes on.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from filelock import Timeout

from chestmap.errors import BadModel, Refused, StepChanged
from chestmap.storage import json_file
from chestmap.storage.atomic import sweep, write_bytes
from chestmap.storage.locks import lock_of
from chestmap.storage.manifest import extend, is_sealed, seal, verified
from chestmap.training.step_record import Record, check_same

AGAIN = "delete its folder to make the step anew"
DONE = {"epochs", "measure", "score", "seconds", "images_per_second", "peak_memory_gb", "sha256"}
"""What the marker of a finished step holds."""

SEALED = ("step.json", "done.json", "weights.safetensors")


class Lock:
    """Keeps other trainings out of a run folder; ends with its process, however that ends. Loading processes do not inherit it."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._lock = lock_of((folder / "run.lock").resolve())
        try:
            self._lock.acquire(blocking=False)
        except Timeout:
            raise Refused(f"{folder}: another training runs here; wait for it, end it, or train in another folder") from None
        sweep(folder)

    def release(self) -> None:
        """Lets another process train in the folder."""
        self._lock.release()


def write_json(path: Path, value: object) -> None:
    """Writes JSON that may hold NaN, as diverged losses do; the file is whole or not there."""
    write_bytes(path, (json.dumps(value, indent=1) + "\n").encode())


def read_json(path: Path) -> dict[str, Any] | None:
    """None where there is no such file."""
    return json_file.read_json(path, AGAIN) if path.exists() else None


def write_done(folder: Path, done: dict[str, Any]) -> None:
    """The marker of a finished step, and the sums of what the step left."""
    write_json(folder / "done.json", done)
    seal(folder, [name for name in SEALED if (folder / name).exists()])


def read_done(folder: Path) -> dict[str, Any] | None:
    """The marker, where there is one and it holds what was written; a step without sums was stopped between its last two files."""
    path = folder / "done.json"
    if not path.exists():
        return None
    if is_sealed(folder):
        verified(folder, path.name, AGAIN)
    done = read_json(path)
    if not isinstance(done, dict) or set(done) != DONE:
        raise BadModel(f"{path}: damaged (it no longer holds what was written); {AGAIN}")
    if not is_sealed(folder):
        write_done(folder, done)
    return done


def step_folder(run: Path, number: int, name: str) -> Path:
    """`<number>-<name>`; another name under the same number means that the recipe is another one."""
    if not name.isidentifier():
        raise ValueError(f'step "{name}": expected a plain word')
    wanted = run / f"{number}-{name}"
    others = [
        entry.name for entry in run.glob(f"{number}-*") if entry.is_dir() and entry != wanted and "." not in entry.name
    ]
    if others:
        raise StepChanged(f"{run}: step {number} was {others[0]} and would now be {wanted.name}; train in a new folder")
    return wanted


def take_step(folder: Path, record: Record, others: Sequence[Path], *, trained: bool) -> Path | None:
    """Copy a finished step of the same name, made from the same settings, data, code and steps before; returns where it was."""
    wanted = record.as_json()
    for other in others:
        there = other / folder.name
        if there == folder or read_json(there / "step.json") != wanted or (trained and read_done(there) is None):
            continue
        beside = folder.with_name(folder.name + ".making")
        shutil.rmtree(beside, ignore_errors=True)
        shutil.copytree(there, beside, copy_function=_linked)
        beside.replace(folder)
        return there
    return None


def _linked(source: str, target: str) -> None:
    """A second name of the same file, or a copy where the file system knows none; finished steps are replaced, never changed."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)


def begin_step(folder: Path, record: Record, *, accept_code: bool, write: bool) -> dict[str, Any] | None:
    """Check or write what the step is made from; returns the done marker of a finished step."""
    if not is_begun(folder, record, accept_code=accept_code, write=write) and write:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        write_json(folder / "step.json", record.as_json())
    return read_done(folder)


def is_begun(folder: Path, record: Record, *, accept_code: bool, write: bool) -> bool:
    """Whether the step's folder is there; refused where it was made from something else."""
    recorded = read_json(folder / "step.json")
    if recorded is None:
        return False
    if is_sealed(folder):
        verified(folder, "step.json", AGAIN)
    check_same(folder, recorded, record, accept_code=accept_code)
    if write and recorded["code"] != record.code:
        write_json(folder / "step.json", record.as_json() | {"code_before": recorded["code"]})
        if is_sealed(folder):
            extend(folder, "step.json")
    return True
