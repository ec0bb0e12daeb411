"""The run folder: one process trains in it at a time, its steps are numbered, a step is whole or unfinished."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

from filelock import Timeout

from chestmap.errors import BadModel, Refused, StepChanged
from chestmap.storage.locks import lock_of
from chestmap.training.checkpoint import write_beside
from chestmap.training.step_record import Record, check_same

AGAIN = "delete its folder to make the step anew"
DONE = {"epochs", "measure", "score", "seconds", "images_per_second", "peak_memory_gb", "sha256"}
"""What the marker of a finished step holds."""


class Lock:
    """Keeps other trainings out of a run folder; ends with its process, however that ends. Loading processes do not inherit it."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._lock = lock_of((folder / "run.lock").resolve())
        try:
            self._lock.acquire(blocking=False)
        except Timeout:
            raise Refused(f"{folder}: another training runs here; wait for it, end it, or train in another folder") from None

    def release(self) -> None:
        self._lock.release()


def write_json(path: Path, value: object) -> None:
    write_beside(path, (json.dumps(value, indent=1) + "\n").encode())


def read_json(path: Path) -> dict[str, Any] | None:
    """None where there is no such file."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (ValueError, RecursionError) as error:
        raise BadModel(f"{path}: damaged ({error}); {AGAIN}") from None


def write_done(folder: Path, done: dict[str, Any]) -> None:
    """The marker of a finished step, with a hash of what it holds."""
    write_json(folder / "done.json", done | {"seal": _seal(done)})


def read_done(folder: Path) -> dict[str, Any] | None:
    """The marker, where there is one and it holds what was written; markers without a hash are of earlier versions."""
    path = folder / "done.json"
    done = read_json(path)
    if done is None:
        return None
    sealed = isinstance(done, dict) and done.pop("seal", None)
    if not isinstance(done, dict) or set(done) != DONE or (sealed is not None and sealed != _seal(done)):
        raise BadModel(f"{path}: damaged (it no longer holds what was written); {AGAIN}")
    return done


def _seal(done: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(done, sort_keys=True).encode()).hexdigest()[:16]


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
    check_same(folder, recorded, record, accept_code=accept_code)
    if write and recorded["code"] != record.code:
        write_json(folder / "step.json", record.as_json() | {"code_before": recorded["code"]})
    return True
