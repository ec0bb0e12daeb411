"""A search of settings: its trials are runs, and a killed one goes on."""

import csv
import tomllib

import optuna
import pytest

from chestmap.errors import BadSettings, Refused
from chestmap.training import search as search_module
from chestmap.training.config import config_of
from chestmap.training.search import search
from training.small import METHODS, small_tree

SPACE = {"method.dropout": {"low": 0.0, "high": 0.5}, "method.learn.learning_rate": [1e-2, 1e-4]}


@pytest.fixture
def config(dataset):
    def make(**options):
        split = {"name": "patients", "validation": 0.4}
        return config_of(
            small_tree(dataset) | {"search": {"space": SPACE, "trials": 3, "split": split} | options}, METHODS, name="x.toml"
        )

    return make


def trials(folder):
    with (folder / "trials.csv").open() as file:
        return list(csv.DictReader(file))


def test_the_best_trial_becomes_a_config_on_the_first_split(config, dataset, tmp_path):
    best = search(config(), tmp_path, METHODS, progress=False)
    rows = trials(tmp_path)
    assert [row["trial"] for row in sorted(rows, key=lambda row: row["trial"])] == ["trial-000", "trial-001", "trial-002"]
    assert [float(row["score"]) for row in rows] == sorted((float(row["score"]) for row in rows), reverse=True)
    tree = tomllib.loads(best.read_text())
    assert f"{tree['method']['dropout']:.4g}" == rows[0]["method.dropout"]
    assert tree["data"]["split"] == small_tree(dataset)["data"]["split"]
    assert "search" not in tree
    assert (tmp_path / rows[0]["trial"] / "1-learn" / "done.json").exists()


def test_a_killed_search_goes_on_in_the_same_trial(config, tmp_path, monkeypatch):
    real, calls = search_module.train, []

    def killed(*arguments, **options):
        calls.append(arguments[1].name)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return real(*arguments, **options)

    monkeypatch.setattr(search_module, "train", killed)
    with pytest.raises(KeyboardInterrupt):
        search(config(), tmp_path, METHODS, progress=False)
    search(config(), tmp_path, METHODS, progress=False)
    assert calls[:3] == ["trial-000", "trial-001", "trial-001"]
    assert len(trials(tmp_path)) == 3
    study = optuna.load_study(study_name="search", storage=f"sqlite:///{tmp_path / 'search.db'}")
    assert study.trials[1].params == study.trials[2].params  # the values that were cut off are tried again


def test_more_trials_may_be_asked_for_but_nothing_else(config, tmp_path):
    search(config(trials=1), tmp_path, METHODS, progress=False)
    search(config(trials=2), tmp_path, METHODS, progress=False)
    assert len(trials(tmp_path)) == 2
    with pytest.raises(Refused, match=r"begun with other settings \(search.seed\)"):
        search(config(trials=2, seed=9), tmp_path, METHODS, progress=False)


def test_hopeless_trials_are_stopped(config, tmp_path, monkeypatch):
    monkeypatch.setattr(optuna.Trial, "should_prune", lambda trial: trial.number == 1)
    search(config(prune=True), tmp_path, METHODS, progress=False)
    assert {row["trial"]: row["state"] for row in trials(tmp_path)}["trial-001"] == "pruned"


def test_a_search_needs_a_space_and_a_score(config, dataset, tmp_path):
    with pytest.raises(BadSettings, match="a search needs a \\[search\\] table"):
        search(config_of(small_tree(dataset), METHODS, name="x.toml"), tmp_path, METHODS)
    tree = small_tree(dataset) | {"search": {"space": SPACE, "split": {"name": "patients"}}}
    tree["method"]["learn"]["select"] = "last"
    with pytest.raises(BadSettings, match="no step was validated"):
        search(config_of(tree, METHODS, name="x.toml"), tmp_path / "last", METHODS, progress=False)
