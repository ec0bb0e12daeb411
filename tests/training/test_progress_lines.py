"""A training outside a terminal prints a line for each epoch; a mistyped backbone is refused before images are packed."""

import re
import shutil

import pytest

from chestmap.errors import BadSettings
from chestmap.methods import METHODS as ALL
from chestmap.training.config import config_of, read_config
from chestmap.training.train import train
from training.small import METHODS, small_tree


def test_a_line_for_each_epoch(dataset, tmp_path, capsys):
    train(config_of(small_tree(dataset), METHODS, name="x"), tmp_path / "run")
    lines = [line for line in capsys.readouterr().err.splitlines() if ": epoch" in line]
    number = r"\d+\.\d{4}"
    wanted = rf"1-learn: epoch \d/2 loss {number} validation_auc {number} best {number}, \d:\d\d:\d\d left"
    assert len(lines) == 2
    assert all(re.fullmatch(wanted, line) for line in lines)
    assert lines[1].endswith("0:00:00 left")


def test_an_image_that_cannot_be_read_is_named_before_the_first_epoch(dataset, tmp_path, capsys):
    films = tmp_path / "films"
    shutil.copytree(dataset, films)
    broken = min(films.glob("*.png"))
    broken.write_bytes(broken.read_bytes()[:100])
    train(config_of(small_tree(films), METHODS, name="x"), tmp_path / "run")
    lines = capsys.readouterr().err.splitlines()
    (place,) = (place for place, line in enumerate(lines) if "cannot be read, such as" in line)
    assert re.search(
        rf"note: 1 of \d+ images cannot be read, such as {broken.name}: .*; all are in .*set_aside.csv", lines[place]
    )
    assert place < next(place for place, line in enumerate(lines) if ": epoch" in line)


def test_a_mistyped_backbone_is_refused_before_anything_is_packed(dataset, tmp_path):
    tree = small_tree(dataset) | {"method": {"name": "cam", "backbone": {"name": "resnet50x"}}}
    tree["data"]["cache"] = str(tmp_path / "cache")
    with pytest.raises(BadSettings, match='backbone "resnet50x" is no model of timm'):
        train(config_of(tree, ALL, name="x"), tmp_path / "run", progress=False)
    assert not (tmp_path / "cache").exists()


def test_a_relative_folder_begins_at_the_file(dataset, tmp_path, monkeypatch):
    import tomli_w

    tree = small_tree(dataset)
    tree["data"]["source"]["root"], tree["data"]["cache"] = "films", "cache"
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "own.toml").write_text(tomli_w.dumps(tree))
    monkeypatch.chdir(tmp_path)
    read = read_config(tmp_path / "there" / "own.toml", [], METHODS).data
    assert (read.source.root, read.cache) == (tmp_path / "there" / "films", tmp_path / "there" / "cache")
    again = read_config(tmp_path / "there" / "own.toml", ["data.source.root=films"], METHODS).data
    assert str(again.source.root) == "films"
