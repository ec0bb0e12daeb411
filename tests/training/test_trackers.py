"""What log.csv gets goes to the trackers, too; they are packages of others, which stand-ins record here without a network."""

import csv
import sys
from types import SimpleNamespace

import pytest

from chestmap.errors import BadInput, BadSettings
from chestmap.training.config import config_of
from chestmap.training.train import train
from training.small import METHODS, small_tree


@pytest.fixture
def calls(monkeypatch):
    """Stand-ins for both packages, as far as they are used."""
    found = {"wandb": [], "mlflow": [], "begun": [], "ended": []}
    run = SimpleNamespace(log=found["wandb"].append, finish=lambda: found["ended"].append("wandb"))
    wandb = SimpleNamespace(init=lambda **given: found["begun"].append(given) or run)
    mlflow = SimpleNamespace(
        set_experiment=lambda name: None,
        start_run=lambda run_name: found["begun"].append({"name": run_name}),
        log_params=lambda given: None,
        log_metrics=lambda values, step: found["mlflow"].append((values, step)),
        end_run=lambda: found["ended"].append("mlflow"),
    )
    monkeypatch.setitem(sys.modules, "wandb", wandb)
    monkeypatch.setitem(sys.modules, "mlflow", mlflow)
    return found


def test_both_get_what_the_csv_gets(dataset, tmp_path, calls):
    tree = small_tree(dataset)
    tree["run"]["trackers"] = ["wandb", "mlflow"]
    train(config_of(tree, METHODS, name="x"), tmp_path / "run", progress=False)
    with (tmp_path / "run" / "log.csv").open() as file:
        rows = {(row["step"] + "/" + row["name"], int(row["update"])): float(row["value"]) for row in csv.DictReader(file)}
    sent = {(name, step): value for values, step in calls["mlflow"] for name, value in values.items()}
    assert sent == pytest.approx(rows, rel=1e-5)
    assert {
        (name, line["update"]): value for line in calls["wandb"] for name, value in line.items() if name != "update"
    } == sent
    assert [one["name"] for one in calls["begun"]] == ["run", "run"]
    assert calls["ended"] == ["wandb", "mlflow"]


def test_a_missing_package_and_a_wrong_name_are_one_line(dataset, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    tree = small_tree(dataset)
    tree["run"]["trackers"] = ["wandb"]
    with pytest.raises(BadInput, match='"wandb" is not installed; pip install wandb'):
        train(config_of(tree, METHODS, name="x"), tmp_path / "run", progress=False)
    tree["run"]["trackers"] = ["wandd"]
    with pytest.raises(BadSettings, match='did you mean "wandb"'):
        config_of(tree, METHODS, name="x")
