"""A search of settings: its trials are runs, and a killed one goes on."""

import csv
import socket
import subprocess
import tomllib
from xml.etree import ElementTree

import optuna
import pytest

from chestmap.errors import BadSettings, Refused
from chestmap.training import search as search_module
from chestmap.training.config import config_of
from chestmap.training.search import search
from chestmap.training.search_plot import draw_search
from training.several import FORKS, finished
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


def begun(config, folder, process: tuple[str, int]) -> optuna.Study:
    """A search whose first trial runs in `process`."""
    storage = search_module._storage(optuna, config.search, folder)
    study = search_module._study(optuna, config, config.search, folder, storage)
    trial = search_module._next(optuna, study, config.search)
    trial.set_user_attr("process", list(process))
    storage.record_heartbeat(trial._trial_id)
    return study


def test_a_trial_whose_process_is_gone_is_tried_again_in_its_folder(config, tmp_path):
    ended = subprocess.Popen(["true"])
    ended.wait()
    study = begun(config(trials=1), tmp_path, (socket.gethostname(), ended.pid))
    search(config(trials=1), tmp_path, METHODS, progress=False)
    assert [trial.state.name for trial in study.get_trials()] == ["FAIL", "COMPLETE"]
    assert [row["trial"] for row in trials(tmp_path)] == ["trial-000"]


def test_a_trial_of_another_machine_is_waited_for_until_it_is_silent(config, tmp_path, monkeypatch):
    monkeypatch.setattr(search_module, "HEARTBEAT", 1)
    monkeypatch.setattr(search_module, "PAUSE", 0.2)
    study = begun(config(trials=1), tmp_path, ("elsewhere", 1))
    search(config(trials=1), tmp_path, METHODS, progress=False)
    assert [trial.state.name for trial in study.get_trials()] == ["FAIL", "COMPLETE"]


def test_halving_is_a_way_to_stop_trials(config, tmp_path):
    study = begun(config(prune="halving"), tmp_path, ("elsewhere", 1))
    assert isinstance(study.pruner, optuna.pruners.SuccessiveHalvingPruner)


def test_the_picture_holds_every_trial_in_every_panel():
    tried = [(0.5, {"rate": 1e-4, "kind": "a<b"}), (0.7, {"rate": 1e-1, "kind": "c"}), (0.6, {"rate": 1e-2, "kind": "c"})]
    tree = ElementTree.fromstring(draw_search(tried, ["rate", "kind"]))
    name = "{http://www.w3.org/2000/svg}"
    panels = tree.findall(f"{name}g")
    assert [len(panel.findall(f"{name}circle")) for panel in panels] == [3, 3, 3]
    words = [{text.text for text in panel.findall(f"{name}text")} for panel in panels]
    assert words[1] >= {"rate", "0.0001", "0.1", "0.5", "0.7"}
    assert words[2] >= {"kind", "a<b", "c"}
    across = [float(circle.get("cx")) for circle in panels[1].findall(f"{name}circle")]
    assert across[2] - across[0] == pytest.approx(2 * (across[1] - across[2]), abs=0.2)  # two decades, and one
    heights = [float(circle.get("cy")) for circle in panels[0].findall(f"{name}circle")]
    assert heights[1] < heights[2] < heights[0]
    assert len(ElementTree.fromstring(draw_search([(0.5, {})], [])).findall(f"{name}g")) == 1


def searching(tree: dict, folder) -> None:
    search(config_of(tree, METHODS, name="x.toml"), folder, METHODS, progress=False)


@pytest.mark.slow
def test_processes_search_together_from_the_first_moment(config, tmp_path):
    tree = config(trials=6).tree
    processes = [FORKS.Process(target=searching, args=(tree, tmp_path)) for _ in range(3)]
    for process in processes:
        process.start()
    finished(*processes)
    study = optuna.load_study(study_name="search", storage=f"sqlite:///{tmp_path / 'search.db'}")
    assert [trial.state.name for trial in study.get_trials()] == ["COMPLETE"] * 6
    assert len({tuple(trial.user_attrs["process"]) for trial in study.get_trials()}) > 1
    assert len({tuple(trial.params.values()) for trial in study.get_trials()}) == 6
    assert sorted(row["trial"] for row in trials(tmp_path)) == [f"trial-{number:03d}" for number in range(6)]
