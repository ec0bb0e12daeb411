"""Searches settings with Optuna. Every trial is an ordinary run in its own folder, so a killed search goes on.

search.db, config.toml    what was tried, and what was asked
trial-000/, …             runs
trials.csv, search.svg    all trials by score, and a picture: scores in their order, and over each setting
best.toml                 the config with the best settings on the original split

Any number of processes search together, each started with the same command. A trial with a dead process is tried again in its folder.
"""

from __future__ import annotations

import csv
import io
import os
import socket
import threading
import time
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import tomli_w
from rich.console import Console
from rich.table import Table

from chestmap.errors import BadInput, BadSettings, Diverged, StepChanged
from chestmap.settings import Tree
from chestmap.storage.atomic import write_bytes
from chestmap.storage.locks import in_turn
from chestmap.training.config import Config, config_of
from chestmap.training.method import Method
from chestmap.training.run_folder import read_done
from chestmap.training.search_plot import draw_search
from chestmap.training.search_settings import Range, SearchSettings
from chestmap.training.step_record import flat
from chestmap.training.train import train

if TYPE_CHECKING:
    from optuna import Study, Trial
    from optuna.storages import RDBStorage

HEARTBEAT = 30  # seconds; a trial that was silent for three of them is tried again
PAUSE = 2.0  # seconds between two looks at the trials of other processes


def search(config: Config, folder: Path, methods: Mapping[str, Method], *, progress: bool = True) -> Path:
    """Run the trials that are left; returns the path of best.toml."""
    settings = config.search
    if settings is None:
        raise BadSettings(f"{config.name}: search: missing; a search needs a [search] table with a [search.space] in it")
    if max(config.run.processes()) > 1:
        raise BadSettings(
            f"{config.name}: run.devices: a search trains in one process (got {config.run.devices}); set it to 1"
        )
    optuna = _optuna()
    with _turn(folder):  # two processes that make the same tables at once would fail
        storage = _storage(optuna, settings, folder)
        study = _study(optuna, config, settings, folder, storage)
    shared = _Search(optuna=optuna, study=study, config=config, folder=folder, methods=methods, progress=progress)
    while True:
        with _turn(folder):
            _requeue(optuna, study)
            running = study.get_trials(states=(optuna.trial.TrialState.RUNNING,))
            trial = _next(optuna, study, settings) if len(_done(optuna, study)) + len(running) < settings.trials else None
        if trial is not None:
            with _heartbeat(optuna, storage, trial):
                _run_trial(shared, trial)
        elif running:  # by other processes; one of them may die
            time.sleep(PAUSE)
        else:
            break
    with _turn(folder):
        return _write_results(optuna, study, config, folder, progress=progress)


@dataclass(frozen=True, kw_only=True)
class _Search:
    """What all trials of a search share."""

    optuna: ModuleType
    study: Study
    config: Config
    folder: Path
    methods: Mapping[str, Method]
    progress: bool


@contextmanager
def _turn(folder: Path) -> Iterator[None]:
    """One process at a time, for what takes moments; the system ends it with the process."""
    folder.mkdir(parents=True, exist_ok=True)
    with in_turn(folder / "search.lock"):
        yield


@contextmanager
def _heartbeat(optuna: ModuleType, storage: RDBStorage, trial: Trial) -> Iterator[None]:
    """Signal to the others that this trial's process lives."""
    ended = threading.Event()

    def beat() -> None:
        while True:
            with suppress(optuna.exceptions.StorageInternalError):  # a database that is away for a while
                storage.record_heartbeat(trial._trial_id)
            if ended.wait(HEARTBEAT):
                return

    thread = threading.Thread(target=beat, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def _optuna() -> ModuleType:
    try:
        import optuna
    except ModuleNotFoundError:
        raise BadInput('a search needs optuna: install "chestmap[search]"') from None
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna


def _storage(optuna: ModuleType, settings: SearchSettings, folder: Path) -> RDBStorage:
    url = settings.storage or f"sqlite:///{folder / 'search.db'}"
    waits = {"connect_args": {"timeout": 60}} if url.startswith("sqlite") else {"pool_pre_ping": True}
    with warnings.catch_warnings(action="ignore", category=optuna.exceptions.ExperimentalWarning):
        return optuna.storages.RDBStorage(url, engine_kwargs=waits, heartbeat_interval=HEARTBEAT, grace_period=3 * HEARTBEAT)


def _study(optuna: ModuleType, config: Config, settings: SearchSettings, folder: Path, storage: RDBStorage) -> Study:
    """A new one, or the one of this folder where everything but the number of trials is as it was."""
    pruners = {
        False: optuna.pruners.NopPruner,
        "median": lambda: optuna.pruners.MedianPruner(n_startup_trials=4),
        "halving": optuna.pruners.SuccessiveHalvingPruner,
    }
    study = optuna.create_study(
        storage=storage,
        study_name=settings.study,
        pruner=pruners["median" if settings.prune is True else settings.prune](),
        direction="maximize",
        load_if_exists=True,
    )
    asked = flat(config.table.model_dump(mode="json"))
    counts = {key: value for key, value in asked.items() if not key.startswith("run.") and key != "search.trials"}
    earlier = study.user_attrs.get("asked", counts)
    changed = sorted(key for key in {*earlier, *counts} if earlier.get(key) != counts.get(key))
    if changed:
        raise StepChanged(
            f"{folder}: this search was begun with other settings ({', '.join(changed)}); search in a new folder"
        )
    study.set_user_attr("asked", counts)
    config.write(folder / "config.toml")
    return study


def _requeue(optuna: ModuleType, study: Study) -> None:
    """Trials that were cut off are tried again in their folders: their process is gone from this machine, or silent."""
    state = optuna.trial.TrialState
    with warnings.catch_warnings(action="ignore", category=optuna.exceptions.ExperimentalWarning):
        optuna.storages.fail_stale_trials(study)
    for trial in study.get_trials(states=(state.RUNNING,)):
        if _is_gone(*trial.user_attrs.get("process", ("", 0))):
            study.tell(trial.number, state=state.FAIL)
    trials = study.get_trials()
    for trial in trials:
        place = trial.user_attrs.get("folder")
        again = any(other.number > trial.number and other.user_attrs.get("folder") == place for other in trials)
        if trial.state == state.FAIL and place and not again and "diverged" not in trial.user_attrs:
            study.enqueue_trial(trial.params, user_attrs={"folder": place})


def _is_gone(host: str, process: int) -> bool:
    """Only of this machine's processes; others are known by their heartbeat."""
    if host != socket.gethostname():
        return False
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        return False
    return False


def _next(optuna: ModuleType, study: Study, settings: SearchSettings) -> Trial:
    """A trial with its folder; what it draws depends on the seed and on how many there were, whichever process asks."""
    with warnings.catch_warnings(action="ignore", category=optuna.exceptions.ExperimentalWarning):
        study.sampler = optuna.samplers.TPESampler(seed=settings.seed + len(study.get_trials()), constant_liar=True)
        # optuna beats in its own loop alone; `_heartbeat` does here
        warnings.filterwarnings("ignore", message="Heartbeat of storage")
        trial = study.ask()
    trial.set_user_attr("process", [socket.gethostname(), os.getpid()])
    trial.set_user_attr("folder", trial.user_attrs.get("folder", f"trial-{trial.number:03d}"))
    return trial


def _done(optuna: ModuleType, study: Study) -> list[Any]:
    """Also those that diverged, which would diverge again."""
    state = optuna.trial.TrialState
    ended = study.get_trials(states=(state.COMPLETE, state.PRUNED, state.FAIL))
    return [trial for trial in ended if trial.state != state.FAIL or "diverged" in trial.user_attrs]


def _run_trial(search: _Search, trial: Trial) -> None:
    """Train one trial and record how it ended; one that was cut short is tried again later."""
    states, config, place = search.optuna.trial.TrialState, search.config, trial.user_attrs["folder"]
    assert config.search is not None
    tree = _with_values(config.tree, {key: _draw(trial, key, one) for key, one in config.search.space.items()})
    tree["data"]["split"] = config.search.split.model_dump(mode="json", exclude_none=True)
    observe, folder = _observer(search.optuna, trial), search.folder / place
    state, score = states.FAIL, None
    try:
        train(config_of(tree, search.methods, name=place), folder, progress=search.progress, observe=observe)
        score = _score(folder)
        state = states.COMPLETE
    except search.optuna.TrialPruned:
        state = states.PRUNED
    except Diverged as error:
        trial.set_user_attr("diverged", str(error))
    finally:
        search.study.tell(trial, score, state=state)


def _draw(trial: Trial, key: str, choices: Range | list[Any]) -> Any:
    if isinstance(choices, list):
        return trial.suggest_categorical(key, choices)
    if isinstance(choices.low, int) and isinstance(choices.high, int):
        return trial.suggest_int(key, choices.low, choices.high, log=choices.log)
    return trial.suggest_float(key, choices.low, choices.high, log=choices.log)


def _with_values(tree: Tree, values: Mapping[str, Any]) -> Tree:
    changed = deepcopy(tree)
    changed.pop("search", None)
    for key, value in values.items():
        *above, last = key.split(".")
        table = changed
        for part in above:
            table = table.setdefault(part, {})
        table[last] = value
    return changed


def _observer(optuna: ModuleType, trial: Trial) -> Any:
    """Reports each validation; raises where the trial falls behind."""
    seen = 0

    def observe(step: str, epoch: int, score: float) -> None:  # noqa: ARG001 -- steps follow each other in one count
        nonlocal seen
        seen += 1
        trial.report(score, seen)
        if trial.should_prune():
            raise optuna.TrialPruned

    return observe


def _score(run: Path) -> float:
    """Of the last step that was validated; greater is better."""
    steps = sorted(run.glob("*/done.json"), key=lambda path: int(path.parent.name.partition("-")[0]))
    scored = [done for path in steps if (done := read_done(path.parent)) and done["score"] is not None]
    if not scored:
        raise BadSettings(
            f'{run}: no step was validated; a search needs select "auc", "loss" or "iou" and a validation part'
        )
    return -scored[-1]["score"] if scored[-1]["measure"] == "loss" else scored[-1]["score"]


def _write_results(optuna: ModuleType, study: Study, config: Config, folder: Path, *, progress: bool) -> Path:
    trials = sorted(_done(optuna, study), key=lambda one: (one.value is None, -(one.value or 0.0)))
    keys = list(config.search.space) if config.search else []
    rows = [
        [one.user_attrs["folder"], one.state.name.lower(), "" if one.value is None else f"{one.value:.5f}"]
        + [f"{one.params[key]:.4g}" if isinstance(one.params[key], float) else str(one.params[key]) for key in keys]
        for one in trials
    ]
    text = io.StringIO()
    csv.writer(text).writerows([["trial", "state", "score", *keys], *rows])
    write_bytes(folder / "trials.csv", text.getvalue().encode())
    if trials[0].value is None:
        raise Diverged(f"{folder}: every trial diverged; narrow the search space, e.g. to lower learning rates")
    scored = sorted((one for one in trials if one.value is not None), key=lambda one: one.number)
    write_bytes(folder / "search.svg", draw_search([(one.value, one.params) for one in scored], keys).encode())
    best = _with_values(config.tree, trials[0].params)
    write_bytes(folder / "best.toml", tomli_w.dumps(best).encode())
    table = Table("trial", "state", "score", *keys)
    for row in rows:
        table.add_row(*row)
    Console(stderr=True, quiet=not progress).print(table)
    return folder / "best.toml"
