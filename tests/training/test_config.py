"""One file says all, and every mistake in it is told at once."""

import pytest

from chestmap.errors import BadSettings
from chestmap.settings import with_overrides
from chestmap.training.config import config_of, read_config
from training.small import METHODS, small_tree


def mistakes(tree):
    with pytest.raises(BadSettings) as caught:
        config_of(tree, METHODS, name="run.toml")
    return str(caught.value).splitlines()


def test_mistakes_in_every_table_come_at_once(tmp_path):
    tree = {
        "run": {"sede": 1, "precision": "bf8"},
        "data": {"source": {"name": "folder"}, "split": {"name": "fold-9"}, "pack": {"widthx": 3}},
        "method": {"name": "small", "learn": {"epochs": 0}, "dropoutx": 0.1},
        "search": {"space": {"method.dropout": {"low": 2, "high": 1}, "method.x": []}},
        "modelx": {},
    }
    lines = mistakes(tree)
    expected = (
        "run.sede: not a setting", "run.precision: allowed: 32, bf16, fp16", "data.source.root: missing",
        "data.split.name: allowed: official", "data.pack.widthx: not a setting (got 3); did you mean", "method.learn.epochs: ",
        'method.dropoutx: not a setting (got 0.1); did you mean "dropout"', "search.space: method.dropout: 2 to 1: expected low",
        'modelx: not a setting (got {}); allowed: around, data, method, run, search',
    )  # fmt: skip
    for text in expected:
        assert any(line.startswith(f"run.toml: {text}") for line in lines), text
    assert len(lines) == len(expected)


@pytest.mark.parametrize("method", [{"name": "smallx"}, {}, "smallx", None])
def test_an_unknown_method_is_told_with_the_mistakes_elsewhere(method):
    tree = {"data": {"pack": {"width": 1}}} | ({"method": method} if method is not None else {})
    lines = mistakes(tree)
    assert lines[0].startswith("run.toml: method.name: allowed: small")
    assert any("data.source: missing" in line for line in lines)
    assert any("data.pack.width" in line for line in lines)


def test_the_written_config_reads_back_the_same(tmp_path):
    config = config_of(small_tree(tmp_path), METHODS, name="run.toml")
    config.write(tmp_path / "config.toml")
    again = read_config(tmp_path / "config.toml", [], METHODS)
    assert again.table.model_dump() == config.table.model_dump()
    assert again.settings.learn.epochs == 2


def test_overrides_reach_every_table(tmp_path):
    config_of(small_tree(tmp_path), METHODS, name="x").write(tmp_path / "run.toml")
    config = read_config(
        tmp_path / "run.toml", ["run.seed=7", "method.learn.learning_rate=1e-3", "data.split.seed=3"], METHODS
    )
    assert (config.run.seed, config.settings.learn.learning_rate, config.data.split.seed) == (7, 1e-3, 3)


def test_schedules_are_recorded_with_their_steps_only(tmp_path):
    config = config_of(small_tree(tmp_path), METHODS, name="x")
    assert config.lasting == {"name": "small", "dropout": 0.3}


def test_a_search_space_may_be_written_either_way(tmp_path):
    nested = {"method": {"dropout": {"low": 0.1, "high": 0.5, "log": True}, "learn": {"batch_size": [2, 4]}}}
    dotted = {"method.dropout": {"low": 0.1, "high": 0.5, "log": True}, "method.learn.batch_size": [2, 4]}
    configs = [
        config_of(small_tree(tmp_path) | {"search": {"space": space}}, METHODS, name="x") for space in (nested, dotted)
    ]
    assert configs[0].search == configs[1].search
    configs[0].write(tmp_path / "config.toml")
    assert read_config(tmp_path / "config.toml", [], METHODS).search == configs[1].search


def test_an_override_may_name_a_part_of_the_search(tmp_path):
    tree = with_overrides(small_tree(tmp_path), ["search.space.method.dropout=[0.1, 0.2]", "search.trials=2"])
    assert config_of(tree, METHODS, name="x").search.space == {"method.dropout": [0.1, 0.2]}
