"""Every verb that needs a dataset takes a run folder alone: nobody types source, root, settings and split again."""

import shutil
from collections.abc import Iterator

import click
import numpy as np
import pytest
import typer
from PIL import Image
from typer.testing import CliRunner

from chestmap.api.model_names import model_folder
from chestmap.cli import app

CONFIG = """
[data]
source = {{ name = "folder", root = "{root}", labels = "labels.csv", boxes = "boxes.csv" }}
split = {{ name = "patients", validation = 0.4, test = 0.4 }}
pack = {{ width = 32, height = 32 }}
cache = "{cache}"

[method]
name = "cam"
"""
VERBS = {
    "predict": ("RUN", "--part", "test"),
    "evaluate": ("RUN", "--score-set", "resamples=20"),
    "compare": ("RUN", "OTHER"),
    "report": ("RUN", "--pictures", "1"),
    "model calibrate": ("RUN", "--least", "2"),
    "model card": ("RUN", "--predictions", "RUN/predictions", "--least", "2"),
    "model faithfulness": ("RUN", "--images", "1", "--steps", "2"),
}
OF_DATASETS = {"reproduce"}
"""Verbs that take a dataset and train on it."""


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run folder of the starter and of films of its own; each test gets a copy."""
    folder = tmp_path_factory.mktemp("run-folders")
    films, random = folder / "films", np.random.default_rng(1)
    films.mkdir()
    labels, boxes = ["image,patient_id,Mass,Effusion"], ["image,finding,x0,y0,x1,y1"]
    for number in range(40):
        Image.fromarray(random.integers(0, 255, (32, 32), dtype=np.uint8)).save(films / f"{number}.png")
        labels.append(f"{number}.png,p{number // 2},{number % 2},{number % 3 % 2}")
        boxes += [f"{number}.png,Mass,4,4,20,20"] * (number % 2)
    (films / "labels.csv").write_text("\n".join([*labels, ""]))
    (films / "boxes.csv").write_text("\n".join([*boxes, ""]))
    (folder / "run").mkdir()
    (folder / "run" / "config.toml").write_text(CONFIG.format(root=films, cache=folder / "cache"))
    shutil.copytree(model_folder("starter"), folder / "run" / "model")
    done = CliRunner().invoke(app, ["predict", str(folder / "run")])
    assert done.exit_code == 0, done.output
    return folder / "run"


def verbs_with(option: str) -> Iterator[str]:
    def walk(found: click.Command, words: tuple[str, ...]) -> Iterator[str]:
        for name, one in getattr(found, "commands", {}).items():
            yield from walk(one, (*words, name))
        if any(option in given.opts for given in found.params):
            yield " ".join(words)

    return walk(typer.main.get_command(app), ())


def test_no_verb_is_forgotten():
    assert set(verbs_with("--source")) - OF_DATASETS == set(VERBS)


@pytest.mark.parametrize("verb", VERBS)
def test_a_verb_takes_a_run_folder(verb, run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("RUN", "OTHER"):
        shutil.copytree(run, tmp_path / name)
    if verb == "predict":
        shutil.rmtree(tmp_path / "RUN" / "predictions")
    done = CliRunner().invoke(app, [*verb.split(), *VERBS[verb]])
    assert done.exit_code == 0, done.output
